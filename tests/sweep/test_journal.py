"""A journal whose last line was written by half is mended, wherever it was cut."""

from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from losslab.sweep.journal import JournalLock, repair_journal


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    path = tmp_path / "journal.log"
    study = optuna.create_study(study_name="s", storage=JournalStorage(JournalFileBackend(str(path))))
    for x in range(3):
        study.enqueue_trial({"x": x})
        trial = study.ask()
        study.tell(trial, trial.suggest_int("x", 0, 9))
    return path


def open_study(journal: Path) -> optuna.Study:
    storage = JournalStorage(JournalFileBackend(str(journal), JournalLock(journal)))
    return optuna.load_study(study_name="s", storage=storage)


def test_cut_at_every_byte_of_its_last_two_lines_it_can_be_read_and_written_again(journal: Path) -> None:
    whole = journal.read_bytes()
    lines = whole.splitlines(keepends=True)
    torn = journal.with_name("journal.log.torn")
    for cut in range(1, len(lines[-1]) + len(lines[-2])):
        torn.unlink(missing_ok=True)
        journal.write_bytes(whole[:-cut])
        repair_journal(journal)
        study = open_study(journal)
        assert len(study.trials) == 3
        assert [trial.params["x"] for trial in study.trials[:2]] == [0, 1]
        study.tell(study.ask(), 1.0)
        assert open_study(journal).trials[-1].value == 1.0
        if cut == len(lines[-1]):  # a line less, and whole
            assert not torn.exists()
        else:
            assert torn.read_bytes() == whole[:-cut]


def test_a_line_that_is_cut_while_others_work_is_mended_by_the_next_writer(journal: Path) -> None:
    study = open_study(journal)
    with journal.open("ab") as file:
        file.write(b'{"op_code": 4, "study_')
    assert len(study.trials) == 3
    study.tell(study.ask(), 2.0)
    assert [trial.value for trial in study.trials] == [0.0, 1.0, 2.0, 2.0]
    assert open_study(journal).trials[-1].value == 2.0


def test_a_whole_journal_is_left_alone(journal: Path) -> None:
    whole = journal.read_bytes()
    repair_journal(journal)
    assert journal.read_bytes() == whole
    assert not journal.with_name("journal.log.torn").exists()
