"""Learning curves, and a loss with its gradient against p_t."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from losslab.report.figure import SYMBOLS, Choice, Figure, Table, Trace, axes, colour, escape_tags, marker, number
from losslab.report.records import read_epochs
from losslab.report.summary import metric_title
from losslab.study import SettingResults

METRICS = ("val/f1/macro", "val/loss", "val/acc", "val/ece", "train/loss", "train/acc_running")
"""Metrics of a learning curve; the first one that was logged stands in the table."""
CLASSES = 10
P_T = torch.cat([torch.tensor([0.001, 0.005, 0.01]), torch.linspace(0.02, 0.98, 49), torch.tensor([0.99, 0.999])])
"""Probabilities of the label at which a loss is drawn, (54,)."""
IN_TABLE = (0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98)
"""Probabilities listed in the table."""

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def learning_curves(study: Path, settings: Sequence[SettingResults], share_images: bool) -> Figure | None:
    """Draw the chosen metric after each epoch, mean over the seeds. Returns None if no run has a metrics.csv.

    Args:
        study: the folder in which the runs' paths start.
        settings: the settings to draw.
        share_images: whether all seeds have the same validation images; the caption says if they do not.
    """
    tables = {setting.label: read_epochs(study, setting, list(METRICS)) for setting in settings}
    metrics = [key for key in METRICS if any(key in table for table in tables.values())]
    if not metrics:
        return None
    names = {key: f"{metric_title(key)}, {'validation' if key.startswith('val/') else 'training'}" for key in metrics}
    traces: list[Trace] = [
        {
            "type": "scatter", "mode": "lines+markers", "name": escape_tags(label), "meta": {"metric": names[key]},
            "x": list(range(1, len(table[key]) + 1)), "y": table[key].tolist(),
            "line": {"color": colour(index), "width": 2}, "marker": marker(index, 7),
            "hovertemplate": "epoch %{x}: %{y:.4f}<extra>%{fullData.name}</extra>",
        }
        for key in metrics
        for index, (label, table) in enumerate(tables.items())
        if key in table
    ]  # fmt: skip
    first = {label: table[metrics[0]] for label, table in tables.items() if metrics[0] in table}
    epochs = max(map(len, first.values()))
    own = "" if share_images else ", each on validation images of its own"
    rows = [[label, *(f"{v:.4f}" for v in values), *["–"] * (epochs - len(values))] for label, values in first.items()]
    return Figure(
        "learning", "Learning curves",
        f"Mean over the seeds after each epoch{own}. The number of epochs is fixed in advance, and all results use the "
        "weights after the last one. Different losses are on different scales: compare each with itself.",
        traces, {"xaxis": {"title": {"text": "epoch"}, "dtick": max(1, epochs // 10)}, "yaxis": {"hoverformat": ".4f"}},
        Table([names[metrics[0]], *(f"epoch {epoch}" for epoch in range(1, epochs + 1))], rows),
        [Choice("metric", "Metric", list(names.values()))],
    )  # fmt: skip


def curve(loss: Loss) -> tuple[list[float], list[float]]:
    """Return the loss of one image, and |gradient| in the label's logit, at each of `P_T`.

    The other classes share 1 - p_t evenly. A loss that compares sets over the batch sees a batch of this one image.
    """
    values, gradients = [], []
    for p in P_T.double():
        logits = torch.full((1, CLASSES), float(torch.log((1 - p) / (CLASSES - 1))), dtype=torch.float64)  # (1, C)
        logits[0, 0] = torch.log(p)
        logits.requires_grad_()
        value = loss(logits, torch.zeros(1, dtype=torch.int64)).sum()
        (gradient,) = torch.autograd.grad(value, logits)
        values.append(float(value.detach()))
        gradients.append(abs(float(gradient[0, 0])))
    return values, gradients


def loss_curves(title: str, labels: Sequence[str], losses: Sequence[Loss], slider: str | None = None) -> Figure:
    """Draw losses and their gradients in two panels.

    Args:
        title: the figure's.
        labels: the name of each curve, such as "2".
        losses: the losses, one for each label.
        slider: the name of the argument whose values the labels are. The reader moves through them, and the first
            curve stays for comparison. None draws all curves at once.
    """
    curves = [curve(loss) for loss in losses]
    p_t = P_T.tolist()
    traces: list[Trace] = []
    for index, (label, pair) in enumerate(zip(labels, curves, strict=True)):
        name = f"{slider} = {label}" if slider else label
        for panel, values in enumerate(pair):
            trace: Trace = {
                "type": "scatter", "x": p_t, "y": values, "mode": "lines", "name": name, "legendgroup": name,
                "showlegend": panel == 0, "hovertemplate": "p_t = %{x:.3f}<br>%{y:.4g}<extra>%{fullData.name}</extra>",
                **axes(panel),
            }  # fmt: skip
            if slider is None:
                line = {"color": colour(index), "width": 2, "dash": ("solid", "dash", "dot", "dashdot")[index % 4]}
                symbol = {"symbol": SYMBOLS[index % len(SYMBOLS)], "size": 7, "maxdisplayed": 7}
                traces.append(trace | {"mode": "lines+markers", "line": line, "marker": symbol})
                continue
            if index == 0:
                traces.append(trace | {"line": {"color": "@muted", "width": 2, "dash": "dash"}})
            traces.append(trace | {"line": {"color": "@c0", "width": 3}, "meta": {slider: label}})
    at = [min(range(len(p_t)), key=lambda i: abs(p_t[i] - p)) for p in IN_TABLE]
    parts = ("loss", "gradient")
    if slider is None:
        columns = ["p_t", *(f"{part} {label}" for label in labels for part in parts)]
        rows = [[f"{p_t[i]:.2f}", *(number(values[i]) for pair in curves for values in pair)] for i in at]
    else:
        columns = [slider, *(f"{part} at {p:g}" for p in IN_TABLE for part in parts)]
        listed = range(0, len(labels), max(1, len(labels) // 6))
        rows = [[labels[k], *(number(values[i]) for i in at for values in curves[k])] for k in listed]
    axis = {"title": {"text": "p_t"}, "range": [0, 1]}
    start = labels.index("2") if "2" in labels else len(labels) - 1
    return Figure(
        "loss", title,
        "p_t is the probability that the network gives to the label. Left: the loss of one image. Right: the size of "
        "its gradient in the label's logit. An image far left is hopeless, far right is easy.",
        traces,
        {"xaxis": axis, "yaxis": {"range": [0, 5]}, "xaxis2": axis, "yaxis2": {"rangemode": "tozero"}},
        Table(columns, rows), [Choice(slider, slider, list(labels), start, slider=True)] if slider else [],
        panels=["loss", "|gradient| in the label's logit"], panel_width=300, panel_height=320,
    )  # fmt: skip
