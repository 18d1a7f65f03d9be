"""Where Optuna keeps a study: a journal file, or a database that may be away for a while."""

import contextlib
import functools
import importlib.util
import os
import shutil
import time
from collections.abc import Callable, Iterator
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
from losslab.study import StudyFile

PATIENCE_SECONDS = 600.0
"""How long a database may be away."""

MAY_BE_AWAY = (StorageInternalError, OperationalError, InterfaceError)
"""Errors of a database that may be away; `_connection_error` decides."""


def open_storage(storage: str, folder: Path, wait: bool = False) -> "PatientStorage | Journal":
    """Open a study's storage.

    Args:
        storage: "journal" or a database URL.
        folder: runs/<study>.
        wait: retry a database that does not answer (it has answered before).

    Raises:
        UserError: the storage is no URL, its driver is missing, or the database does not answer. No message shows a
            password.
    """
    if storage == "journal":
        journal = folder / "journal.log"
        repair_journal(journal)
        return Journal(JournalFile(str(journal), JournalLock(journal)))
    url = _url(storage)
    if url.drivername == "postgresql":
        url = url.set(drivername=f"postgresql+{_postgres_driver()}")

    def connect() -> PatientStorage:
        return PatientStorage(url.render_as_string(hide_password=False), engine_kwargs={"pool_pre_ping": True})

    try:
        try:
            return connect()
        except MAY_BE_AWAY as error:
            if not wait:
                raise
            return _retry(connect, error, storage)
    except Exception as error:  # of Optuna, SQLAlchemy or the driver: in any case the study cannot begin
        where = hide_password(storage)
        raise UserError(f"the study's storage {where} cannot be opened: {error_line(error, storage)}") from None


def hide_password(storage: str) -> str:
    """Return the storage for records and messages: a URL's password is replaced by ***."""
    if storage == "journal":
        return storage
    return _hide_secrets(_url(storage).render_as_string(hide_password=True), storage)


def error_line(error: BaseException, storage: str) -> str:
    """Return an error's first line, without the password of the storage's URL."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error
    line = (str(cause).splitlines() or [""])[0] or type(cause).__name__
    return line if storage == "journal" else _hide_secrets(line, storage)


def _url(storage: str) -> URL:
    try:
        return make_url(storage)
    except (ArgumentError, ValueError):
        # The message leaves the URL out: a password with an unescaped character is a likely cause.
        raise UserError(
            "the study's storage cannot be opened: it must be 'journal' or a URL such as "
            "postgresql://user@host/database, with special characters in a password escaped (%40 for @)."
        ) from None


def _hide_secrets(text: str, storage: str) -> str:
    """Replace the URL's passwords in a text, plain and escaped as in a URL."""
    url = _url(storage)
    for value in (url.password, url.query.get("password"), url.query.get("sslpassword")):
        for form in (str(value), quote(str(value), safe=""), quote(str(value), safe=" +")) if value else ():
            text = text.replace(form, "***")
    return text


def _postgres_driver() -> str:
    for driver in ("psycopg", "psycopg2"):
        if importlib.util.find_spec(driver):
            return driver
    raise UserError("a PostgreSQL storage needs a driver: pip install 'losslab[postgres]'.")


