"""Learning curves: what each epoch changed."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from losslab.report.figure import SYMBOLS, Choice, Figure, Table, Trace, axes, colour, numbers, panel_title, plain
from losslab.report.records import read_epochs
from losslab.report.summary import metric_title
from losslab.study import SettingResults

METRICS = ("val/f1/macro", "val/loss", "val/acc", "val/ece", "train/loss", "train/acc_running")


def learning_curves(study: Path, settings: Sequence[SettingResults]) -> Figure | None:
    """The chosen metric after each epoch, mean over the seeds; None where no run has left its epochs."""
    tables = {setting.label: read_epochs(study, setting, list(METRICS)) for setting in settings}
    metrics = [key for key in METRICS if any(key in table for table in tables.values())]
    if not metrics:
        return None
    names = {key: f"{metric_title(key)}, {'validation' if key.startswith('val/') else 'training'}" for key in metrics}
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


CLASSES = 10
P_T = torch.cat([torch.tensor([0.001, 0.005, 0.01]), torch.linspace(0.02, 0.98, 49), torch.tensor([0.99, 0.999])])
"""Probabilities of the label at which a curve is drawn."""
IN_TABLE = (0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98)

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def curve(loss: Loss) -> tuple[list[float], list[float]]:
    """The loss of one image, and the size of its gradient in the label's logit, at each of `P_T`.

    The other classes share 1 - p_t evenly. Where a loss compares sets over the batch, the batch is the one image.
    """
    values, gradients = [], []
    for p in P_T.double():
        logits = torch.full((1, CLASSES), float(torch.log((1 - p) / (CLASSES - 1))), dtype=torch.float64)
        logits[0, 0] = torch.log(p)
        logits.requires_grad_()
        value = loss(logits, torch.zeros(1, dtype=torch.int64)).sum()
        (gradient,) = torch.autograd.grad(value, logits)
        values.append(float(value.detach()))
        gradients.append(abs(float(gradient[0, 0])))
    return values, gradients


def loss_curves(title: str, labels: Sequence[str], losses: Sequence[Loss], slider: str | None = None) -> Figure:
    """Two panels, loss and gradient.

    Args:
        title: of the figure.
        labels: what each curve is called, such as "2".
        losses: the losses, one for each label.
        slider: the name of the argument that the labels are values of: the reader then moves through them, with the
            first curve always shown for comparison; None shows all curves at once.
    """
    curves = [curve(loss) for loss in losses]
    traces: list[Trace] = []
    p_t = P_T.tolist()
    for index, (label, parts) in enumerate(zip(labels, curves, strict=True)):
        name = f"{slider} = {label}" if slider else label
        shared = {
            "type": "scatter", "x": p_t, "mode": "lines", "name": name,
            "legendgroup": name, "hovertemplate": "p_t = %{x:.3f}<br>%{y:.4g}<extra>%{fullData.name}</extra>",
        }  # fmt: skip
        for panel, values in enumerate(parts):
            if slider is None:
                line = {"color": colour(index), "width": 2, "dash": ("solid", "dash", "dot", "dashdot")[index % 4]}
                marker = {"symbol": SYMBOLS[index % len(SYMBOLS)], "size": 7, "maxdisplayed": 7}
                traces.append(
                    {**shared, "y": values, "line": line, "marker": marker, "mode": "lines+markers",
                     "showlegend": panel == 0, **axes(panel)}
                )  # fmt: skip
                continue
            if index == 0:
                line = {"color": "@muted", "width": 2, "dash": "dash"}
                traces.append({**shared, "y": values, "line": line, "showlegend": panel == 0, **axes(panel)})
            traces.append(
                {**shared, "y": values, "line": {"color": "@c0", "width": 3}, "showlegend": panel == 0,
                 "meta": {slider: label}, **axes(panel)}
            )  # fmt: skip
    columns = [f"{what} {label}" for label in labels for what in ("loss", "gradient")] if slider is None else []
    at = [min(range(len(p_t)), key=lambda i: abs(p_t[i] - p)) for p in IN_TABLE]
    if slider is None:
        rows = [[f"{p_t[i]:.2f}", *numbers([part[i] for pair in curves for part in pair])] for i in at]
        table = Table(["p_t", *columns], rows)
    else:
        every = range(0, len(labels), max(1, len(labels) // 6))
        table = Table(
            [slider, *(f"{what} at {p:g}" for p in IN_TABLE for what in ("loss", "gradient"))],
            [[labels[k], *numbers([curves[k][part][i] for i in at for part in (0, 1)])] for k in every],
        )
    return Figure(
        "loss",
        title,
        "p_t is the probability that the network gives to the label. Left: the loss of one image. Right: how hard it "
        "pulls at the label's logit. An image far left is hopeless, far right is easy.",
        traces,
        {
            "xaxis": {"title": {"text": "p_t"}, "range": [0, 1]},
            "xaxis2": {"title": {"text": "p_t"}, "range": [0, 1]},
            "yaxis": {"range": [0, 5]},
            "yaxis2": {"rangemode": "tozero"},
            "annotations": [panel_title("loss", 0), panel_title("|gradient| in the label's logit", 1)],
        },
        table,
        [Choice(slider, slider, list(labels), labels.index("2") if "2" in labels else len(labels) - 1, slider=True)]
        if slider
        else [],
        panels=2,
        panel_width=300,
        panel_height=320,
    )
