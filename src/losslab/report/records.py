"""Predictions, epochs, configurations, images and origins of a study's runs."""

import contextlib
import json
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from losslab.errors import UserError
from losslab.report.figure import Table
from losslab.run import CommandLine, RunFolder, read_predictions, read_record, require_same_data
from losslab.study import Result, SettingResults

CONFIRM_FOLDER = "confirm"
TEST_PREDICTIONS = "test/predictions.npz"
"""Predictions of the test images, in a run's folder."""


class Predictions(NamedTuple):
    """A setting's predictions of images that S seeds share: those seeds whose predictions.npz exists.

    Args:
        logits: (S, N, C) float32.
        labels: (N,) int64, the same for all seeds.
        images: the same text for predictions of the same images; "" if it is not recorded.
        run: the folder of one of the runs.
    """

    logits: np.ndarray
    labels: np.ndarray
    images: str = ""
    run: Path = Path()

    def has_images_of(self, other: "Predictions") -> bool:
        """Return whether both are of the same images."""
        return self.images == other.images and np.array_equal(self.labels, other.labels)


def setting_predictions(
    study: Path, setting: SettingResults, seed: int | None = None, of_test: bool = False
) -> Predictions | None:
    """Return the predictions of the setting's runs, of the validation images or the test images.

    Args:
        study: the folder in which the runs' paths start.
        setting: the setting.
        seed: the only one to read; None: all.
        of_test: read what a confirmation has written about the test images.

    Returns:
        None if there are none, or if they are of different images.
    """
    found = []
    for (each, images), name in zip(image_identities(study, setting, of_test).items(), setting.runs, strict=True):
        run = study / name
        if seed is None or each == seed:
            with contextlib.suppress(OSError, ValueError):
                file = run / TEST_PREDICTIONS if of_test else RunFolder(run).predictions_file
                logits, labels = read_predictions(file)
                found.append(Predictions(logits[None], labels, images, run))
    if not found or not all(part.has_images_of(found[0]) for part in found):
        return None
    return found[0]._replace(logits=np.concatenate([part.logits for part in found]))


def image_identities(study: Path, setting: SettingResults, of_test: bool = False) -> dict[int, str]:
    """Return a text for each seed that is the same for runs with the same validation images, or test images.

    The hash of the split does not tell: it covers the training images, which a long tail draws for each seed. Equal
    labels do not tell either: images that are sorted by class have the same labels in every split.
    """
    runs = {seed: study / run for seed, run in zip(setting.seeds, setting.runs, strict=True)}
    if of_test:
        return {seed: _test_hashes(run).get("test", "") for seed, run in runs.items()}
    data = read_config(study, setting).get("data") or {}
    given = data.get("init_args") or {}
    drawn = [given.get(key) for key in ("imbalance", "permute_ranks", "label_noise")]
    by_seed = given.get("validation") == "like_training" and any(drawn)
    identities = {}
    for seed, run in runs.items():
        images = RunFolder(run).manifest().get("hashes", {}).get("train")
        split = seed if given.get("split_seed") is None else given["split_seed"]
        parts = [data.get("class_path"), images, given.get("val_size"), split, *([*drawn, seed] if by_seed else [])]
        identities[seed] = json.dumps(parts)
    return identities


def _test_hashes(run: Path) -> dict[str, str]:
    """Return the hashes that a run's test has recorded."""
    record = read_record((run / TEST_PREDICTIONS).with_name("metrics.json")) or {}
    hashes: dict[str, str] = record.get("hashes", {})
    return hashes


def read_epochs(study: Path, setting: SettingResults, keys: list[str]) -> dict[str, np.ndarray]:
    """Return the mean over the seeds of each key after each epoch, (epochs,); keys that a run lacks are left out."""
    tables = [table for run in setting.runs if (table := RunFolder(study / run).epochs())]
    epochs = min((len(table) for table in tables), default=0)
    means = {}
    for key in keys:
        values = [[table[epoch].get(key) or "nan" for epoch in range(epochs)] for table in tables]
        numbers = np.array(values, dtype=float).reshape(len(tables), epochs)  # (S, epochs)
        if numbers.size and not np.isnan(numbers).any():
            means[key] = numbers.mean(axis=0)
    return means


def read_config(study: Path, setting: SettingResults) -> dict[str, Any]:
    """Return the configuration of the setting's first run; {} if it cannot be read."""
    try:
        return RunFolder(study / setting.runs[0]).config()
    except (UserError, IndexError):
        return {}


