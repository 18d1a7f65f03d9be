"""Tuning: which values a study tries at each seed, what it keeps, and what it compares."""

import json
import shutil
from pathlib import Path

import pytest
import small_studies
import yaml
from optuna.trial import TrialState
from small_studies import LEARNING_RATES, LR, TUNED, TUNED_EXPERIMENT, TUNED_ONCE

from losslab.cli import main
from losslab.report import read_trials, summarise, summarise_folder
from losslab.study import Result, read_declared, read_results
from losslab.study.setting import tuning_range

F1 = "val/f1/macro"


def by_arm_and_seed(folder: Path) -> dict[tuple[str, int], list[Result]]:
    groups: dict[tuple[str, int], list[Result]] = {}
    for result in read_results(folder):
        groups.setdefault((result["setting"]["arm"], result["seed"]), []).append(result)
    return groups


def best_runs(folder: Path) -> set[tuple[str, int]]:
    """Hash and seed of the best training of each arm and seed."""
    bests = [max(group, key=lambda result: result["metrics"][F1]) for group in by_arm_and_seed(folder).values()]
    return {(best["setting_hash"], best["seed"]) for best in bests}


def kept_runs(folder: Path) -> set[tuple[str, int]]:
    """Hash and seed of the trainings whose checkpoints are left."""
    return {
        (path.parts[-4], int(path.parts[-3].split("-")[1])) for path in folder.glob("runs/*/*/checkpoints/last.ckpt")
    }


def extended(scores: dict[float, float]) -> set[float]:
    """The rates that a list of factor 2 must have tried, if training at a rate gives this score."""
    tried = [*LEARNING_RATES]
    low, high = tuning_range(LEARNING_RATES)
    while True:
        best = max(tried, key=lambda rate: scores[rate])
        further = best / 2 if best == min(tried) else best * 2 if best == max(tried) else best
        if further == best or not low * 0.99 <= further <= high * 1.01:
            return {*tried}
        tried.append(further)


def test_each_seeds_replicate_is_the_best_on_its_own_validation_images(tuned_study: Path) -> None:
    summary, _ = summarise_folder(tuned_study)
    groups = by_arm_and_seed(tuned_study)
    assert [(setting.label, setting.seeds) for setting in summary.settings] == [
        (arm, [0, 1]) for arm in ("cross-entropy", "focal", "dice")
    ]
    for setting in summary.settings:
        for place, seed in enumerate(setting.seeds):
            best = max(groups[setting.arm, seed], key=lambda result: result["metrics"][F1])
            assert setting.values[F1][place] == best["metrics"][F1]
            assert setting.choices[LR][place] == best["setting"]["values"][LR]
            assert setting.runs[place] == best["run"]
    assert any(len({*setting.choices[LR]}) == 2 for setting in summary.settings)
    assert len(summary.tried) == len({result["setting_hash"] for result in read_results(tuned_study)})
    assert summary.baseline is not None
    assert summary.baseline.label == "cross-entropy"
    assert summary.heading.endswith("mean and sd over 2 seeds, lr tuned by each seed")
    assert len({result["hashes"]["split"] for result in read_results(tuned_study)}) == 2


def test_a_list_is_extended_for_an_arm_at_a_seed_while_its_best_lies_at_an_end_and_no_further(
    tuned_study: Path,
) -> None:
    groups = by_arm_and_seed(tuned_study)
    for results in groups.values():
        scores = {result["setting"]["values"][LR]: result["metrics"][F1] for result in results}
        assert {*scores} == extended(scores)
    assert len({len(results) for results in groups.values()}) > 1  # of some seeds further than of others
    trials = read_trials(tuned_study, read_declared(tuned_study)).trials
    assert len(trials) == sum(map(len, groups.values()))
    assert {(t.params["arm"], t.params[LR], t.params["seed"]) for t in trials} == {
        (arm, result["setting"]["values"][LR], seed) for (arm, seed), results in groups.items() for result in results
    }


def test_each_arm_and_seed_keeps_the_checkpoint_of_its_best(tuned_study: Path) -> None:
    assert kept_runs(tuned_study) == best_runs(tuned_study)
    assert len(best_runs(tuned_study)) == 6


