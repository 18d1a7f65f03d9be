"""The W&B report uses keys that the runs log, is built without a server, and is saved end to end."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import small_studies
from wandb_server import wandb_server

from losslab.cli import main
from losslab.report import summarise_folder
from losslab.report.page import CONTENTS
from losslab.report.wandb_report import build_wandb_report, varied_keys

pytest.importorskip("wandb")
pytest.importorskip("wandb_workspaces")
pytestmark = [
    pytest.mark.filterwarnings("ignore::Warning:wandb"),  # of wandb's own code: its dependencies' deprecations
    pytest.mark.filterwarnings("ignore::Warning:pydantic"),
]

STUDY = small_studies.GAMMA.replace("[0, 1, 2, 3, 4, 5]", "[0, 1]").replace("[0, 2, 5]", "[0, 2]")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Four trainings with offline W&B runs."""
    folder = tmp_path_factory.mktemp("wandb")
    kept = {name: os.environ.get(name) for name in ("WANDB_API_KEY", "NETRC", "WANDB_SILENT")}
    os.environ.pop("WANDB_API_KEY", None)
    os.environ |= {"NETRC": str(folder / "netrc"), "WANDB_SILENT": "true"}
    try:
        yield small_studies.run_study(folder, "a b's=study", STUDY, "--trainer.logger", "WandbLogger")
    finally:
        for name, value in kept.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def spec(study: Path) -> dict[str, Any]:
    """The report's content as it would be sent."""
    report = build_wandb_report(study, *summarise_folder(study), "me", "proj")
    return json.loads(report._to_model().spec.model_dump_json(by_alias=True, exclude_none=True))


def panels(content: dict[str, Any]) -> list[dict[str, Any]]:
    """The panels of all grids."""
    grids = [block for block in content["blocks"] if block["type"] == "panel-grid"]
    return [panel for grid in grids for panel in grid["metadata"]["panelBankSectionConfig"]["panels"]]


def test_it_has_the_pages_sections_and_native_panels(study: Path) -> None:
    content = spec(study)
    headings = [b["children"][0]["text"] for b in content["blocks"] if b["type"] == "heading"]
    assert headings == [f"{number} {title}" for number, (_, title) in enumerate(CONTENTS, 1)]
    kinds = {panel["viewType"] for panel in panels(content)}
    assert kinds == {
        "Bar Chart", "Run History Line Plot", "Parallel Coordinates Plot", "Parameter Importance", "Run Comparer",
        "Media Browser", "Weave",
    }  # fmt: skip
    markdown = " ".join(str(b.get("content", "")) for b in content["blocks"] if b["type"] == "markdown-block")
    assert "No verdict on 3 comparisons below 7 paired seeds; there are 2." in markdown
    assert "| gamma=2 |" in markdown


def test_its_runs_are_the_studys_alone_put_together_by_what_varies(study: Path) -> None:
    assert varied_keys(study, summarise_folder(study)[0].settings) == ["gamma"]
    for block in spec(study)["blocks"]:
        if block["type"] == "panel-grid":
            (runs,) = block["metadata"]["runSets"]
            (condition,) = runs["filters"]["filters"]
            assert (condition["key"], condition["op"]) == ({"section": "run", "name": "group"}, "=")
            assert condition["value"] == study.name
            assert runs["grouping"] == [{"section": "config", "name": "gamma.value"}]


def logged(study: Path) -> tuple[set[str], set[str]]:
    """The keys of metrics and of the configuration that the first run logged, by W&B's own reader."""
    file = next(study.rglob("run-*.wandb"))
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json", str(file)]
    shown = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return set(shown["summary"]), set(shown["config"])


def test_its_panels_name_only_keys_that_runs_log(study: Path) -> None:
    metrics, config = logged(study)
    seen = 0
    for panel in panels(spec(study)):
        found = panel["config"]
        keys = [*found.get("metrics", []), *found.get("mediaKeys", [])]
        keys += [found[name] for name in ("xAxis", "targetKey") if name in found]
        keys += [
            c["accessor"].removeprefix("summary:") for c in found.get("columns", []) if "summary:" in c["accessor"]
        ]
        assert set(keys) <= metrics, panel["viewType"]
        for column in found.get("columns", []):
            if column["accessor"].startswith(("c::", "config:")):
                assert column["accessor"].split(":")[-1].removesuffix(".value") in config
        if panel["viewType"] == "Weave":
            assert any(f'"{key}"' in json.dumps(found) for key in ("per_class", "confusion_table"))
        seen += len(keys)
    assert seen > 25
    assert {"per_class", "confusion_table", "misclassified"} <= metrics


def test_without_a_key_nothing_is_sent_and_the_message_says_so(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(study), "--wandb", "proj"]) == 2
    assert "--wandb needs a key: set WANDB_API_KEY" in capsys.readouterr().err


@pytest.mark.parametrize("project", ["proj", "me/proj"])
def test_a_report_is_saved_end_to_end(study: Path, project: str) -> None:
    with wandb_server() as server:
        changed = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": "x" * 40, "NO_PROXY": "127.0.0.1"}
        command = [sys.executable, "-m", "losslab", "report", str(study), "--wandb", project]
        done = subprocess.run(command, env=os.environ | changed, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1].startswith(f"{server.url}/me/proj/reports/")
        (report,) = server.reports
    assert (report["entityName"], report["projectName"]) == ("me", "proj")
    sent, built = json.loads(report["spec"]), spec(study)
    assert [block["type"] for block in sent["blocks"]] == [block["type"] for block in built["blocks"]]
    assert [p["viewType"] for p in panels(sent)] == [p["viewType"] for p in panels(built)]
