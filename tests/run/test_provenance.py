"""Every look at the test images is counted, and found again; a run records the code that it was trained with."""

import importlib.metadata
import json
import subprocess
from pathlib import Path

import pytest
import torch
from new_process import forget, write_loss

from losslab.cli import main
from losslab.run import RunFolder, config_hash, earlier_reads, git_state, provenance
from losslab.run.provenance import conditions, float32_precision, note_test_read

CONFIG = {"seed_everything": 1, "model": {"class_path": "MLP"}}


def test_a_read_is_found_by_its_configuration_and_data() -> None:
    assert earlier_reads({config_hash(CONFIG)}, "pets") == []
    note_test_read(CONFIG, "pets", Path("runs/a"))
    note_test_read({**CONFIG, "seed_everything": 2}, "pets", Path("runs/b"))
    (read,) = earlier_reads({config_hash(CONFIG)}, "pets")
    assert read["run"] == "runs/a"
    assert earlier_reads({config_hash(CONFIG)}, "other pets") == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"fast_dev_run": 0, "limit_val_batches": 1.0, "overfit_batches": 0}, {}),
        ({"fast_dev_run": True, "limit_val_batches": None}, {"fast_dev_run": True}),
        ({"limit_val_batches": 1, "overfit_batches": 0.5}, {"limit_val_batches": 1, "overfit_batches": 0.5}),
        ({"limit_val_batches": 0}, {"limit_val_batches": 0}),
    ],
)
def test_conditions_are_what_leaves_out_batches(arguments: dict[str, object], expected: dict[str, object]) -> None:
    """One batch is not 1.0, all of them; and fast_dev_run=0 leaves out none."""
    assert conditions({"trainer": arguments}) == expected


def test_a_half_written_line_hides_no_other() -> None:
    note_test_read(CONFIG, "pets", Path("runs/a"))
    file = Path("runs/test_reads.jsonl")
    file.write_text(file.read_text() + '{"at": "2026-')
    note_test_read(CONFIG, "pets", Path("runs/b"))
    assert [read["run"] for read in earlier_reads({config_hash(CONFIG)}, "pets")] == ["runs/a", "runs/b"]
    assert len(file.read_text().splitlines()) == 3


def test_a_read_that_cannot_be_noted_is_refused(capsys: pytest.CaptureFixture[str], tiny_mlp: list[str]) -> None:
    assert main(["fit", *tiny_mlp]) == 0
    Path("runs/test_reads.jsonl").mkdir()
    assert main(["test", "--run", "runs/tiny"]) == 2
    assert "cannot write runs/test_reads.jsonl: " in capsys.readouterr().err
    assert not list(Path("runs/tiny").glob("*/test"))


def test_where_a_run_is_tested_does_not_hide_that_it_was(tiny_mlp: list[str]) -> None:
    assert main(["fit", *tiny_mlp]) == 0
    assert main(["test", "--run", "runs/tiny"]) == 0
    assert main(["test", "--run", "runs/tiny", "--trainer.accelerator", "auto"]) == 0
    (run,) = Path("runs/tiny").iterdir()
    assert len(earlier_reads({config_hash(RunFolder(run).config())}, "tiny-digits")) == 2
    assert len(json.loads(Path("runs/test_reads.jsonl").read_text().splitlines()[0])["config_hash"]) == 64


