"""A study as a W&B report: the page's sections, as W&B's own panels over the study's runs."""

from pathlib import Path
from typing import Any

from losslab.errors import UserError
from losslab.report.figure import Table
from losslab.report.records import provenance_table, read_config, reproduce_commands
from losslab.report.summary import Confirmation, Summary, read_confirmations
from losslab.report.tables import escape_markdown, markdown_means, markdown_verdicts
from losslab.run import CONFUSION, MISCLASSIFIED, PER_CLASS, RunFolder, run_config, wandb_has_key
from losslab.study import Result, SettingResults

GROUPING = ("loss", "architecture", "gamma", "lr")
"""Configuration keys of a run by which runs are grouped first, if they vary."""


def save_wandb_report(folder: Path, summary: Summary, results: list[Result], project: str) -> str:
    """Build the report and save it on W&B.

    Args:
        folder: runs/<study>.
        summary: of its results.
        results: one or more.
        project: PROJECT, or ENTITY/PROJECT.

    Returns:
        The report's URL.

    Raises:
        UserError: wandb-workspaces is not installed, there is no key, or the server refuses the report.
    """
    try:
        import wandb
        import wandb_workspaces  # noqa: F401  checked here; used by build_wandb_report
    except ModuleNotFoundError as error:
        raise UserError(f"--wandb needs {error.name}: pip install 'losslab[track]'.") from None
    entity, _, name = project.rpartition("/")
    if not wandb_has_key():
        raise UserError("--wandb needs a key: set WANDB_API_KEY, or run `wandb login` once.")
    try:
        entity = entity or str(wandb.Api().default_entity)
        return build_wandb_report(folder, summary, results, entity, name).save().url
    except (wandb.Error, ValueError, OSError) as error:
        raise UserError(f"W&B did not take the report: {' '.join(str(error).split())[:300]}") from error


def build_wandb_report(folder: Path, summary: Summary, results: list[Result], entity: str, project: str) -> Any:
    """Build the report from the study's folder, without any request to a server.

    Args:
        folder: runs/<study>.
        summary: of its results.
        results: one or more.
        entity: the project's user or team.
        project: the project of the runs, in which the report is saved.

    Returns:
        A `wandb_workspaces` Report.
    """
    import wandb_workspaces.reports.v2 as wr

    varied = varied_keys(folder, summary.settings)
    classes, monitor = summary.settings[0].classes, summary.study.monitor
    names = ("macro", *classes)

    def grid(*panels: Any) -> Any:
        groupby = [f"config.{key}" for key in varied]
        runs = wr.Runset(name=summary.name, filters=f"Group == {_literal(summary.name)}", groupby=groupby)
        return wr.PanelGrid(runsets=[runs], panels=list(panels))

    def bars(metric: str) -> Any:
        return wr.BarPlot(title=metric, metrics=[f"val/{metric}/{name}" for name in names])

    def line(key: str) -> Any:
        return wr.LinePlot(title=key, x="epoch", y=[key], groupby_aggfunc="mean", groupby_rangefunc="stddev")

    parallel = [wr.ParallelCoordinatesPlotColumn(metric=wr.Config(key)) for key in varied]
    objective = wr.ParallelCoordinatesPlotColumn(metric=wr.SummaryMetric(monitor))
    return wr.Report(
        project=project,
        entity=entity,
        title=f"losslab: {summary.name}"[:128],
        description=summary.heading,
        blocks=[
            wr.TableOfContents(),
            wr.H1("1 What was run"),
            *(wr.P(sentence) for sentence in summary.answer),
            wr.MarkdownBlock(markdown_means(summary)),
            wr.H1("2 Confirmation"),
            *(block for confirmation in read_confirmations(folder) for block in _confirmation_blocks(confirmation)),
            wr.H1("3 Verdicts of the search"),
            wr.MarkdownBlock(markdown_verdicts(summary)),
            wr.H1("4 Precision and recall"),
            grid(bars("precision"), bars("recall"), wr.WeavePanelSummaryTable(table_name=PER_CLASS)),
            wr.H1("5 Loss and gradient"),
            wr.LatexBlock(r"\mathrm{focal}(p_t) = -(1 - p_t)^\gamma \log p_t"),
            wr.H1("6 Confusions"),
            grid(wr.WeavePanelSummaryTable(table_name=f"{CONFUSION}_table")),
            wr.H1("7 Misclassified images"),
            grid(wr.MediaBrowser(title="The most confident mistakes", media_keys=[MISCLASSIFIED])),
            wr.H1("8 Calibration"),
            grid(wr.BarPlot(title="expected calibration error", metrics=["val/ece"]), line("val/ece")),
            wr.H1("9 Learning curves"),
            grid(*(line(key) for key in ("val/f1/macro", "val/loss", "train/loss", "train/acc_running"))),
            wr.H1("10 Trials"),
            grid(
                wr.ParallelCoordinatesPlot(columns=[*parallel, objective]),
                wr.ParameterImportancePlot(with_respect_to=monitor),
                wr.RunComparer(diff_only="split"),
            ),
            wr.H1("11 Provenance"),
            wr.MarkdownBlock(_list(provenance_table(folder, results))),
            wr.MarkdownBlock("\n".join(f"    {command}" for command in reproduce_commands(folder))),
        ],
    )


def _confirmation_blocks(confirmation: Confirmation) -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    summary = confirmation.summary
    return [
        *(wr.P(sentence) for sentence in summary.answer),
        wr.MarkdownBlock(markdown_means(summary)),
        wr.MarkdownBlock(markdown_verdicts(summary)),
        wr.P(f"{confirmation.status_text} {confirmation.choice_text}"),
    ]


def varied_keys(folder: Path, settings: list[SettingResults]) -> list[str]:
    """Return the configuration keys of the runs on W&B whose values differ between the settings."""
    configs = []
    for setting in settings:
        config = read_config(folder, setting)
        if config:
            configs.append(run_config(config, RunFolder(folder / setting.runs[0]).manifest()))
    short = [key for key in (configs[0] if configs else {}) if "." not in key and not key.endswith("_hash")]
    ordered = [*GROUPING, *(key for key in short if key not in GROUPING)]
    varied = [key for key in ordered if len({str(config.get(key)) for config in configs}) > 1]
    return varied or ["setting_hash"]


def _literal(name: str) -> str:
    """Quote a name for a filter with letters and digits only: W&B replaces operators, then parses Python."""
    return "'" + "".join(c if c.isascii() and c.isalnum() else f"\\U{ord(c):08x}" for c in name) + "'"


def _list(table: Table) -> str:
    return "\n".join(f"- **{escape_markdown(row[0])}**: {escape_markdown(row[1])}" for row in table.rows)
