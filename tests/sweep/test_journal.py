"""A journal whose last line was written by half is mended, wherever it was cut."""

from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from losslab.sweep.journal import repair_journal


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    path = tmp_path / "journal.log"
    study = optuna.create_study(study_name="s", storage=JournalStorage(JournalFileBackend(str(path))))
    for x in range(3):
        study.enqueue_trial({"x": x})
        trial = study.ask()
        study.tell(trial, trial.suggest_int("x", 0, 9))
    return path


def test_cut_at_every_byte_of_its_last_line_it_can_be_read_and_written_again(journal: Path) -> None:
    whole = journal.read_bytes()
    last_line = len(whole) - (whole.rstrip(b"\n").rfind(b"\n") + 1)
    for cut in range(1, last_line):
        journal.write_bytes(whole[:-cut])
        repair_journal(journal)
        storage = JournalStorage(JournalFileBackend(str(journal)))
        study = optuna.load_study(study_name="s", storage=storage)
        assert [trial.params.get("x") for trial in study.trials] == [0, 1, 2]
        study.tell(study.ask(), 1.0)
        assert journal.with_name("journal.log.torn").read_bytes() == whole[:-cut]


def test_a_whole_journal_is_left_alone(journal: Path) -> None:
    whole = journal.read_bytes()
    repair_journal(journal)
    assert journal.read_bytes() == whole
    assert not journal.with_name("journal.log.torn").exists()