def test_a_run_whose_code_changed_is_continued_only_if_that_is_accepted(
    tiny_mlp: list[str],
    own_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.syspath_prepend(str(own_folder))
    write_loss("continued")
    assert main(["fit", *tiny_mlp, "--model.loss", "continued.MyLoss"]) == 0
    (path,) = Path("runs/tiny").iterdir()
    run = RunFolder(path)
    former = run.manifest()["code"]["continued.MyLoss"]
    write_loss("continued", 2.0)
    for command in ("test", "validate", "predict"):
        caplog.clear()
        assert main([command, "--run", str(path)]) == 0
        assert f"NOTICE: the code of continued.MyLoss, or what it uses, has changed since {path}" in caplog.text
        assert json.loads((path / command / "metrics.json").read_text())["code_changed"] == ["continued.MyLoss"]
    run.write_manifest(run.manifest() | {"status": "interrupted"})
    again = ["fit", "--run", str(path)]
    assert main(again) == 2
    assert "continue with --accept-code-change" in capsys.readouterr().err
    assert main([*again, "--accept-code-change"]) == 0
    manifest = run.manifest()
    assert manifest["status"] == "finished"
    assert manifest["code"]["continued.MyLoss"] != former
    assert [change["former"] for change in manifest["code_changes"]] == [{"continued.MyLoss": former}]
    forget("continued")


def test_losslabs_commit_is_not_the_users(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a repository of the user's own, also one that holds the virtual environment with losslab."""
    user = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "mine"]
    for command in (["git", "init", "-q"], user):
        subprocess.run(command, check=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    installed = own_folder / "venv" / "losslab" / "run" / "provenance.py"
    installed.parent.mkdir(parents=True)
    (installed.parents[1] / "errors.py").touch()
    for file in (provenance.__file__, str(installed)):
        monkeypatch.setattr(provenance, "__file__", file)
        git_state.cache_clear()
        state = git_state()
        assert state["git_commit"] == head
        assert state["losslab"]["commit"] != head
        assert state["losslab"]["version"] == importlib.metadata.version("losslab")
    git_state.cache_clear()


def test_losslab_is_dirty_by_its_own_files_only(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = own_folder / "src" / "losslab"
    (package / "run").mkdir(parents=True)
    (package / "errors.py").touch()
    commit = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "mine"]
    for command in (["git", "init", "-q"], ["git", "add", "."], commit):
        subprocess.run(command, check=True)
    (own_folder / "notes.txt").touch()
    monkeypatch.setattr(provenance, "__file__", str(package / "run" / "provenance.py"))
    for content, dirty in (("", False), ("changed", True)):
        (package / "errors.py").write_text(content)
        git_state.cache_clear()
        state = git_state()
        assert (state["git_dirty"], state["losslab"]["dirty"]) == (True, dirty)
    git_state.cache_clear()


def test_a_losslab_installed_from_its_repository_has_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    origin = json.dumps({"url": "https://host/losslab", "vcs_info": {"vcs": "git", "commit_id": "0123abcd"}})
    monkeypatch.setattr("importlib.metadata.PathDistribution.read_text", lambda self, name: origin)
    assert provenance._installed_from() == ("0123abcd", False)
    monkeypatch.setattr("importlib.metadata.PathDistribution.read_text", lambda self, name: None)
    assert provenance._installed_from() == (None, None)


def test_a_manifest_has_the_precision_of_the_multiplications(tiny_mlp: list[str]) -> None:
    """Also one that the training sets, by torch's older names or its newer ones."""
    before = float32_precision()
    assert set(before.values()) <= {"ieee", "tf32", "bf16"}
    Path("faster.py").write_text(
        "import torch\nfrom lightning.pytorch import Callback\n\n\nclass Faster(Callback):\n"
        "    def on_fit_start(self, *_):\n        torch.set_float32_matmul_precision('medium')\n"
    )
    try:
        assert main(["fit", *tiny_mlp, "--trainer.callbacks", "faster.Faster"]) == 0
        assert float32_precision() == before | {"matmul": "tf32", "matmul_on_cpu": "bf16"}
        torch.backends.cudnn.conv.fp32_precision = "ieee"
        assert float32_precision()["convolution"] == "ieee"
    finally:
        torch.backends.cudnn.conv.fp32_precision = before["convolution"]
        torch.set_float32_matmul_precision("highest")
    (run,) = Path("runs/tiny").iterdir()
    assert RunFolder(run).manifest()["float32"] == before | {"matmul": "tf32", "matmul_on_cpu": "bf16"}
    assert float32_precision() == before