def test_a_second_call_trains_nothing_and_best_yaml_has_the_median(study: Path) -> None:
    Path("study.yaml").write_text(TUNED + "tune_per: seed\n")  # the default, which the file left out
    before = {file: file.stat().st_mtime_ns for file in study.rglob("results/*/*.json")}
    assert main(["sweep", "--config", "study.yaml", "--name", "tuned"]) == 0
    assert {file: file.stat().st_mtime_ns for file in study.rglob("results/*/*.json")} == before
    assert kept_runs(study) == best_runs(study)
    summary, _ = summarise_folder(study)
    text, lowest = (study / "best.yaml").read_text(), min(summary.chosen.choices[LR])  # of two seeds
    assert yaml.safe_load(text)["model"]["init_args"]["optimizer"]["init_args"]["lr"] == lowest
    assert f"# {LR} is {lowest:g}, the median of what its 2 seeds chose, each on its own validation" in text
    assert main(["fit", "--config", str(study / "best.yaml"), "--name", "median"]) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("tune_per: study", "tune_per is seed in it, and tune_per is study in the file"),
        ("margins: {val/f1/macro: 0.01}", "margins"),
        ("seeds: [0, 1, 2]", "study.seeds"),
    ],
)
def test_what_changes_the_answer_is_refused(
    study: Path, capsys: pytest.CaptureFixture[str], change: str, message: str
) -> None:
    text = TUNED if change.split(":")[0] not in TUNED else TUNED.replace("seeds: [0, 1]\n", "")
    Path("study.yaml").write_text(f"{text}{change}\n")
    before = len(read_results(study))
    assert main(["sweep", "--config", "study.yaml", "--name", "tuned"]) == 2
    error = capsys.readouterr().err
    assert "holds a study that differs" in error
    assert message in error
    assert len(read_results(study)) == before


def test_a_value_that_fails_leaves_the_choice_to_the_others_and_an_arm_without_a_value_is_not_compared(
    study: Path,
) -> None:
    """As after failures, which leave no result; the trials of these are complete, so they are not asked."""
    focal = [result for result in read_results(study) if result["setting"]["arm"] == "focal"]
    best = max((r for r in focal if r["seed"] == 0), key=lambda r: r["metrics"][F1])
    (study / "results" / best["setting_hash"] / "0.json").unlink()
    summary = summarise("tuned", read_results(study), read_declared(study))
    (left,) = (setting for setting in summary.complete if setting.label == "focal")
    others = [r["metrics"][F1] for r in focal if r["seed"] == 0 and r is not best]
    assert left.values[F1][0] == max(others)
    for result in focal:
        (study / "results" / result["setting_hash"] / "0.json").unlink(missing_ok=True)
    summary = summarise("tuned", read_results(study), read_declared(study))
    assert [setting.label for setting in summary.settings] == ["cross-entropy", "focal", "dice"]
    assert [setting.label for setting in summary.complete] == ["cross-entropy", "dice"]
    assert summary.family is not None
    assert {verdict.setting for verdict in summary.family.verdicts} == {"dice"}
    assert main(["report", "runs/tuned"]) == 0


def without_focal(study: str) -> str:
    return "".join(line for line in study.splitlines(keepends=True) if not line.startswith("  focal:"))


ONE_SEED = without_focal(TUNED_ONCE).replace("seeds: [0, 1]", "seeds: [0]")
ONCE = ["sweep", "--config", "study.yaml", "--name", "once"]