def focal_gamma(config: dict[str, Any]) -> float | None:
    """Return gamma if the loss is FocalLoss without class weights and label smoothing; else None."""
    loss = ((config.get("model") or {}).get("init_args") or {}).get("loss") or {}
    arguments = loss.get("init_args") or {}
    if not str(loss.get("class_path", "")).endswith(".FocalLoss") or arguments.get("class_weights") is not None:
        return None
    return float(arguments.get("gamma", 2.0)) if not arguments.get("label_smoothing") else None


NOT_IN_CLASS_COUNTS = ("root", "batch_size", "eval_batch_size", "augmentation", "split_seed", "validation")
"""Arguments of data that leave the number of training images of each class as it is."""


def loss_identity(config: dict[str, Any], loss: Any = None, by_frequency: bool = False) -> str:
    """Return a text that is the same for configurations whose values of the loss are on the same scale.

    Args:
        config: a resolved configuration.
        loss: describes the built loss, which a network of the user's own may make itself; None: the configuration's.
        by_frequency: whether the loss depends on class frequencies; its scale then is one only for the same data.
    """
    given = ((config.get("model") or {}).get("init_args") or {}).get("loss")
    data = config.get("data") or {}
    counted = {k: v for k, v in (data.get("init_args") or {}).items() if k not in NOT_IN_CLASS_COUNTS}
    return json.dumps([loss or given, [data.get("class_path"), counted] if by_frequency else None], sort_keys=True)


def split_images(run: Path, of_test: bool = False) -> np.ndarray:
    """Return the images of a run's validation split, or the test images, in their order: (N, channels, h, w) uint8.

    Nothing is evaluated, so that the count of test reads stays as it is.

    Raises:
        UserError: the images cannot be read, or differ from those of the training, or of the test.
    """
    folder = RunFolder(run)
    command_line = CommandLine(["--config", str(folder.config_file)], "losslab report", recorded=True)
    config = command_line.resolved()
    config["trainer"] = {"accelerator": "cpu"}  # nothing is trained: no tracker, and no device that may be missing
    command_line.parse_config(config)
    data = command_line.build().data
    data.prepare_data()
    data.setup("test" if of_test else "fit")
    known = folder.manifest()
    if of_test:
        known["hashes"] = known.get("hashes", {}) | _test_hashes(run)
    require_same_data(known, data, run)
    return data.split("test" if of_test else "val").images.cpu().numpy()


AS_DRAWN = "as drawn, without long tail and label noise"


def provenance_table(folder: Path, results: list[Result]) -> Table:
    """Return code, data, split, configurations, seeds, versions, devices and seconds of a study's results."""
    manifest = RunFolder(folder / results[0]["run"]).manifest() if "run" in results[0] else {}
    changes = (read_record(folder / "study.json") or {}).get("code_changes", [])
    accepted = [f"{', '.join(sorted(change['former']))} (accepted {change['at']})" for change in changes]
    versions = ", ".join(f"{name} {version}" for name, version in manifest.get("versions", {}).items())
    seconds = sum(result.get("seconds", 0.0) for result in results)
    validation = validation_text(folder)

    def distinct(key: str) -> str:
        return ", ".join(sorted({result.get(key, "?") for result in results}))

    rows = [
        ["losslab", ", ".join(sorted(set(map(losslab_origin, results))))],
        ["your repository", ", ".join(sorted({_commit(r.get("git_commit"), r.get("git_dirty")) for r in results}))],
        ["code that changed", "; ".join(accepted) or "none"],
        ["images", distinct("data_name")],
        ["data (SHA-256)", _hashes(results, "train")],
        ["split (SHA-256)", _hashes(results, "split")],
        ["validation images", f"{validation}, with its long tail and label noise" if validation else AS_DRAWN],
        ["configurations", f"{len({result['setting_hash'] for result in results})}, {len(results)} trainings"],
        ["training images", _class_counts(results)],
        ["seeds", ", ".join(map(str, sorted({result["seed"] for result in results})))],
        ["versions", versions or "not recorded"],
        ["device", distinct("device")],
        ["precision", distinct("precision")],
        ["seconds", f"{seconds:.0f} of training, {seconds / len(results):.1f} for each"],
        ["started", min(result.get("started_at", "?") for result in results)],
    ]
    return Table(["what", "value"], rows)


def changed_code_text(folder: Path, results: list[Result]) -> str:
    """Return ", code changed: mine.MyLoss (4 of 12 results are of other code)" if a user has accepted that, else ""."""
    record = read_record(folder / "study.json") or {}
    former = {pair for change in record.get("code_changes", []) for pair in change["former"].items()}
    if not former:
        return ""
    names = ", ".join(sorted({name for name, _ in former}))
    former -= record.get("code", {}).items()
    count = sum(not former.isdisjoint(result.get("code", {}).items()) for result in results)
    of_other = f" ({count} of {len(results)} results {'is' if count == 1 else 'are'} of other code)" if count else ""
    return f", code changed: {names}{of_other}"


