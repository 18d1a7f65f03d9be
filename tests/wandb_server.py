"""A stand-in for W&B's server on the loopback, with one user and one project; it keeps the reports it receives."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

USER = {
    "id": "u", "name": "me", "username": "me", "email": "me@example.org", "admin": False, "flags": "{}", "entity": "me",
    "deletedAt": None, "apiKeys": {"edges": []}, "teams": {"edges": [{"node": {"name": "me"}}]},
}  # fmt: skip
PROJECT = {
    "id": "p", "name": "proj", "entityName": "me", "createdAt": "2026-01-01T00:00:00", "isBenchmark": False,
    "user": USER,
}  # fmt: skip


class Server:
    """The stand-in's address and the requests that it received.

    Args:
        url: its address.
        reports: the variables of every saved report.
        requests: the path of every request.
    """

    def __init__(self) -> None:
        self.reports: list[dict[str, Any]] = []
        self.requests: list[str] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                owner.requests.append(self.path)
                content = json.dumps({"data": owner.answer(body)}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def answer(self, body: bytes) -> dict[str, Any]:
        """Return the data of a GraphQL query; {} for telemetry."""
        try:
            request = json.loads(body)
        except ValueError:
            return {}
        query, variables = request.get("query", ""), request.get("variables") or {}
        if "upsertView" in query:
            self.reports.append(variables)
            view = {
                "id": "VmlldzoxMjM=", "name": "n", "displayName": variables["displayName"], "type": "runs",
                "description": "", "project": {"name": "proj", "entityName": "me"}, "spec": variables["spec"],
                "createdAt": "2026-01-01T00:00:00", "updatedAt": "2026-01-01T00:00:00",
            }  # fmt: skip
            return {"upsertView": {"view": view, "inserted": True}}
        if "GetProjects" in query:
            page = {"endCursor": "c", "hasNextPage": False}
            return {"models": {"edges": [{"cursor": "c", "node": PROJECT}], "pageInfo": page}}
        return {"viewer": USER}


@contextmanager
def wandb_server() -> Iterator[Server]:
    """Run the stand-in, and stop it at the end."""
    server = Server()
    thread = threading.Thread(target=server._server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server._server.shutdown()
        server._server.server_close()
        thread.join()
