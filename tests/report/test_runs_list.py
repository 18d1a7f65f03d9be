"""`losslab runs` lists what there is, whole or not."""

import pytest

from losslab.cli import main
from losslab.run.run_folder import find_run


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