def losslab_origin(record: Result) -> str:
    """Return the version and the commit of the losslab that a result or a run was made with."""
    losslab = record.get("losslab")
    if losslab is None:
        return "not recorded"
    return f"{losslab['version']}, {_commit(losslab['commit'], losslab['dirty'])}"


def _commit(commit: str | None, dirty: bool | None) -> str:
    return f"commit {commit}{', with changes' if dirty else ''}" if commit else "not in a repository"


def confirmation_folders(study: Path) -> list[Path]:
    """Return runs/<study>/confirm, confirm-2 and so on, in this order."""
    found = [file.parent for file in study.glob(f"{CONFIRM_FOLDER}*/study.yaml")]
    return sorted(found, key=lambda folder: (len(folder.name), folder.name))


def reproduce_commands(folder: Path) -> list[str]:
    """Return the commands that reproduce the study, its confirmations and its page, and train the choice."""
    records = (read_record(part / "study.json") or {} for part in (folder, *confirmation_folders(folder)))
    commands = [record["command"] for record in records if record.get("command")]
    study, best = shlex.quote(str(folder)), shlex.quote(f"{folder}/best.yaml")
    return [*commands, f"losslab report {study}", f"losslab fit --config {best}"]


def _hashes(results: list[Result], name: str) -> str:
    """Return the hash of the images or of the split; if there are several, the first 12 digits of each seed's."""
    found = {(result["seed"], result.get("hashes", {}).get(name) or "not recorded") for result in results}
    if len(digests := {digest for _, digest in found}) == 1:
        return digests.pop()
    return ", ".join(f"seed {seed}: {digest[:12]}" for seed, digest in sorted(found))


def validation_text(folder: Path) -> str:
    """Return "like training" if a study or confirmation chooses on such validation images, else ""."""
    record, like = read_record(folder / "study.json") or {}, '"like_training"'
    if like in json.dumps((record.get("experiment") or {}).get("data")):
        return "like training"
    varied = [(record.get("study") or {}).get(key) for key in ("arms", "grid")]
    return "of some settings like training" if like in json.dumps(varied) else ""


def _class_counts(results: list[Result]) -> str:
    counts: dict[str, int] = results[0].get("class_counts", {})
    if not counts:
        return "not recorded"
    total, low, high = sum(counts.values()), min(counts.values()), max(counts.values())
    classes = f"{low:,} of each class" if low == high else f"{high:,} of the largest class, {low:,} of the smallest"
    return f"{total:,}: {classes}"


def require_same_conditions(folder: Path, results: list[Result]) -> None:
    """Raise UserError if results of one setting differ in images, split or limits, or of two settings of the same data.

    A study whose arms or values change the data, or the Trainer, has settings of different images, or limits.
    """
    arms = json.loads((folder / "study.json").read_text()).get("study", {}).get("arms") or {}
    paths = [*(path for arm in arms.values() for path in arm), *(p for r in results for p in r["setting"]["values"])]
    varied = {path.partition(".")[0] for path in paths}
    first: dict[tuple[Any, ...], tuple[Result, str]] = {}
    for result in results:
        hashes, seed = result.get("hashes", {}), result["seed"]
        measured = (
            ("data", "images", None, result.get("data_name")),
            # The seed draws a long tail and label noise, and a user's images may depend on it.
            ("data", "images", seed, hashes.get("train")),
            ("data", "splits", seed, hashes.get("split")),
            ("trainer", "limits", None, json.dumps(result.get("conditions") or {}, sort_keys=True)),
        )
        for part, kind, of_seed, value in measured:
            group = (kind, of_seed, result["setting_hash"] if part in varied else "")
            known, other = first.setdefault(group, (result, value)) if value else (result, value)
            if value != other:
                raise UserError(
                    f"{folder}: results of different {kind} cannot be averaged or compared: {known['label']} "
                    f"seed={known['seed']} has {other}, {result['label']} seed={seed} has {value}. "
                    "Run the study again under another --name."
                )


def limits_text(records: Iterable[dict[str, Any]]) -> str:
    """Return "limited: limit_train_batches=1" for results or manifests whose conditions say so, else ""."""
    found = {", ".join(f"{key}={value}" for key, value in (r.get("conditions") or {}).items()) for r in records}
    texts = sorted(found - {""})
    return f"{'partly ' if '' in found else ''}limited: {' or '.join(texts)}" if texts else ""
