"""`losslab runs` lists what there is, whole or not."""

import json
from pathlib import Path

import pytest

from losslab.cli import main
from losslab.run import find_run
from losslab.study import read_results


def test_an_empty_list_says_how_to_begin(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs"]) == 0
    assert "losslab fit --config experiments/cnn.yaml" in capsys.readouterr().out


def test_runs_are_listed_with_their_numbers(tiny_mlp: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", *tiny_mlp, "--name", "a"]) == main(["fit", *tiny_mlp, "--name", "b"]) == 0
    assert main(["test", "--run", "runs/a"]) == 0
    find_run("runs/b", finished=True).manifest_file.write_text('{"status": "fin')
    capsys.readouterr()
    assert main(["runs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (a,) = [line for line in lines if "runs/a/" in line]
    (b,) = [line for line in lines if "runs/b/" in line]
    assert all(word in a for word in ("finished", "tiny-digits", "MLP", "FocalLoss"))
    assert a.count("0.") >= 3  # validation accuracy and F1, test accuracy
    assert "unreadable manifest" in b


SPOILED = {
    "manifest.json": ['{"status": 3, "seconds": "long"}', "[1, 2]", "", "\x00", '{"seconds": null}'],
    "metrics.csv": ["epoch,val/acc\nx,y\n", "\x00", "a,b\n1,2,3\n"],
    "config.yaml": ["model: 3\n", "model: {class_path: [1]}\n", "- a list\n"],
    "test/metrics.json": ["[]", '{"metrics": []}', '{"metrics": {"test/acc": "good"}}'],
}


def test_no_spoiled_record_hides_the_other_runs(tiny_mlp: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", *tiny_mlp, "--name", "a"]) == main(["fit", *tiny_mlp, "--name", "b"]) == 0
    assert main(["test", "--run", "runs/a"]) == 0
    run = find_run("runs/a", finished=True).path
    for name, contents in SPOILED.items():
        whole = (run / name).read_bytes()
        for content in [*contents, whole.decode()[: len(whole) // 2]]:
            (run / name).write_text(content)
            capsys.readouterr()
            assert main(["runs"]) == 0, (name, content)
            shown = capsys.readouterr().out
            assert "runs/a/" in shown
            (b,) = [line for line in shown.splitlines() if "runs/b/" in line]
            assert "finished" in b
        (run / name).write_bytes(whole)


def test_a_spoiled_result_is_left_out_and_named(own_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = Path("runs/gamma")
    (study / "results" / "abc").mkdir(parents=True)
    (study / "study.json").write_text("{}")
    whole = json.dumps({"label": "gamma=1", "order": 0, "seed": 0, "metrics": {"val/acc": 0.5}})
    for seed, content in enumerate([whole, whole[:20], "", "[]", '{"metrics": {}}']):
        (study / "results" / "abc" / f"{seed}.json").write_text(content)
    assert [result["seed"] for result in read_results(study)] == [0]
    assert main(["runs"]) == 0
    shown = capsys.readouterr().out
    assert "study runs/gamma: 1 results" in shown
    for seed in range(1, 5):
        assert f"unreadable, left out: runs/gamma/results/abc/{seed}.json" in shown


def test_a_run_without_a_whole_configuration_does_not_hide_the_others(
    tiny_mlp: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", *tiny_mlp, "--name", "a"]) == main(["fit", *tiny_mlp, "--name", "b"]) == 0
    find_run("runs/a", finished=True).config_file.write_text("")
    capsys.readouterr()
    assert main(["runs"]) == 0
    shown = capsys.readouterr().out
    assert "unreadable config" in shown
    assert "FocalLoss" in shown
