"""Learning curves: what each epoch changed."""

from collections.abc import Sequence
from pathlib import Path

from losslab.report.figure import SYMBOLS, Choice, Figure, Table, Trace, colour, plain
from losslab.report.run_records import read_epochs
from losslab.report.study_summary import name_of
from losslab.study.results import SettingResults

METRICS = ("val/f1/macro", "val/loss", "val/acc", "val/ece", "train/loss", "train/acc_running")


def learning_curves(study: Path, settings: Sequence[SettingResults]) -> Figure | None:
    """The chosen metric after each epoch, mean over the seeds; None where no run has left its epochs."""
    tables = {setting.label: read_epochs(study, setting, list(METRICS)) for setting in settings}
    metrics = [key for key in METRICS if any(key in table for table in tables.values())]
    if not metrics:
        return None
    names = {key: f"{name_of(key)}, {'validation' if key.startswith('val/') else 'training'}" for key in metrics}
    traces: list[Trace] = []
    for key in metrics:
        for index, (label, table) in enumerate(tables.items()):
            if key in table:
                traces.append(
                    {
                        "type": "scatter", "mode": "lines+markers", "name": plain(label),
                        "meta": {"metric": names[key]},
                        "x": list(range(1, len(table[key]) + 1)), "y": table[key].tolist(),
                        "line": {"color": colour(index), "width": 2},
                        "marker": {"symbol": SYMBOLS[index % len(SYMBOLS)], "size": 7, "color": colour(index)},
                        "hovertemplate": "epoch %{x}: %{y:.4f}<extra>%{fullData.name}</extra>",
                    }
                )  # fmt: skip
    first = {label: table for label, table in tables.items() if metrics[0] in table}
    rows = [[label, *(f"{value:.4f}" for value in table[metrics[0]])] for label, table in first.items()]
    epochs = max((len(row) for row in rows), default=1) - 1
    rows = [row + ["–"] * (1 + epochs - len(row)) for row in rows]
    return Figure(
        "learning",
        "Learning curves",
        "Mean over the seeds after each epoch. Epochs are fixed in advance, and all results use the weights after the "
        "last one. Losses of different settings are on different scales: compare each with itself.",
        traces,
        {"xaxis": {"title": {"text": "epoch"}, "dtick": max(1, epochs // 10)}, "yaxis": {"hoverformat": ".4f"}},
        Table([names[metrics[0]], *(f"epoch {epoch}" for epoch in range(1, epochs + 1))], rows),
        [Choice("metric", "Metric", list(names.values()))],
    )
