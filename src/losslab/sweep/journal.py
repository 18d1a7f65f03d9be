"""Optuna's journal file after a kill in the middle of a write."""

import os
import shutil
from pathlib import Path

from optuna.storages.journal import JournalFileSymlinkLock


def repair_journal(journal: Path) -> None:
    """Cut off a last line that was written by half; Optuna could neither read past it nor append to it.

    Under the journal's own lock, with the file as it was kept beside it.
    """
    if not journal.exists():
        return
    lock = JournalFileSymlinkLock(str(journal))
    lock.acquire()
    try:
        content = journal.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            shutil.copy2(journal, journal.with_name(f"{journal.name}.torn"))
            os.truncate(journal, whole)
    finally:
        lock.release()
