"""Reads run folders and studies, and turns them into statistics, tables, figures and pages. Trains nothing.

command: `losslab report` and `losslab plot-loss`
summary: a study or a confirmation as settings, verdicts and an answer in three sentences
verdicts: each setting against the baseline: higher, lower, by less than the margin, alike or not shown
statistics: max-|t| over sign flips, sign test, seeds needed, Student's interval, reliability
tables: one summary as terminal tables, summary.csv, report.md and the page's tables
page: the contents of the page, rendered as one HTML file
compare: two studies or two runs side by side
figure: a Plotly figure with the reader's choices and a table beside it
precision_recall: figures of precision and recall against gamma, and in their plane
predictions: figures of confusion, calibration and mistakes, and of which images they are
image_spread: how far a confirmation's differences depend on the test images
curves: figures of learning curves, and of a loss against p_t
trials: Optuna's trials, read and drawn
records: predictions, epochs, configurations, images and origins of a study's runs
wandb_report: the page's sections as a W&B report
"""

from losslab.report.command import write_best, write_report
from losslab.report.image_spread import image_spread
from losslab.report.records import CONFIRM_FOLDER, confirmation_folders, focal_gamma, loss_identity
from losslab.report.statistics import fewest_seeds, most_comparisons, reliability
from losslab.report.summary import (
    TEST_FOLDER,
    Confirmation,
    Summary,
    confirmation_of,
    format_interval,
    is_loss,
    is_over,
    metric_title,
    read_confirmation,
    read_confirmations,
    summarise,
    summarise_folder,
)
from losslab.report.tables import choices_table, escape_markdown, markdown_verdicts, show_summary
from losslab.report.trials import lost_results, read_trials
from losslab.report.verdicts import Verdict