@pytest.fixture(scope="module")
def tuned_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that tunes one value for all seeds."""
    folder = tmp_path_factory.mktemp("once")
    return small_studies.run_study(folder, "once", ONE_SEED, experiment=TUNED_EXPERIMENT)


@pytest.fixture
def once(tuned_once: Path, own_folder: Path) -> Path:
    """A copy of its folder, in the current one."""
    shutil.copytree(tuned_once.parent.parent, own_folder, dirs_exist_ok=True)
    return Path("runs/once")


def test_with_one_value_for_all_seeds_each_loss_gets_the_same_list_and_is_compared_at_its_best(
    tuned_once: Path,
) -> None:
    summary, results = summarise_folder(tuned_once)
    tried: dict[str, set[float]] = {}
    for result in results:
        tried.setdefault(result["setting"]["arm"], set()).add(result["setting"]["values"][LR])
    assert all(values >= {*LEARNING_RATES} for values in tried.values())
    limits = tuning_range(LEARNING_RATES)
    for setting in summary.settings:
        values, best = tried[setting.arm], setting.varied[LR]
        assert min(values) < best < max(values) or best in limits
        same_arm = [other for other in summary.tried if other.arm == setting.arm]
        assert setting.mean_sd(F1)[0] == max(s.mean_sd(F1)[0] for s in same_arm)
        assert setting.choices == {}
    assert any(max(values) > LEARNING_RATES[-1] for values in tried.values())  # these learning rates are low
    assert len(read_trials(tuned_once, read_declared(tuned_once)).trials) == sum(map(len, tried.values()))
    assert summary.baseline is not None
    assert summary.baseline.arm == "cross-entropy"
    page = (tuned_once / "report.html").read_text()
    assert f"All {len(summary.tried)} settings" in page
    assert "losslab confirm runs/once" in page


def test_one_value_for_all_seeds_is_warned_of_with_the_best_two(once: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert main(ONCE) == 0
    summary, _ = summarise_folder(once)
    before, *_, told = (record.getMessage() for record in caplog.records)
    assert before.startswith(
        "NOTICE: tune_per is study: one value for all seeds, and no interval contains that choice."
    )
    assert told.startswith("NOTICE: how close the best two values were, macro F1: ")
    for setting in summary.settings:
        same_arm = [other for other in summary.tried if other.arm == setting.arm]
        first, second = sorted(same_arm, key=lambda each: -each.mean_sd(F1)[0])[:2]
        assert f"{first.label} {100 * first.mean_sd(F1)[0]:.2f}, {second.label} " in told


@pytest.mark.slow
def test_a_study_of_before_tune_per_goes_on_with_one_value_for_all_seeds(
    once: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = once / "study.json"
    record = json.loads(file.read_text())
    for key in ("tune_per", "arm_tune", "margins"):
        del record["declared"][key]
    del record["study"]["tune_per"]
    file.write_text(json.dumps(record))
    summary, results = summarise_folder(once)
    assert not summary.study.tunes_each_seed
    assert {setting.label for setting in summary.settings} <= {result["label"] for result in results}
    Path("study.yaml").write_text(ONE_SEED.replace("tune_per: study\n", ""))
    assert main(ONCE) == 2
    assert "tune_per is study in it, and tune_per is seed in the file" in capsys.readouterr().err
    Path("study.yaml").write_text(ONE_SEED)
    assert main(ONCE) == 0
    assert len(read_results(once)) == len(results)
    assert main(["confirm", "runs/once", "--top", "1", "--seeds", "1"]) == 0
    confirmed = read_results(once / "confirm")
    assert {result["label"] for result in confirmed} <= {setting.label for setting in summary.settings}
    assert len(confirmed) == 2  # and nothing is tuned again


DRAWN = """\
experiment: tiny.yaml
arms:
  cross-entropy: {model.init_args.loss: {class_path: losslab.losses.CrossEntropyLoss}}
  focal: {model.init_args.loss: {class_path: losslab.losses.FocalLoss}}
tune: {LR: {class_path: optuna.distributions.FloatDistribution, init_args: {low: 0.002, high: 0.05, log: true}}}
arm_tune:
  focal: {GAMMA: {class_path: optuna.distributions.FloatDistribution, init_args: {low: 0, high: 5}}}
draws: 2
seeds: [0, 1]
baseline: {arm: cross-entropy}
""".replace("LR", LR).replace("GAMMA", small_studies.GAMMA_PATH)


@pytest.mark.slow
def test_each_seed_draws_values_that_its_arms_share_and_its_best_is_the_replicate(
    own_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = small_studies.run_study(own_folder, "drawn", DRAWN, experiment=TUNED_EXPERIMENT)
    groups = by_arm_and_seed(folder)
    rates = {key: {r["setting"]["values"][LR] for r in results} for key, results in groups.items()}
    assert {len(values) for values in rates.values()} == {2}  # nothing is extended
    assert rates["focal", 0] == rates["cross-entropy", 0] != rates["focal", 1] == rates["cross-entropy", 1]
    assert not rates["focal", 0] & rates["focal", 1]
    summary, _ = summarise_folder(folder)
    for setting in summary.settings:
        for place, seed in enumerate(setting.seeds):
            best = max(groups[setting.arm, seed], key=lambda result: result["metrics"][F1])
            values = best["setting"]["values"]
            assert {path: chosen[place] for path, chosen in setting.choices.items()} == values
    assert [[*setting.choices] for setting in summary.settings] == [[LR], [LR, small_studies.GAMMA_PATH]]
    assert "lr and gamma tuned by each seed" in summary.heading
    assert kept_runs(folder) == best_runs(folder)
    Path("study.yaml").write_text(DRAWN.replace("draws: 2", "draws: 3"))
    assert main(["sweep", "--config", "study.yaml", "--name", "drawn"]) == 2
    assert "study.draws: 2 -> 3" in capsys.readouterr().err


FAILING = ONE_SEED.replace("losslab.losses.DiceLoss", "at_some_rates.Fragile").replace("tune_per: study\n", "")
FRAGILE = """\
from losslab.losses import CrossEntropyLoss

