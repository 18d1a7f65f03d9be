"""The tables of a kept study."""

from results.summaries import KeptStudy, means_table, search_table


def test_the_table_has_each_setting_with_its_value_means_and_verdicts(study: KeptStudy) -> None:
    assert study.newest is not None
    summary = study.newest.summary
    lines = means_table(study, summary, "confirm").splitlines()
    assert lines[0].startswith("|  | lr | macro precision | macro recall | head precision")
    assert "ECE after psi | confidence" in lines[0]
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| cross-entropy", "| focal"]
    focal = next(setting for setting in summary.settings if setting.label == "focal")
    mean, sd = focal.mean_sd("test/recall/tail")
    assert f"{100 * mean:.2f} ± {100 * sd:.2f}" in lines[3]
    assert summary.family is not None
    words = [v.word for v in summary.family.verdicts if v.setting == "focal"]
    assert (lines[3].count("▲"), lines[3].count("▼")) == (words.count("higher"), words.count("lower"))


def test_the_search_shows_what_was_chosen(study: KeptStudy) -> None:
    text = search_table(study)
    for setting in study.search.settings:
        assert f"**{100 * setting.mean_sd('val/f1/macro')[0]:.2f}**" in text
    assert text.count("**") == 2 * len(study.search.settings)
