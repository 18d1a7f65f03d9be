"""Where Optuna keeps a study: a journal file, or a database that may be away for a while."""

import functools
import importlib.util
import os
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import optuna
from filelock import FileLock
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, InterfaceError, OperationalError

from losslab.errors import UserError
from losslab.run import stopping_at_once, study_name
from losslab.study import (
    Setting,
    StudyFile,
    grid_settings,
    make_pruner,
    make_sampler,
    optuna_parameters,
    setting_from_parameters,
)

PATIENCE_SECONDS = 600.0
"""How long a database may be away."""

MAY_BE_AWAY = (StorageInternalError, OperationalError, InterfaceError)
"""Errors that may say so; `_lost_connection` tells."""


def open_storage(storage: str, folder: Path, wait: bool = False) -> "PatientStorage | Journal":
    """Open a study's storage.

    Args:
        storage: "journal" or a database URL.
        folder: the study's.
        wait: whether a database that does not answer is waited for, since it is known to be one.

    Raises:
        UserError: it is no URL, its driver is missing, or the database does not answer. No message shows a password.
    """
    if storage == "journal":
        journal = folder / "journal.log"
        repair_journal(journal)
        return Journal(JournalFileBackend(str(journal), JournalLock(journal)))
    url = _url(storage)
    if url.drivername == "postgresql":
        url = url.set(drivername=f"postgresql+{_postgres_driver()}")

    def opened() -> PatientStorage:
        return PatientStorage(url.render_as_string(hide_password=False), engine_kwargs={"pool_pre_ping": True})

    try:
        try:
            return opened()
        except MAY_BE_AWAY as error:
            if not wait:
                raise
            return _when_it_answers(opened, error, storage)
    except Exception as error:  # of Optuna, SQLAlchemy or the driver: whichever it is, the study cannot begin
        raise UserError(f"the study's storage {shown(storage)} cannot be opened: {reason(error, storage)}") from None


def shown(storage: str) -> str:
    """The storage as records and messages show it: without a password."""
    return storage if storage == "journal" else _hidden(_url(storage))


