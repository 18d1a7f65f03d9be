"""The tables of a kept study."""

from pathlib import Path

import pytest
from results.kept import kept_file
from results.page import KEPT
from results.summaries import KeptStudy, means_table, protocol, read_kept_study, search_table, study_section


def test_the_table_has_each_setting_with_its_value_means_and_verdicts(study: KeptStudy) -> None:
    assert study.newest is not None
    summary = study.newest.summary
    lines = means_table(study, summary, "confirm").splitlines()
    assert lines[0].startswith("|  | lr, median | macro precision | macro recall | head precision")
    assert "ECE after psi | confidence" in lines[0]
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| cross-entropy", "| focal"]
    focal = next(setting for setting in summary.settings if setting.label == "focal")
    mean, sd = focal.mean_sd("test/recall/tail")
    assert f"{100 * mean:.2f} ± {100 * sd:.2f}" in lines[3]
    assert summary.family is not None
    words = [v.word for v in summary.family.verdicts if v.setting == "focal"]
    assert (lines[3].count("▲"), lines[3].count("▼")) == (words.count("higher"), words.count("lower"))


@pytest.fixture
def former() -> KeptStudy:
    """A study by the former protocol: one learning rate for all seeds."""
    read = read_kept_study(kept_file(KEPT, "losses-tail-0.01-former"))
    assert read is not None
    return read


def test_the_search_shows_what_was_chosen(former: KeptStudy) -> None:
    text = search_table(former)
    for setting in former.search.settings:
        assert f"**{100 * setting.mean_sd('val/f1/macro')[0]:.2f}**" in text
    assert text.count("**") == 2 * len(former.search.settings)


def test_each_study_says_which_protocol_it_had(study: KeptStudy, former: KeptStudy) -> None:
    assert protocol(study).startswith("Protocol: each of 2 seeds has a split of its own, and chooses the lr")
    assert "steps of a factor of 2, which is extended" in protocol(study)
    told = protocol(former)
    assert told.startswith("**Former protocol**: one lr for all seeds, chosen by 3 seeds together from a list in steps")
    assert "factor of 3" in told
    assert "All seeds share one validation split. No interval contains that choice" in told


def test_a_section_of_a_study_whose_seeds_tune_has_each_seeds_choice(study: KeptStudy, finished: Path) -> None:
    section = study_section(study, finished, costs=False)
    assert "2 seeds, mean ± sd" in section
    assert "fresh" not in section
    (line,) = [line for line in section.splitlines() if line.startswith("| focal | lr |")]
    focal = study.search.settings[1]
    cells = [float(cell.strip(" *")) for cell in line.split("|")[3:5]]
    assert cells == focal.choices["model.init_args.optimizer.init_args.lr"]
    assert f"{len(study.kept.trainings)} trainings" in section
    assert "± images" in section


def test_a_family_too_large_for_its_seeds_says_so_above_its_table(former: KeptStudy, repository: Path) -> None:
    assert former.newest is not None
    assert former.newest.summary.family is not None
    assert former.newest.summary.family.shown == []
    section = study_section(former, repository, costs=False)
    assert "No verdict on 80 comparisons below 12 paired seeds; there are 10." in section.partition("<details>")[0]
