"""An evaluation needs a run and nothing else, and does not mix what does not belong together."""

import json
from pathlib import Path

import numpy as np
import pytest

from losslab.cli import main
from losslab.run import evaluate_run, find_run, read_predictions
from losslab.run.evaluate import Stage, find_finished_run


def evaluate(stage: Stage, tokens: list[str]) -> tuple[Path, dict[str, float]]:
    return evaluate_run(stage, find_finished_run(stage, tokens))


@pytest.fixture
def run(tiny_mlp: list[str]) -> Path:
    assert main(["fit", *tiny_mlp]) == 0
    return find_run("runs/tiny", finished=True).path


def test_validation_again_gives_what_the_fit_wrote(run: Path) -> None:
    folder, metrics = evaluate("validate", ["--run", str(run)])
    logits, labels = read_predictions(run / "predictions.npz")
    logits_again, labels_again = read_predictions(folder / "predictions.npz")
    assert np.array_equal(labels, labels_again)
    assert np.allclose(logits, logits_again, atol=1e-5)
    last_row = (run / "metrics.csv").read_text().splitlines()[-1].split(",")
    header = (run / "metrics.csv").read_text().splitlines()[0].split(",")
    assert metrics["val/f1/macro"] == pytest.approx(float(last_row[header.index("val/f1/macro")]), abs=1e-6)


def test_predict_is_of_the_validation_split(run: Path) -> None:
    folder, metrics = evaluate("predict", ["--run", "runs/tiny"])
    assert metrics == {}
    _, labels = read_predictions(folder / "predictions.npz")
    assert np.array_equal(labels, read_predictions(run / "predictions.npz")[1])
    assert not Path("runs/test_reads.jsonl").exists()


def test_validation_like_training_is_drawn_again_by_whatever_rebuilds_the_data_of_a_run(tiny_mlp: list[str]) -> None:
    harder = ["--data.imbalance", "0.6", "--data.label_noise", "0.2", "--data.validation", "like_training"]
    assert main(["fit", *tiny_mlp, *harder, "--seed_everything", "4"]) == 0
    run = find_run("runs/tiny", finished=True).path
    labels = read_predictions(run / "predictions.npz")[1]
    assert sorted(np.bincount(labels)) != [5] * 10  # as the balanced one would have
    for stage in ("validate", "predict"):
        folder, _ = evaluate(stage, ["--run", str(run)])
        assert np.array_equal(read_predictions(folder / "predictions.npz")[1], labels)
    evaluate("test", ["--run", str(run)])
    assert len(read_predictions(run / "test" / "predictions.npz")[1]) == 50


def test_best_and_last_are_found_from_a_fresh_process(run: Path) -> None:
    last, _ = evaluate("test", ["--run", "runs/tiny"])
    best, _ = evaluate("test", ["--run", "runs/tiny", "--ckpt_path", "best"])
    path, _ = evaluate("test", ["--ckpt_path", str(run / "checkpoints" / "last.ckpt")])
    assert (last, best, path) == (run / "test", run / "test-best", run / "test")
    assert json.loads((best / "metrics.json").read_text())["checkpoint"] == "best.ckpt"


def test_a_command_line_that_disagrees_with_the_run_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test", "--run", "runs/tiny", "--model.loss.gamma", "3"]) == 2
    assert "model.init_args.loss.init_args.gamma: 1.5 -> 3.0" in capsys.readouterr().err
    assert main(["test", "--run", "runs/tiny", "--data.split_seed", "3"]) == 2
    assert "data.init_args.split_seed: None -> 3" in capsys.readouterr().err
    assert main(["test", "--run", "runs/tiny", "--data.eval_batch_size", "7"]) == 0
    assert len(Path("runs/test_reads.jsonl").read_text().splitlines()) == 1  # the refused ones read nothing


def test_other_images_than_those_trained_on_are_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps(manifest | {"data_name": "mnist"}))
    assert main(["test", "--run", "runs/tiny"]) == 2
    assert "was trained on mnist, and these are other images (tiny-digits)" in capsys.readouterr().err
    (run / "manifest.json").write_text(json.dumps(manifest | {"hashes": {"train": "0" * 64}}))
    assert main(["validate", "--run", "runs/tiny"]) == 2
    assert "these are other images" in capsys.readouterr().err
    assert not Path("runs/test_reads.jsonl").exists()


def test_a_spoiled_manifest_is_told_and_not_fatal(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    manifest = (run / "manifest.json").read_text()
    (run / "manifest.json").write_text(manifest[: len(manifest) // 2])
    assert main(["test", "--run", str(run)]) == 0
    assert f"{run}/manifest.json is damaged: the run may have been trained on other images." in caplog.text
    assert main(["fit", "--run", str(run)]) == 0
    assert json.loads((run / "manifest.json").read_text())["status"] == "finished"


def test_what_cannot_be_found_is_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in (
        (["--run", "runs/nothing"], "there is no run in runs/nothing. Runs are in: runs/tiny"),
        (["--ckpt_path", "some.ckpt"], "ckpt_path must be 'last', 'best' or a checkpoint in a run's folder"),
    ):
        assert main(["test", *words]) == 2
        assert message in capsys.readouterr().err
    (run / "checkpoints" / "best.ckpt").unlink()
    assert main(["test", "--run", str(run), "--ckpt_path", "best"]) == 2
    assert "has no best.ckpt" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["test", "validate", "predict"])
def test_help_needs_no_run(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert "--run" in capsys.readouterr().out
    assert main([command, "--run"]) == 2
    assert "--run: expected one argument" in capsys.readouterr().err
