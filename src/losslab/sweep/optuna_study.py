"""Optuna's side of a study: opened in its storage, a grid's settings queued once."""

from collections.abc import Iterable
from pathlib import Path

import optuna

from losslab.errors import UserError
from losslab.run.folder import study_name
from losslab.study.setting import Setting, grid_settings, parameters, setting_of
from losslab.study.study_file import StudyFile, pruner_of, sampler_of
from losslab.sweep.storage import Journal, PatientStorage, open_storage, reason


def open_study(study: StudyFile, folder: Path, wait: bool = False) -> tuple[optuna.Study, PatientStorage | Journal]:
    """Open a study, or create it. Call it under the study's lock.

    Args:
        study: the study file.
        folder: runs/<study>, which gives the study its name.
        wait: see `open_storage`.

    Raises:
        UserError: the storage cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = open_storage(study.storage, folder, wait)
    try:
        known = study_name(folder) in optuna.get_all_study_names(storage)
        opened = optuna.create_study(
            study_name=study_name(folder),
            storage=storage,
            direction=study.direction,
            sampler=sampler_of(study),
            pruner=pruner_of(study),
            load_if_exists=True,
        )
    except Exception as error:  # of Optuna or of the database's driver: whichever it is, the study cannot begin
        raise UserError(f"the study's storage cannot be opened: {reason(error, study.storage)}") from None
    if known:
        # A seeded sampler would draw again what it drew before this process, or in another one.
        opened.sampler.reseed_rng()
    if not study.is_search:
        queue(opened, grid_settings(study))
    return opened, storage


def queue(study: optuna.Study, settings: Iterable[Setting]) -> None:
    """Queue settings, each once. Call it under the study's lock."""
    # A process may have died in the middle of this: what is queued is not queued again.
    known = queued_settings(study)
    for setting in settings:
        if setting not in known:
            study.enqueue_trial(parameters(setting), {"queued": parameters(setting)})


def queued_settings(study: optuna.Study) -> list[Setting]:
    """Every setting that was ever queued, once."""
    found: list[Setting] = []
    for trial in study.get_trials(deepcopy=False):
        mark = trial.user_attrs.get("queued")
        if mark is not None and setting_of(mark) not in found:
            found.append(setting_of(mark))
    return found
