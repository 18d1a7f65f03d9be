"""Tuning: which values a study tries, and what it compares."""

from pathlib import Path

import pytest
from small_studies import LEARNING_RATES, LR, TUNED, TUNED_EXPERIMENT

from losslab.cli import main
from losslab.report import read_trials, summarise_folder
from losslab.study import read_declared
from losslab.study.setting import tuning_range


def test_every_loss_gets_the_same_list_and_an_end_that_is_best_is_extended(tuned_study: Path) -> None:
    summary, results = summarise_folder(tuned_study)
    tried: dict[str, set[float]] = {}
    for result in results:
        tried.setdefault(result["setting"]["arm"], set()).add(result["setting"]["values"][LR])
    assert all(values >= {*LEARNING_RATES} for values in tried.values())
    limits = tuning_range(LEARNING_RATES)
    for setting in summary.settings:
        values, best = tried[setting.arm], setting.varied[LR]
        assert min(values) < best < max(values) or best in limits
    assert any(max(values) > LEARNING_RATES[-1] for values in tried.values())  # these learning rates are low
    assert len(read_trials(tuned_study, read_declared(tuned_study)).trials) == sum(map(len, tried.values()))


def test_what_is_compared_is_each_loss_at_its_best(tuned_study: Path) -> None:
    summary, _ = summarise_folder(tuned_study)
    for setting in summary.settings:
        same_arm = [other for other in summary.tried if other.arm == setting.arm]
        assert setting.mean_sd("val/f1/macro")[0] == max(s.mean_sd("val/f1/macro")[0] for s in same_arm)
    assert summary.baseline is not None
    assert summary.baseline.arm == "cross-entropy"
    page = (tuned_study / "report.html").read_text()
    assert f"All {len(summary.tried)} settings" in page
    assert "losslab confirm runs/tuned" in page


def test_a_second_call_extends_nothing_more(study: Path) -> None:
    before = len(read_trials(study, read_declared(study)).trials)
    assert main(["sweep", "--config", "study.yaml", "--name", "tuned"]) == 0
    assert len(read_trials(study, read_declared(study)).trials) == before


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[0.0005, 0.001, 0.002]", "[0.1, 0.2]", "three increasing numbers"),
        ("[0.0005, 0.001, 0.002]", "[0.1, 0.3, 0.2]", "three increasing numbers"),
        ("[0.0005, 0.001, 0.002]", "[0, 0.1, 0.2]", "three increasing numbers"),
        ("tune:", f"grid: {{{LR}: [0.1]}}\ntune:", "in both grid and tune"),
        ("tune:", "tune:\n  model.init_args.dropout: [0.1, 0.2, 0.3]", "tune must be one path"),
        ("baseline: {arm: cross-entropy}", f"baseline: {{arm: dice, {LR}: 0.1}}", "baseline must give arm"),
        ("tune:", "trials: 3\ntune:", "trials is for a search"),
    ],
)
def test_a_mistake_in_tune_is_told(
    own_folder: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, message: str
) -> None:
    Path("tiny.yaml").write_text(TUNED_EXPERIMENT)
    assert old in TUNED
    Path("study.yaml").write_text(TUNED.replace(old, new, 1))
    assert main(["sweep", "--config", "study.yaml"]) == 2
    assert message in capsys.readouterr().err
    assert not Path("runs").exists()
