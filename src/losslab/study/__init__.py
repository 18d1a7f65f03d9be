"""A study's file, settings and results. Knows nothing of reports, and runs nothing.

study_file: a study's YAML file: the varied values, the metrics and the comparisons
setting: one arm with one value for each varied path; its configuration; values beyond a tuned list
results: one file for each setting and seed, written once; grouped by setting
"""

from losslab.study.results import (
    GROUPS,
    Result,
    SettingResults,
    class_groups,
    format_mean,
    group_by_setting,
    group_keys,
    read_result,
    read_results,
    result_path,
    with_group_metrics,
    write_result,
)
from losslab.study.setting import (
    Setting,
    corner_settings,
    grid_settings,
    setting_from_parameters,
    short_names,
    suggest_setting,
    tuning_extensions,
)
from losslab.study.study_file import StudyFile, read_declared, read_study
