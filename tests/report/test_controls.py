"""Controls on real trainings: equal losses show no difference, and an effect shows one."""

import re
from pathlib import Path

import numpy as np
import pytest
import small_studies

from losslab.report.verdicts import compare
from losslab.study import SettingResults, group_by_setting, read_declared, read_results

EXPERIMENT = """\
model:
  class_path: losslab.models.MLP
  init_args: {hidden: [32]}
data:
  class_path: losslab.data.MNISTDataModule
  init_args: {source: embedded, batch_size: 64, imbalance: 0.01}
trainer: {max_epochs: 8, accelerator: cpu, enable_progress_bar: false}
"""

STUDY = """\
experiment: tiny.yaml
arms:
  cross_entropy: {model.init_args.loss: {class_path: losslab.losses.CrossEntropyLoss}}
  logit_adjusted: {model.init_args.loss: {class_path: losslab.losses.LogitAdjustedLoss}}
grid: {model.init_args.dropout: [0]}
seeds: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19]
baseline: {arm: cross_entropy, model.init_args.dropout: 0}
monitor: val/recall/macro
"""

PAIRINGS = 200


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 runs of cross-entropy and 20 of logit adjustment under a long tail of 0.01."""
    return small_studies.run_study(tmp_path_factory.mktemp("controls"), "controls", STUDY, experiment=EXPERIMENT)


@pytest.fixture(scope="module")
def settings(study: Path) -> tuple[list[SettingResults], list[str]]:
    """The study's two settings, and the family."""
    results = read_results(study)
    return group_by_setting(results), read_declared(study).endpoints(results)


def chosen(setting: SettingResults, label: str, runs: np.ndarray) -> SettingResults:
    values = {key: np.take(numbers, runs).tolist() for key, numbers in setting.values.items()}
    return SettingResults(label, "", {}, label, list(range(len(runs))), values, setting.classes, [])


@pytest.mark.slow
def test_runs_of_one_loss_paired_at_random_rarely_differ(
    settings: tuple[list[SettingResults], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    (cross_entropy, _), family = settings
    assert family == ["val/precision/macro", "val/recall/macro", "val/precision/tail", "val/recall/tail"]
    random, verdicts = np.random.default_rng(0), 0
    for _ in range(PAIRINGS):
        runs = random.permutation(20)
        one, other = chosen(cross_entropy, "one", runs[:10]), chosen(cross_entropy, "other", runs[10:])
        verdicts += bool(compare([one, other], other, family).shown)
    with capsys.disabled():
        print(f"\n{PAIRINGS} random pairings of 20 cross-entropy runs: a verdict in {verdicts / PAIRINGS:.3f}")
    assert verdicts / PAIRINGS <= 0.08


@pytest.mark.slow
def test_logit_adjustment_raises_the_tails_recall(settings: tuple[list[SettingResults], list[str]]) -> None:
    (cross_entropy, adjusted), family = settings
    runs = np.arange(12)
    verdicts = compare([chosen(adjusted, "a", runs)], chosen(cross_entropy, "b", runs), family)
    by_metric = {verdict.metric: verdict for verdict in verdicts.verdicts}
    assert by_metric["val/recall/tail"].word == "higher"
    assert by_metric["val/recall/tail"].mean > 0.1


@pytest.mark.slow
def test_the_first_control_can_fail(settings: tuple[list[SettingResults], list[str]]) -> None:
    """With a real difference between the two halves, the share of verdicts is far above 0.08."""
    (cross_entropy, adjusted), family = settings
    random, verdicts = np.random.default_rng(0), 0
    for _ in range(20):
        runs = random.permutation(20)
        one, other = chosen(adjusted, "one", runs[:10]), chosen(cross_entropy, "other", runs[10:])
        verdicts += bool(compare([one, other], other, family).shown)
    assert verdicts / 20 > 0.5


@pytest.mark.slow
def test_the_report_of_such_a_study_names_the_tail(study: Path) -> None:
    page = (study / "report.html").read_text()
    answer = re.search(r'id="answer".*?</p>', page, re.DOTALL)
    assert answer is not None
    assert re.search(r"logit_adjusted dropout=0 has higher [^;]*tail recall", answer[0])
    assert "10,000 random sign flips" in page
