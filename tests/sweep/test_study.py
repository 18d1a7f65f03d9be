"""A study is finished exactly once, whatever happens to the process that runs it."""

import csv
import json
import os
import re
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import background
import optuna
import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from optuna.trial import TrialState
from small_studies import GAMMA_PATH, comparable_results, trained, trials

from losslab.cli import main
from losslab.metrics import metric_keys
from losslab.run import CommandLine, Interruption
from losslab.study import StudyFile, group_by_setting, read_results
from losslab.sweep.study import Study

STUDY = """\
experiment: tiny.yaml
arms:
  focal:
    model.init_args.loss: {class_path: losslab.losses.FocalLoss}
grid:
  model.init_args.loss.init_args.gamma: [0, 1, 2]
seeds: [0, 1]
baseline: {arm: focal, model.init_args.loss.init_args.gamma: 0}
family: [val/recall/macro, val/f1/macro]
"""

SEARCH = """\
experiment: tiny.yaml
arms:
  narrow: {model.init_args.hidden: [4]}
  wide: {model.init_args.hidden: [32]}
space:
  model.init_args.loss.init_args.gamma:
    class_path: optuna.distributions.FloatDistribution
    init_args: {low: 0.0, high: 5.0}
arm_space:
  wide:
    model.init_args.dropout:
      class_path: optuna.distributions.FloatDistribution
      init_args: {low: 0.0, high: 0.5}
trials: 6
seeds: [0, 1]
pruner:
  class_path: optuna.pruners.MedianPruner
  init_args: {n_startup_trials: 1, n_warmup_steps: 0}
"""


@pytest.fixture
def study(tiny_mlp: list[str], own_folder: Path) -> list[str]:
    (own_folder / "gamma.yaml").write_text(STUDY)
    return ["sweep", "--config", "gamma.yaml"]


PLANNED = Counter((gamma, seed) for gamma in (0, 1, 2) for seed in (0, 1))