class Fragile(CrossEntropyLoss):
    def forward(self, logits, target):
        if len(logits) == 20 and logits.abs().max() > 1.0:  # after some steps, the sooner the higher the rate
            raise RuntimeError("too large (simulated)")
        return super().forward(logits, target)
"""


@pytest.mark.slow
def test_a_failure_names_its_seed_and_is_of_that_value_alone(
    own_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("at_some_rates.py").write_text(FRAGILE)
    folder = small_studies.run_study(own_folder, "failing", FAILING, experiment=TUNED_EXPERIMENT)
    trials = small_studies.trials("failing")
    failed = [trial for trial in trials if trial.state == TrialState.FAIL]
    assert failed
    assert {trial.params["arm"] for trial in failed} == {"dice"}
    printed = capsys.readouterr().out
    for trial in failed:
        assert f"dice lr={trial.params[LR]:.4g} seed=0 failed: RuntimeError: too large" in printed
    assert "cross-entropy" in {setting.label for setting in summarise_folder(folder)[0].complete}
    assert main(["sweep", "--config", "study.yaml", "--name", "failing"]) == 0
    assert len(small_studies.trials("failing")) == len(trials)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [["--workers", "2"], ["--population", "16"], ["--keep", "all"]], ids=["workers", "population", "keep"]
)
def test_whichever_way_it_is_run_each_arm_and_seed_is_tuned_and_kept_alike(
    tuned_study: Path, own_folder: Path, repository: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(repository / "tests"))
    folder = small_studies.run_study(own_folder, "tuned", TUNED, *options, experiment=TUNED_EXPERIMENT)
    ours, theirs = ({(r["setting_hash"], r["seed"]): r for r in read_results(each)} for each in (folder, tuned_study))
    if "--population" not in options:  # whose sums are in another order
        assert {key: r["metrics"] for key, r in ours.items()} == {key: r["metrics"] for key, r in theirs.items()}
    else:
        assert sum("population" in result for result in ours.values()) >= 18
        for results in by_arm_and_seed(folder).values():
            scores = {result["setting"]["values"][LR]: result["metrics"][F1] for result in results}
            assert {*scores} == extended(scores)
    assert kept_runs(folder) == ({*ours} if "--keep" in options else best_runs(folder))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[0.0005, 0.001, 0.002]", "[0.1, 0.2]", "three increasing numbers"),
        ("[0.0005, 0.001, 0.002]", "[0.1, 0.3, 0.2]", "three increasing numbers"),
        ("[0.0005, 0.001, 0.002]", "[0, 0.1, 0.2]", "three increasing numbers"),
        ("[0.0005, 0.001, 0.002]", "[0.001, 0.003, 0.009]", "by more than a factor of 2"),
        ("tune:", f"grid: {{{LR}: [0.1]}}\ntune:", "in both grid and tune"),
        ("tune:", "tune:\n  model.init_args.dropout: [0.1, 0.2, 0.3]", "tune must be one list"),
        ("baseline: {arm: cross-entropy}", f"baseline: {{arm: dice, {LR}: 0.1}}", "baseline must give arm"),
        ("tune:", "trials: 3\ntune:", "trials is for a search"),
        ("tune:", "family: [val/recall/macro]\nmargins: {val/precision/macro: 0.1}\ntune:", "is not compared"),
        (
            "tune:",
            "margins: {val/recall/mcro: 0.1}\nfamily: [val/recall/mcro]\ntune:",
            "did you mean val/recall/macro?",
        ),
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