def reason(error: BaseException, storage: str) -> str:
    """An error's first line, without the password that the storage's URL may have."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error
    line = (str(cause).splitlines() or [""])[0] or type(cause).__name__
    return line if storage == "journal" else _without_secrets(line, _url(storage))


def _url(storage: str) -> URL:
    try:
        return make_url(storage)
    except (ArgumentError, ValueError):
        # Not shown: a password with an unescaped character is a likely cause.
        raise UserError(
            "the study's storage cannot be opened: it must be 'journal' or a URL such as "
            "postgresql://user@host/database, with special characters in a password escaped (%40 for @)."
        ) from None


def _secrets(url: URL) -> set[str]:
    """Passwords as they are, and as a URL has them."""
    values = [url.password, *(url.query.get(key) for key in ("password", "sslpassword"))]
    plain = [str(value) for value in values if value]
    return {form for value in plain for form in (value, quote(value, safe=""), quote(value, safe=" +"))}


def _without_secrets(text: str, url: URL) -> str:
    return functools.reduce(lambda text, secret: text.replace(secret, "***"), _secrets(url), text)


def _hidden(url: URL) -> str:
    return _without_secrets(url.render_as_string(hide_password=True), url)


def _postgres_driver() -> str:
    for driver in ("psycopg", "psycopg2"):
        if importlib.util.find_spec(driver):
            return driver
    raise UserError("a PostgreSQL storage needs a driver: pip install 'losslab[postgres]'.")


class Journal(JournalStorage):
    """A journal file, which is never away."""

    is_away, answers_since = False, 0.0


class PatientStorage(RDBStorage):
    """A database storage that waits while its server is away, and tries again.

    Optuna's own gives up at the first call. Every call may be repeated: should the server have gone between a commit
    and its answer, a trial is left over that belongs to nobody, which is queued again, or was told already.
    """

    is_away = False
    """Whether a call waits for the server, or waited until it was stopped."""

    answers_since = 0.0
    """Time at which the server answered again, after it last was away."""


def _lost_connection(error: BaseException | None) -> BaseException | None:
    """What says that the database is away, among an error and those that led to it; None if nothing does.

    Optuna answers a failed query with another one on the same connection, whose error then hides the first.
    """
    while error is not None and not isinstance(error, OperationalError | InterfaceError):
        error = error.__cause__ or error.__context__
    return error


def _when_it_answers(once: Callable[[], Any], error: Exception, storage: str) -> Any:
    """What `once`, which failed with `error`, returns when it is called again and the database answers.

    Raises:
        Interrupted: Ctrl-C or SIGTERM.
        UserError: it was away for too long.
        Exception: `error`, or the one of a later call, if it does not say that the database is away.
    """
    deadline, pause = time.monotonic() + PATIENCE_SECONDS, 0.5
    said = False
    with stopping_at_once():
        while True:
            lost = _lost_connection(error)
            if lost is None:
                raise error
            if time.monotonic() > deadline:
                raise UserError(
                    f"the database was away for {PATIENCE_SECONDS:.0f} s: {reason(lost, storage)}. "
                    "Finished results are on disk; the same command continues the study."
                ) from None
            if not said:
                print(f"The database does not answer: {reason(lost, storage)} Waiting for it.", flush=True)
            said = True
            time.sleep(pause)
            pause = min(2 * pause, 15.0)
            try:
                answer = once()
            except MAY_BE_AWAY as again:
                error = again
            else:
                print("The database answers again.", flush=True)
                return answer


def patient(once: Callable[..., Any]) -> Callable[..., Any]:
    """The same method of the storage, called again until the database answers."""

    @functools.wraps(once)
    def call(self: PatientStorage, *arguments: Any, **named: Any) -> Any:
        try:
            return once(self, *arguments, **named)
        except MAY_BE_AWAY as error:
            self.is_away = True
            answer = _when_it_answers(lambda: once(self, *arguments, **named), error, self.url)
            self.is_away, self.answers_since = False, time.time()
            return answer

    return call


for _name in (
    *(BaseStorage.__abstractmethods__ - {"get_best_trial"}),
    # What Optuna's cache in front of it calls.
    *("_create_new_trial", "_set_trial_param", "_get_trials", "_get_best_trial_id"),
):
    setattr(PatientStorage, _name, patient(getattr(RDBStorage, _name)))


class JournalLock(BaseJournalFileLock):
    """The journal's lock for writers, held by the operating system for a process, hence gone with it.

    Optuna's own locks are files that outlive a killed process; the others would wait half a minute for each. Whoever
    takes this one finds the journal whole: the next writer would else append to the line in which one was killed.

    Args:
        journal: the journal file.
    """

    def __init__(self, journal: Path) -> None:
        self._journal, self._lock = journal, FileLock(journal.with_suffix(".lock"))

    def acquire(self) -> bool:
        self._lock.acquire()
        try:
            _cut_half_line(self._journal)
        except BaseException:
            self._lock.release()
            raise
        return True

    def release(self) -> None:
        self._lock.release()


def repair_journal(journal: Path) -> None:
    """Cut off a last line that was written by half, with the file as it was kept beside it."""
    lock = JournalLock(journal)
    lock.acquire()
    lock.release()


def _cut_half_line(journal: Path) -> None:
    if not journal.exists() or (size := journal.stat().st_size) == 0:
        return
    with journal.open("rb") as file:
        file.seek(size - 1)
        if file.read(1) == b"\n":
            return
    content = journal.read_bytes()
    shutil.copy2(journal, journal.with_name(f"{journal.name}.torn"))
    os.truncate(journal, content.rfind(b"\n") + 1)


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
            sampler=make_sampler(study),
            pruner=make_pruner(study),
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
            study.enqueue_trial(optuna_parameters(setting), {"queued": optuna_parameters(setting)})


def queued_settings(study: optuna.Study) -> list[Setting]:
    """Every setting that was ever queued, once."""
    found: list[Setting] = []
    for trial in study.get_trials(deepcopy=False):
        mark = trial.user_attrs.get("queued")
        if mark is not None and setting_from_parameters(mark) not in found:
            found.append(setting_from_parameters(mark))
    return found
