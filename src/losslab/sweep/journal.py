"""Optuna's journal file: its lock, and a last line that a kill left written by half."""

import os
import shutil
from pathlib import Path

from filelock import FileLock
from optuna.storages.journal._file import BaseJournalFileLock


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