class JournalFile(JournalFileBackend):
    """A journal's file, to which many entries can be written at once: each append waits for the disk."""

    _held: list[dict[str, Any]] | None = None

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Append all that is logged inside at the end; after a kill, the whole lines of it count."""
        self._held = held = list[dict[str, Any]]()
        try:
            yield
        finally:
            self._held = None
            if held:
                super().append_logs(held)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        if (held := self._held) is None:
            super().append_logs(logs)
        else:
            held.extend(logs)


class Journal(JournalStorage):
    """A journal file; it is never away."""

    is_away, answers_since = False, 0.0

    def __init__(self, file: JournalFile) -> None:
        super().__init__(file)
        self.together = file.together
        # The number that Optuna returns for a trial that is created, and not read back from the file yet.
        self._replay_result.__dict__.setdefault("_last_created_trial_id_by_this_process", -1)


class PatientStorage(RDBStorage):
    """A database storage that waits while its server is away, and tries again; Optuna's own fails at the first call.

    Every call may be repeated. If the server goes away between a commit and its answer, a trial remains without an
    owner, which is queued again, or a trial is finished already.
    """

    is_away = False
    """Whether a call waits for the server, or waited until it was stopped."""

    answers_since = 0.0
    """Time at which the server answered again, after it last was away."""

    together = contextlib.nullcontext
    """See `JournalFile.together`; a database stores each entry by itself."""


def _connection_error(error: BaseException | None) -> BaseException | None:
    """Return the error that shows a lost connection, among an error and its causes; None if there is none.

    Optuna answers a failed query with another one on the same connection, whose error then hides the first.
    """
    while error is not None and not isinstance(error, OperationalError | InterfaceError):
        error = error.__cause__ or error.__context__
    return error


def _retry(call: Callable[[], Any], error: Exception, storage: str) -> Any:
    """Repeat a call that failed with `error` until the database answers, and return the answer.

    Raises:
        Interrupted: Ctrl-C or SIGTERM.
        UserError: the database was away for too long.
        Exception: `error`, or a later one, if it does not show a lost connection.
    """
    deadline, pause, announced = time.monotonic() + PATIENCE_SECONDS, 0.5, False
    with stopping_at_once():
        while True:
            lost = _connection_error(error)
            if lost is None:
                raise error
            if time.monotonic() > deadline:
                raise UserError(
                    f"the database was away for {PATIENCE_SECONDS:.0f} s: {error_line(lost, storage)}. "
                    "Finished results are on disk; the same command continues the study."
                ) from None
            if not announced:
                print(f"The database does not answer: {error_line(lost, storage)} Waiting for it.", flush=True)
            announced = True
            time.sleep(pause)
            pause = min(2 * pause, 15.0)
            try:
                answer = call()
            except MAY_BE_AWAY as again:
                error = again
            else:
                print("The database answers again.", flush=True)
                return answer


def patient(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a storage's method that is repeated until the database answers."""

    @functools.wraps(method)
    def call(self: PatientStorage, *arguments: Any, **named: Any) -> Any:
        try:
            return method(self, *arguments, **named)
        except MAY_BE_AWAY as error:
            self.is_away = True
            answer = _retry(lambda: method(self, *arguments, **named), error, self.url)
            self.is_away, self.answers_since = False, time.time()
            return answer

    return call


for _name in (
    *(BaseStorage.__abstractmethods__ - {"get_best_trial"}),
    # Called by Optuna's cache, which stands in front of the storage.
    *("_create_new_trial", "_set_trial_param", "_get_trials", "_get_best_trial_id"),
):
    setattr(PatientStorage, _name, patient(getattr(RDBStorage, _name)))


class JournalLock(BaseJournalFileLock):
    """The journal's lock for writers; the operating system releases it when its process ends.

    Optuna's own locks are files that outlive a killed process, and each would cost the others half a minute. To take
    this lock also repairs the journal: the next writer would else append to the line in which another was killed.

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
    """Cut off a half-written last line; the file as it was is kept beside it, as journal.log.torn."""
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
        folder: runs/<study>, named like the study.
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
            sampler=study.sampler or optuna.samplers.TPESampler(seed=0),
            pruner=study.pruner or optuna.pruners.NopPruner(),  # Optuna's default would prune
            load_if_exists=True,
        )
    except Exception as error:  # of Optuna or of the database's driver: in any case the study cannot begin
        raise UserError(f"the study's storage cannot be opened: {error_line(error, study.storage)}") from None
    if known:
        # A seeded sampler would repeat the draws of an earlier process, or of another one.
        opened.sampler.reseed_rng()
    return opened, storage
