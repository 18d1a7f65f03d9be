"""Optuna's side of a study: opened in its storage, a grid's settings queued once."""

from pathlib import Path

import optuna

from losslab.errors import UserError
from losslab.sweep.setting import grid_settings, parameters
from losslab.sweep.storage import Journal, PatientStorage, open_storage, reason
from losslab.sweep.study_file import StudyFile, pruner_of, sampler_of


def open_study(study: StudyFile, folder: Path) -> tuple[optuna.Study, PatientStorage | Journal]:
    """Open a study, or create it. Call it under the study's lock.

    Args:
        study: the study file.
        folder: runs/<study>, whose name is the study's.

    Raises:
        UserError: the storage cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = open_storage(study.storage, folder)
    try:
        known = folder.name in optuna.get_all_study_names(storage)
        opened = optuna.create_study(
            study_name=folder.name,
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
    if study.grid:
        # A process may have died in the middle of this: what is queued is not queued again.
        queued = [trial.user_attrs.get("queued") for trial in opened.get_trials(deepcopy=False)]
        for setting in grid_settings(study):
            if parameters(setting) not in queued:
                opened.enqueue_trial(parameters(setting), {"queued": parameters(setting)})
    return opened, storage
