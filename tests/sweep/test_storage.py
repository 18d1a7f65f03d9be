"""A password never shows; a database that goes away and comes back costs nothing but time."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest
from optuna.exceptions import StorageInternalError
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from small_studies import GRID, GRID_PLANNED, LR, TUNED, TUNED_EXPERIMENT, trained
from sqlalchemy.exc import DataError, OperationalError, PendingRollbackError

from losslab.cli import main
from losslab.errors import UserError
from losslab.run import Interrupted, Interruption
from losslab.study import read_results
from losslab.sweep import storage as storage_module
from losslab.sweep.ownership import Lease
from losslab.sweep.storage import JournalLock, PatientStorage, error_line, hide_password, open_storage, repair_journal
from losslab.sweep.workers import PARENT, STORAGE


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://user:s3cr%40t@localhost/db",
        "postgresql://localhost/db?user=user&password=s3cr%40t",
    ],
)
def test_neither_form_of_a_password_is_shown(url: str) -> None:
    assert "s3cr" not in hide_password(url)
    assert "localhost/db" in hide_password(url)
    for form in ("s3cr@t", "s3cr%40t"):
        assert error_line(RuntimeError(f"no {form} here"), url) == "no *** here"


def test_a_url_that_cannot_be_read_is_not_repeated() -> None:
    with pytest.raises(UserError, match="must be 'journal' or a URL") as raised:
        open_storage("postgresql://user:sec/ret@localhost:x/db", Path())
    assert "sec" not in str(raised.value).replace("special", "")


def test_a_password_reaches_no_record_and_no_message(
    tiny_mlp: list[str], own_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (own_folder / "study.yaml").write_text(GRID)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"postgresql://user:s3cr%40t@127.0.0.1:{port}/db"
    assert main(["sweep", "--config", "study.yaml", "--storage", url]) == 2
    printed = capsys.readouterr()
    assert f"the study's storage postgresql://user:***@127.0.0.1:{port}/db cannot be opened" in printed.err
    record = json.loads(Path("runs/study/study.json").read_text())
    assert record["study"]["storage"] == f"postgresql://user:***@127.0.0.1:{port}/db"
    for text in (printed.out, printed.err, *(f.read_text() for f in Path("runs").rglob("*") if f.is_file())):
        assert "s3cr" not in text


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'losslab\[postgres\]'"):
        open_storage("postgresql://localhost/db", Path())


def lost_connection() -> None:
    raise OperationalError("SELECT", {}, Exception("server closed the connection"))


def lost_connection_in_a_commit() -> None:
    try:
        lost_connection()
    except OperationalError as error:
        raise StorageInternalError("An exception is raised during the commit.") from error


def lost_connection_and_asked_again() -> None:
    """As Optuna reads trials: after a failed query it tries a slower one, on the connection that is gone."""
    try:
        try:
            lost_connection()
        except OperationalError:
            raise PendingRollbackError("Can't reconnect until invalid transaction is rolled back.")  # noqa: B904
    except PendingRollbackError as error:
        raise StorageInternalError("An exception is raised during the commit.") from error


@pytest.mark.parametrize("fail", [lost_connection, lost_connection_in_a_commit, lost_connection_and_asked_again])
def test_a_call_is_repeated_until_the_database_answers(
    fail: Callable[[], None], own_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(storage_module.time, "sleep", lambda _: None)
    storage = PatientStorage("sqlite:///study.db")
    failures = 3

    def away(self: RDBStorage) -> list[object]:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            fail()
        return []

    monkeypatch.setattr(PatientStorage, "get_all_studies", storage_module.patient(away))
    assert storage.get_all_studies() == []
    assert storage.answers_since == pytest.approx(time.time(), abs=10)
    printed = capsys.readouterr().out
    assert printed.count("The database does not answer") == printed.count("The database answers again") == 1
    assert "server closed the connection" in printed

    monkeypatch.setattr(storage_module, "PATIENCE_SECONDS", -1.0)
    failures = 10**9
    with pytest.raises(UserError, match="Finished results are on disk"):
        storage.get_all_studies()


def test_only_a_database_that_is_known_to_be_one_is_waited_for_at_the_start(
    tiny_mlp: list[str], own_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(storage_module.time, "sleep", lambda _: None)
    failures = 2

    class StartsLate(PatientStorage):
        def __init__(self, *arguments: object, **named: object) -> None:
            nonlocal failures
            failures -= 1
            if failures >= 0:
                lost_connection_in_a_commit()
            super().__init__(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(storage_module, "PatientStorage", StartsLate)
    with pytest.raises(UserError, match="cannot be opened"):
        open_storage("sqlite:///study.db", own_folder)
    failures = 2
    assert isinstance(open_storage("sqlite:///study.db", own_folder, wait=True), PatientStorage)
    assert capsys.readouterr().out.count("The database does not answer") == 1

    (own_folder / "study.yaml").write_text(GRID)
    sweep = ["sweep", "--config", "study.yaml", "--seeds", "0"]
    assert main([*sweep, "--storage", "sqlite:///study.db"]) == 0
    monkeypatch.setenv(PARENT, str(os.getppid()))  # a worker's storage was opened by its parent
    monkeypatch.setenv(STORAGE, "sqlite:///study.db")
    failures = 2
    assert main(sweep) == 0
    assert capsys.readouterr().out.count("The database does not answer") == 1


def test_what_the_database_refuses_is_not_repeated(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: RDBStorage) -> list[object]:
        try:
            raise DataError("INSERT", {}, Exception("value too long"))
        except DataError as error:
            raise StorageInternalError("An exception is raised during the commit.") from error

    storage = PatientStorage("sqlite:///study.db")
    monkeypatch.setattr(PatientStorage, "get_all_studies", storage_module.patient(refused))
    with pytest.raises(StorageInternalError):
        storage.get_all_studies()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_ends_the_waiting_where_signals_are_only_noted(
    number: signal.Signals, own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = PatientStorage("sqlite:///study.db")
    study = optuna.create_study(storage=storage)
    pauses: list[float] = []

    def signalled(pause: float) -> None:
        pauses.append(pause)
        assert len(pauses) < 10, "it waits on"
        if len(pauses) % 3 == 0:
            os.kill(os.getpid(), number)

    def away(self: RDBStorage, *arguments: object, **named: object) -> None:
        lost_connection()

    with Interruption(None) as noted:
        noting = signal.getsignal(number)
        with pytest.raises(Interrupted) as stopped, Lease(storage) as lease:  # noqa: PT012 - its end must not wait
            lease.hold(study.ask())
            monkeypatch.setattr(storage_module.time, "sleep", signalled)
            monkeypatch.setattr(PatientStorage, "set_trial_user_attr", storage_module.patient(away))
            lease.hold(study.ask())
        assert signal.getsignal(number) == noting
    assert noted.received is None
    assert stopped.value.exit_code == 128 + number
    assert len(pauses) == 3, "the lease is not given back to a database that is away"


class Server:
    """A PostgreSQL server in a folder, run by a user without rights, on a port of its own."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs, self._folder = programs, folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        # The server refuses to be root's.
        self._as = ["setpriv", "--reuid=nobody", "--clear-groups", "--"] if os.geteuid() == 0 else []
        if self._as:
            shutil.chown(folder, "nobody")
        (folder / "password").write_text("s3cr@t\n")
        (folder / "password").chmod(0o644)
        self._call(
            "initdb", "-D", folder / "data", "-U", "losslab", "-A", "scram-sha-256", "--pwfile", folder / "password"
        )
        self.url = f"postgresql://losslab:s3cr%40t@127.0.0.1:{self.port}/postgres"

    def _call(self, program: str, *arguments: str | Path) -> None:
        command = [*self._as, str(self._programs / program), *map(str, arguments)]
        done = subprocess.run(command, cwd=self._folder, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> None:
        options = f"-h 127.0.0.1 -p {self.port} -c unix_socket_directories={self._folder}"
        log = self._folder / "log"
        command = ["-w", "-D", self._folder / "data", "-l", log, "-o", options, "start"]
        # A daemon keeps the pipes open that it inherits, so it gets none.
        full = [*self._as, str(self._programs / "pg_ctl"), *map(str, command)]
        quiet = subprocess.DEVNULL
        assert subprocess.run(full, cwd=self._folder, stdout=quiet, stderr=quiet, check=False).returncode == 0

    def stop(self) -> None:
        self._call("pg_ctl", "-D", self._folder / "data", "-m", "immediate", "stop")


@pytest.fixture
def server() -> Iterator[Server]:
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    initdb = programs[-1] if programs else Path(shutil.which("initdb") or "")
    if not initdb.is_file():
        message = "needs a PostgreSQL server: apt-get install postgresql"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(message)
    # Not under pytest's own folder, which is closed to the server's user.
    with tempfile.TemporaryDirectory() as folder:
        server = Server(initdb.parent, Path(folder))
        server.start()
        yield server
        server.stop()


@pytest.mark.slow
def test_two_workers_go_on_when_postgresql_is_restarted(
    tiny_mlp: list[str], own_folder: Path, server: Server, repository: Path
) -> None:
    (own_folder / "study.yaml").write_text(GRID)
    parent = started(sweep(server, 2), repository)
    try:
        wait_for(lambda: bool(read_results(Path("runs/study"))), parent)
        server.stop()
        before = len(read_results(Path("runs/study")))
        assert before < 8
        logs = [Path(f"runs/study/workers/{place}.log") for place in (0, 1)]
        # The other one may wait for the study's lock, which the first one holds.
        wait_for(lambda: any("The database does not answer" in log.read_text() for log in logs), parent)
        server.start()
        assert parent.wait(200) == 0, Path("output.txt").read_text()
    finally:
        if parent.poll() is None:
            parent.send_signal(signal.SIGINT)
            parent.wait(60)
    printed = Path("output.txt").read_text()
    assert trained("study") == GRID_PLANNED
    assert "died" not in printed
    assert printed.count("runs/study/best.yaml:") == 1
    for text in (printed, *(f.read_text() for f in Path("runs").rglob("*") if f.suffix in (".log", ".json", ".yaml"))):
        assert "s3cr" not in text


@pytest.mark.slow
def test_two_workers_tune_each_seed_over_postgresql(own_folder: Path, server: Server, repository: Path) -> None:
    (own_folder / "tiny.yaml").write_text(TUNED_EXPERIMENT)
    (own_folder / "study.yaml").write_text(TUNED)
    assert started(sweep(server, 2), repository).wait(300) == 0, Path("output.txt").read_text()
    results = read_results(Path("runs/study"))
    tried: dict[tuple[str, int], dict[float, float]] = {}
    for result in results:
        of_seed = tried.setdefault((result["setting"]["arm"], result["seed"]), {})
        of_seed[result["setting"]["values"][LR]] = result["metrics"]["val/f1/macro"]
    assert len(tried) == 6
    for scores in tried.values():
        best = max(scores, key=lambda rate: scores[rate])
        assert min(scores) < best < max(scores) or len(scores) == 11  # at the end of the range


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_is_answered_while_postgresql_is_away(
    workers: int, tiny_mlp: list[str], own_folder: Path, server: Server, repository: Path
) -> None:
    (own_folder / "study.yaml").write_text(GRID)
    parent = started(sweep(server, workers), repository)
    wait_for(lambda: bool(read_results(Path("runs/study"))), parent)
    server.stop()
    try:
        wait_for(lambda: "The database does not answer" in Path("output.txt").read_text(), parent)
        parent.send_signal(signal.SIGINT)
        assert parent.wait(60) == 130, Path("output.txt").read_text()
    finally:
        server.start()
        parent.kill()
        parent.wait()
    said = Path("output.txt").read_text()
    assert "the same command goes on from here" in said
    assert "Traceback" not in said
    assert started(sweep(server, workers), repository).wait(240) == 0, Path("output.txt").read_text()
    assert trained("study") == GRID_PLANNED


def sweep(server: Server, workers: int) -> list[str]:
    words = ["--config", "study.yaml", "--trainer.max_epochs", "4", "--workers", str(workers)]
    return [sys.executable, "-m", "losslab", "sweep", *words, "--storage", server.url]


def started(command: list[str], repository: Path) -> subprocess.Popen[bytes]:
    """What the command says goes to output.txt."""
    path = f"{repository / 'src'}{os.pathsep}{repository / 'tests'}"
    with Path("output.txt").open("w") as output:
        return subprocess.Popen(
            command, env=os.environ | {"PYTHONPATH": path}, stdout=output, stderr=output,
            # Where a shell runs the tests in the background, Ctrl-C is ignored, and so it would be here.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, Path("output.txt").read_text()
        assert time.monotonic() < end, Path("output.txt").read_text()
        time.sleep(0.05)


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    path = tmp_path / "journal.log"
    study = optuna.create_study(study_name="s", storage=JournalStorage(JournalFileBackend(str(path))))
    for x in range(3):
        study.enqueue_trial({"x": x})
        trial = study.ask()
        study.tell(trial, trial.suggest_int("x", 0, 9))
    return path


def open_study(journal: Path) -> optuna.Study:
    storage = JournalStorage(JournalFileBackend(str(journal), JournalLock(journal)))
    return optuna.load_study(study_name="s", storage=storage)


def test_cut_at_every_byte_of_its_last_two_lines_it_can_be_read_and_written_again(journal: Path) -> None:
    whole = journal.read_bytes()
    lines = whole.splitlines(keepends=True)
    torn = journal.with_name("journal.log.torn")
    for cut in range(1, len(lines[-1]) + len(lines[-2])):
        torn.unlink(missing_ok=True)
        journal.write_bytes(whole[:-cut])
        repair_journal(journal)
        study = open_study(journal)
        assert len(study.trials) == 3
        assert [trial.params["x"] for trial in study.trials[:2]] == [0, 1]
        study.tell(study.ask(), 1.0)
        assert open_study(journal).trials[-1].value == 1.0
        if cut == len(lines[-1]):  # a line less, and whole
            assert not torn.exists()
        else:
            assert torn.read_bytes() == whole[:-cut]


def test_a_line_that_is_cut_while_others_work_is_mended_by_the_next_writer(journal: Path) -> None:
    study = open_study(journal)
    with journal.open("ab") as file:
        file.write(b'{"op_code": 4, "study_')
    assert len(study.trials) == 3
    study.tell(study.ask(), 2.0)
    assert [trial.value for trial in study.trials] == [0.0, 1.0, 2.0, 2.0]
    assert open_study(journal).trials[-1].value == 2.0


def test_a_whole_journal_is_left_alone(journal: Path) -> None:
    whole = journal.read_bytes()
    repair_journal(journal)
    assert journal.read_bytes() == whole
    assert not journal.with_name("journal.log.torn").exists()