def test_a_grid_trains_every_setting_at_every_seed(study: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(study) == 0
    printed = capsys.readouterr().out
    assert "3 settings x 2 seeds = 6 trainings, 0 of them done; up to" in printed
    assert "mean and sd over 2 seeds, at one learning rate" in printed
    assert trained("gamma") == PLANNED
    assert [trial.state for trial in trials("gamma")] == [TrialState.COMPLETE] * 6

    folder = Path("runs/gamma")
    results = read_results(folder)
    digits = tuple("0123456789")
    for result in results:
        assert {"val/loss", "train/acc", *(f"val/{key}" for key in metric_keys(digits))} <= set(result["metrics"])
    values = {(r["setting"]["values"][GAMMA_PATH], r["seed"]): r["metrics"]["val/f1/macro"] for r in results}
    queue = [(trial.params[GAMMA_PATH], trial.params["seed"]) for trial in trials("gamma")]
    assert queue == [(gamma, seed) for seed in (0, 1) for gamma in (0, 1, 2)]  # all settings first
    assert [trial.value for trial in trials("gamma")] == [values[key] for key in queue]

    lines = (folder / "summary.csv").read_text().splitlines()
    assert lines[0] == "# gamma: validation split of tiny-digits, mean and sd over 2 seeds, at one learning rate"
    table = list(csv.DictReader(lines[1:]))
    assert [row["setting"] for row in table] == ["gamma=0", "gamma=1", "gamma=2"]
    recalls = [result["metrics"]["val/recall/3"] for result in results[2:4]]
    assert float(table[1]["val/recall/3 mean"]) == pytest.approx(sum(recalls) / 2, abs=1e-6)
    assert float(table[1]["val/recall/3 sd"]) == pytest.approx(abs(recalls[0] - recalls[1]) / 2**0.5, abs=1e-6)

    page = (folder / "report.html").read_text()
    assert all(f"class {digit}" in page for digit in digits)
    assert (folder / "report.md").read_text().startswith("# gamma\n")

    best = yaml.safe_load((folder / "best.yaml").read_text())
    assert best["model"]["init_args"]["loss"]["init_args"]["gamma"] in (0, 1, 2)
    assert main(["fit", "--config", "runs/gamma/best.yaml"]) == 0


def test_the_same_seed_is_the_same_split_and_start_for_every_setting(study: list[str]) -> None:
    assert main(study) == 0
    by_seed = {seed: [r for r in read_results(Path("runs/gamma")) if r["seed"] == seed] for seed in (0, 1)}
    assert {len({r["hashes"]["split"] for r in results}) for results in by_seed.values()} == {1}


def test_a_second_call_trains_nothing_again(study: list[str]) -> None:
    assert main(study) == 0
    files = {file: file.stat().st_mtime_ns for file in Path("runs/gamma/results").rglob("*.json")}
    assert main(study) == 0
    assert {file: file.stat().st_mtime_ns for file in Path("runs/gamma/results").rglob("*.json")} == files
    assert len(trials("gamma")) == 6


def test_only_the_best_settings_checkpoints_stay(study: list[str]) -> None:
    """At all its seeds; the best is that of the mean over them."""
    assert main(study) == 0
    best = max(group_by_setting(read_results(Path("runs/gamma"))), key=lambda each: each.mean_sd("val/f1/macro")[0])
    kept = Counter(path.parts[-4] for path in Path("runs/gamma/runs").rglob("last.ckpt"))
    assert kept == {best.setting_hash: 2}
    assert main([*study, "--name", "all", "--keep", "all"]) == 0
    assert len(list(Path("runs/all/runs").rglob("last.ckpt"))) == 6


@pytest.mark.parametrize("moment", [0, 1, 3])
def test_a_killed_sweep_ends_with_exactly_the_planned_results(study: list[str], own_folder: Path, moment: int) -> None:
    """kill -9 in the middle of a training, after `moment` results; then the same command."""
    longer = [*study, "--trainer.max_epochs", "6"]
    assert main([*longer, "--name", "undisturbed"]) == 0
    process = background.start(own_folder, longer)

    def training_after_results() -> bool:
        results = len(list(Path("runs/gamma/results").glob("*/*.json")))
        checkpoints = len(list(Path("runs/gamma/runs").glob("*/*/checkpoints/last.ckpt")))
        started = len(list(Path("runs/gamma/runs").glob("*/*/metrics.csv")))
        return results == moment and started == moment + 1 and checkpoints >= 1

    background.wait_for(training_after_results, process)
    assert background.stop(process, signal.SIGKILL) == -signal.SIGKILL
    done = {file: file.stat().st_mtime_ns for file in Path("runs/gamma/results").rglob("*.json")}
    assert len(done) < 6
    assert TrialState.RUNNING in [trial.state for trial in trials("gamma")]

    assert main(longer) == 0
    assert trained("gamma") == PLANNED
    assert {file: file.stat().st_mtime_ns for file in done} == done
    assert comparable_results("gamma") == comparable_results("undisturbed")
    states = Counter(trial.state for trial in trials("gamma"))
    assert states == {TrialState.COMPLETE: 6, TrialState.FAIL: 1}  # the lost one, queued again


def test_a_process_that_dies_while_it_takes_up_a_lost_trial(
    study: list[str], own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    longer = [*study, "--trainer.max_epochs", "6"]
    process = background.start(own_folder, longer)
    background.wait_for(lambda: bool(list(Path("runs/gamma/runs").glob("*/*/metrics.csv"))), process)
    background.stop(process, signal.SIGKILL)

    def dies(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "tell", dies)
        assert main(longer) == 130
    assert main(longer) == 0
    assert trained("gamma") == PLANNED
    assert Counter(trial.state for trial in trials("gamma")) == {TrialState.COMPLETE: 6, TrialState.FAIL: 1}


def test_ctrl_c_stops_a_sweep_and_the_same_command_goes_on(study: list[str], own_folder: Path) -> None:
    longer = [*study, "--trainer.max_epochs", "6"]
    process = background.start(own_folder, longer)
    background.wait_for(lambda: bool(list(Path("runs/gamma/runs").glob("*/*/metrics.csv"))), process)
    assert background.stop(process, signal.SIGINT) == 130
    assert "the same command goes on from here" in Path("output.txt").read_text()
    assert main(longer) == 0
    assert trained("gamma") == PLANNED


def signal_when(monkeypatch: pytest.MonkeyPatch, condition: Callable[[Trainer], bool]) -> None:
    """Send this process Ctrl-C at the first batch of each training for which `condition` holds."""
    finish_batch = Interruption.on_train_batch_end

    def interrupted(self: Interruption, trainer: Trainer, *arguments: Any) -> None:
        if self.received is None and condition(trainer):
            os.kill(os.getpid(), signal.SIGINT)
        finish_batch(self, trainer, *arguments)

    monkeypatch.setattr(Interruption, "on_train_batch_end", interrupted)


def test_ctrl_c_in_the_last_batch_of_a_training_stops_the_sweep_behind_it(
    study: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        signal_when(patch, lambda trainer: trainer.is_last_batch and trainer.current_epoch == 1)
        assert main(study) == 130
    assert sum(trained("gamma").values()) == 1
    assert main(study) == 0
    assert trained("gamma") == PLANNED


@pytest.mark.slow
def test_a_setting_that_its_user_stopped_often_is_not_given_up(
    study: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    study += ["--seeds", "0"]
    with monkeypatch.context() as patch:
        signal_when(patch, lambda trainer: True)
        assert [main(study) for _ in range(16)] == [130] * 16  # each of the three trainings more than max_retry times
    assert main(study) == 0
    assert trained("gamma") == Counter((gamma, 0) for gamma in (0, 1, 2))


def test_a_torn_journal_is_mended(study: list[str]) -> None:
    assert main(study) == 0
    journal = Path("runs/gamma/journal.log")
    journal.write_bytes(journal.read_bytes()[:-7])
    assert main(study) == 0
    assert trained("gamma") == PLANNED
    assert journal.with_name("journal.log.torn").exists()


def test_a_setting_that_fails_is_recorded_and_the_study_goes_on(
    study: list[str], own_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (own_folder / "broken_by_gamma.py").write_text(
        "from losslab.losses import FocalLoss\n"
        "class Fragile(FocalLoss):\n"
        "    def forward(self, logits, target):\n"
        "        if self.gamma == 1 and len(logits) == 20:  # not in the check before the first training\n"
        "            raise RuntimeError('out of memory (simulated)')\n"
        "        return super().forward(logits, target) * (float('nan') if self.gamma == 2 else 1)\n"
    )
    (own_folder / "gamma.yaml").write_text(STUDY.replace("losslab.losses.FocalLoss", "broken_by_gamma.Fragile"))
    assert main(study) == 0
    assert [trial.state for trial in trials("gamma")] == [TrialState.COMPLETE, TrialState.FAIL, TrialState.FAIL] * 2
    reasons = [trial.user_attrs.get("failure", "") for trial in trials("gamma")]
    assert "RuntimeError: out of memory (simulated)" in reasons[1]
    assert "NonFiniteLossError" in reasons[2]
    assert "epoch 0, step 0" in reasons[2]
    printed = capsys.readouterr().out
    for seed in (0, 1):
        assert re.search(rf"gamma=1 seed={seed} failed: .*RuntimeError: out of memory \(simulated\)", printed)
    assert main(study) == 0  # failures are not tried again
    assert len(trials("gamma")) == 6


def test_a_search_asks_conditionally_and_prunes_in_the_first_seed(tiny_mlp: list[str], own_folder: Path) -> None:
    (own_folder / "search.yaml").write_text(SEARCH)
    search = ["sweep", "--config", "search.yaml", "--trainer.max_epochs", "3"]
    assert main(search) == 0
    found = trials("search")
    assert len(found) == 6
    assert {trial.state for trial in found} <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert TrialState.PRUNED in {trial.state for trial in found}
    for trial in found:
        assert ("wide: model.init_args.dropout" in trial.params) == (trial.params["arm"] == "wide")
        if trial.state == TrialState.PRUNED:
            assert max(trial.intermediate_values) < 2  # not after the last epoch
    seeds = Counter(result["setting_hash"] for result in read_results(Path("runs/search")))
    complete = [trial.user_attrs["setting_hash"] for trial in found if trial.state == TrialState.COMPLETE]
    assert seeds == dict.fromkeys(complete, 2)
    assert main([*search, "--trials", "7"]) == 0  # a search may be given more trials
    assert len(trials("search")) == 7
    assert yaml.safe_load(Path("runs/search/best.yaml").read_text())["model"]["class_path"] == "losslab.models.MLP"


def test_a_search_that_goes_on_draws_anew(tiny_mlp: list[str], own_folder: Path) -> None:
    (own_folder / "search.yaml").write_text(SEARCH.replace("trials: 6", "trials: 2").split("pruner:")[0])
    search = ["sweep", "--config", "search.yaml"]
    assert main(search) == 0
    assert main([*search, "--trials", "4"]) == 0
    assert len({tuple(sorted(trial.params.items())) for trial in trials("search")}) == 4


def test_what_changes_no_result_may_change_between_two_calls(study: list[str]) -> None:
    assert main(study) == 0
    Path("gamma.yaml").write_text(STUDY.replace("family: [val/recall/macro, val/f1/macro]", "family: [val/acc]"))
    assert main([*study, "--data.eval_batch_size", "7"]) == 0
    assert trained("gamma") == PLANNED


def test_another_study_in_the_same_folder_is_refused(study: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(study) == 0
    assert main([*study, "--trainer.max_epochs", "3"]) == 2
    assert "experiment.trainer.max_epochs: 2 -> 3" in capsys.readouterr().err
    Path("gamma.yaml").write_text(STUDY.replace("[0, 1, 2]", "[0, 1, 3]"))
    assert main(study) == 2
    assert "study.grid.model.init_args.loss.init_args.gamma" in capsys.readouterr().err
    assert main([*study, "--name", "other"]) == 0
    Path("gamma.yaml").write_text(STUDY)
    record = json.loads(Path("runs/gamma/study.json").read_text())
    record["data"]["split"] = "of other images"
    Path("runs/gamma/study.json").write_text(json.dumps(record))
    assert main(study) == 2
    assert "data.split: of other images ->" in capsys.readouterr().err


def test_a_sweep_never_loads_the_test_images(study: list[str], own_folder: Path) -> None:
    (own_folder / "guarded_digits.py").write_text(
        "from tiny_digits import TinyDigits\n"
        "class GuardedDigits(TinyDigits):\n"
        "    def load_test(self):\n"
        "        raise AssertionError('the test images were read')\n"
    )
    assert main([*study, "--data", "guarded_digits.GuardedDigits"]) == 0
    assert trained("gamma") == PLANNED
    assert not Path("runs/test_reads.jsonl").exists()
    assert main(["fit", "--config", "tiny.yaml", "--data", "guarded_digits.GuardedDigits"]) == 0
    with pytest.raises(AssertionError, match="the test images were read"):
        main(["test", "--run", "runs/tiny"])  # so the guard does guard


@pytest.mark.parametrize("name", ["gamma", "architecture"])
def test_the_shipped_studies_run(name: str, repository: Path) -> None:
    """Two epochs on 200 real digits; the architectures with one trial an arm on average."""
    study = ["sweep", "--config", str(repository / "sweeps" / f"{name}.yaml"), "--data", "tiny_digits.TinyDigits"]
    trials_option = ["--trials", "4", "--seeds", "0"] if name == "architecture" else ["--seeds", "0"]
    assert main([*study, *trials_option, "--trainer.max_epochs", "2"]) == 0
    assert len(trials(name)) == {"gamma": 4, "architecture": 4}[name]
    assert main(["fit", "--config", f"runs/{name}/best.yaml", "--trainer.enable_progress_bar", "false"]) == 0
    assert main(["test", "--run", "runs/best"]) == 0
    (checkpoint,) = Path("runs/best").glob("*/checkpoints/last.ckpt")
    assert torch.load(checkpoint, weights_only=True)["state_dict"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("grid:", "gird:"), "unknown key 'gird"),
        (("seeds: [0, 1]", "seeds: [0, 0]"), "seeds must be one or more different numbers"),
        (("seeds: [0, 1]", "seeds: two"), "seeds must be"),
        (("val/f1/macro]", "test/acc]"), "family must be val/ metrics"),
        (("FocalLoss", "FocaLoss"), "unknown class 'losslab.losses.FocaLoss'; did you mean FocalLoss?"),
        (("[0, 1, 2]", "[0, 1, -2]"), "setting gamma=-2: gamma must be >= 0 and finite, got -2.0"),
        (("[0, 1, 2]", "[0, 1, '1']"), "settings gamma=1 and gamma=1 have the same configuration: delete one"),
        (("init_args.gamma", "init_args.gama"), "FocalLoss has no argument 'gama'; did you mean gamma?"),
        (("gamma: 0}", "gamma: 7}"), "baseline must give"),
        (("val/f1/macro]", "val/f1/macr]"), "there is no metric 'val/f1/macr'; did you mean val/f1/macro?"),
        (("seeds: [0, 1]", "seeds: [0, 1]\nstorage: nonsense"), "the study's storage cannot be opened"),
        (("tiny.yaml", "tinny.yaml"), "cannot read tinny.yaml: No such file or directory; did you mean tiny.yaml?"),
    ],
)
def test_a_wrong_study_file_is_told_before_the_first_trial(
    study: list[str], change: tuple[str, str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("gamma.yaml").write_text(STUDY.replace(*change))
    assert main(study) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not Path("runs/gamma/results").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["focal", "losses", "losses_own", "focal_networks", "course_mlp", "parameters", "cnn_ablation"]
)
def test_the_shipped_studies_of_the_results_run(name: str, repository: Path) -> None:
    study = ["sweep", "--config", str(repository / "sweeps" / f"{name}.yaml"), "--data", "tiny_digits.TinyDigits"]
    # Another number of epochs than any arm's, and shifts as in the experiment, so that no two arms are the same.
    shifts = ["--data.augmentation", "{rotation: 0, shift: 1, scale: 0}"] if name == "cnn_ablation" else []
    assert main([*study, "--seeds", "0", "--trainer.max_epochs", "2", *shifts]) == 0
    arms = yaml.safe_load((repository / "sweeps" / f"{name}.yaml").read_text())["arms"]
    assert {result["setting"]["arm"] for result in read_results(Path("runs", name))} == set(arms)


def test_the_same_question_is_asked_of_another_experiment(study: list[str]) -> None:
    Path("other").mkdir()
    Path("other/wide.yaml").write_text(Path("tiny.yaml").read_text().replace("hidden: [16]", "hidden: [17]"))
    assert main([*study, "--experiment", "other/wide.yaml", "--seeds", "0"]) == 0
    record = json.loads(Path("runs/gamma/study.json").read_text())
    assert record["experiment"]["model"]["init_args"]["hidden"] == [17]
    assert main([*study, "--seeds", "0"]) == 2  # another study than the one in that folder


def test_study_record_holds_data_and_experiment(study: list[str]) -> None:
    assert main(study) == 0
    record = json.loads(Path("runs/gamma/study.json").read_text())
    assert record["data"]["name"] == "tiny-digits"
    assert record["experiment"]["trainer"]["max_epochs"] == 2


def test_the_monitor_of_a_study_is_what_its_models_schedules_watch(tiny_mlp: list[str]) -> None:
    command_line = CommandLine(tiny_mlp, "")
    assert command_line.build().model.monitor is None
    Study(StudyFile("tiny.yaml", {"focal": {}}, [0], monitor="val/loss"), Path("runs/tiny"), command_line)
    assert command_line.build().model.monitor == "val/loss"
