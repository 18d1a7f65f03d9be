"""A study's file, settings and results. Knows nothing of reports, and runs nothing.

study_file: a study's YAML file: the varied values, the metrics and the comparisons
setting: one arm with one value for each varied path; its configuration; which ones a finite study trains
results: one file for each setting and seed, written once; grouped by setting
"""

from losslab.study.results import (
    GROUPS,
    Result,
    SettingResults,
    class_groups,
    count_results,
    format_mean,
    group_by_setting,
    group_keys,
    read_result,
    read_results,
    result_path,
    setting_label,
    short_names,
    with_group_metrics,
    write_result,
)
from losslab.study.setting import (
    Planned,
    Setting,
    candidate_settings,
    grid_settings,
    planned_trials,
    setting_from_parameters,
    settings_to_check,
    suggest_setting,
    trial_seeds,
    tuning_extensions,
)
from losslab.study.study_file import StudyFile, read_declared, read_study
