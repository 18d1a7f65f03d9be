"""The files written from kept studies: RESULTS.md, the README's table and picture, "Expected" lines of YAML files."""

# ruff: noqa: E501  a placeholder is one word

import io
import re
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from losslab.errors import UserError
from losslab.report import Summary, Verdict, format_interval, metric_title
from losslab.study import SettingResults

from .kept import kept_file
from .summaries import KeptStudy, format_cell, format_mean_sd, legend, markdown_table, read_kept_study, study_section

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "experiments" / "results"
PAGE = ROOT / "experiments" / "RESULTS.md"
FINDINGS = ROOT / "experiments" / "findings.md"
README = ROOT / "README.md"
PICTURE = KEPT / "losses.svg"

STUDIES = {
    "focal-balanced": "Focal's γ on balanced MNIST",
    "focal-tail-0.1": "Focal's γ on a long tail, the rarest class with a tenth of the images",
    "focal-tail-0.01": "Focal's γ on a long tail, the rarest class with a hundredth of the images",
    "focal-noise-0.1": "Focal's γ with a tenth of the labels wrong",
    "focal-noise-0.3": "Focal's γ with three tenths of the labels wrong",
    "losses-balanced": "Every loss on balanced MNIST",
    "losses-tail-0.01": "Every loss on a long tail, the rarest class with a hundredth of the images",
    "losses-tail-0.01-like-training": "Every loss on that long tail, with validation images like the training images",
    "losses-tail-0.01-former": "Every loss on that long tail, by the former protocol",
    "losses-noise-0.3": "Every loss with three tenths of the labels wrong",
    "losses-noise-0.3-like-training": "Every loss with these wrong labels, with validation images like the training images",
    "losses-own": "Losses at their published parameters and at their own, on the same long tail",
    "network-mlp": "γ and the network, on the same long tail: MLP",
    "network-cnn": "γ and the network: CNN",
    "network-separable-cnn": "γ and the network: separable CNN",
    "network-resnet": "γ and the network: ResNet",
    "focal-embedded": "Focal's γ on the embedded images, which a test trains again",
    "course-mlp": "The course report's network",
    "parameters": "Accuracy and parameters",
    "cnn-ablation": "What each part of the CNN gives",
    "unlimited": "With unlimited resources",
}
"""The studies and their titles, in the order of the page."""

WITH_COSTS = ("course-mlp", "parameters", "cnn-ablation", "unlimited")
"""Studies whose tables give parameters and seconds of a training."""

HEADLINE = "losses-tail-0.01"
HEADLINE_KEYS = ("precision/macro", "recall/macro", "precision/tail", "recall/tail", "f1/macro")
BEGIN, END = "<!-- results -->", "<!-- /results -->"

EXPECTED = {
    "sweeps/focal.yaml": "balanced, gamma 0 and 5: macro F1 {{focal-balanced|gamma=0|f1/macro}} and "
    "{{focal-balanced|gamma=5|f1/macro}} %, ECE {{focal-balanced|gamma=0|ece}} and {{focal-balanced|gamma=5|ece}} %; tail "
    "of 0.01: tail recall {{focal-tail-0.01|gamma=0|recall/tail}} and {{focal-tail-0.01|gamma=5|recall/tail}} %",
    "sweeps/losses.yaml": "balanced: macro F1 {{losses-balanced|cross-entropy|f1/macro}} % of cross-entropy; tail of 0.01: tail recall "
    "{{losses-tail-0.01|cross-entropy|recall/tail}} %, logit adjusted {{losses-tail-0.01|logit adjusted|recall/tail}} %; 30 % "
    "wrong labels: macro F1 {{losses-noise-0.3|cross-entropy|f1/macro}} %, squared dice "
    "{{losses-noise-0.3|dice, squared|f1/macro}} %",
    "sweeps/course_mlp.yaml": "with Adam: running training accuracy {{course-mlp|Adam, one cycle, batch 128|train/acc_running}} %, after "
    "the epoch {{course-mlp|Adam, one cycle, batch 128|train/acc}} %, test {{course-mlp|Adam, one cycle, batch 128|acc}} %",
    "sweeps/parameters.yaml": "accuracy {{parameters|MLP 784-128-10|acc}} % of 784-128-10 with 101,770 parameters, "
    "{{parameters|CNN 8-16-28|acc}} % of a CNN with 8,018",
    "sweeps/cnn_ablation.yaml": "accuracy {{cnn-ablation|CNN, 3 epochs|acc}} %, without shifts {{cnn-ablation|without shifts|acc}} %",
    "sweeps/unlimited.yaml": "accuracy {{unlimited|CNN, 3 epochs|acc}} %, ten epochs with rotations "
    "{{unlimited|CNN, 10 epochs, rotated and scaled|acc}} %",
    "sweeps/focal_networks.yaml": "tail recall at gamma 0 and 5: MLP {{network-mlp|gamma=0|recall/tail}} and "
    "{{network-mlp|gamma=5|recall/tail}} %, CNN {{network-cnn|gamma=0|recall/tail}} and "
    "{{network-cnn|gamma=5|recall/tail}} %, ResNet {{network-resnet|gamma=0|recall/tail}} and "
    "{{network-resnet|gamma=5|recall/tail}} %",
    "experiments/cnn_accurate.yaml": "accuracy {{unlimited|CNN, 12 epochs, cropped, rotated and scaled|acc}} %",
    "experiments/resnet_accurate.yaml": "accuracy {{unlimited|wide ResNet, 18 epochs, rotated and scaled|acc}} %",
}
"""The "Expected" line of each YAML file; a file whose studies are not all kept and confirmed keeps its header."""

PLACEHOLDER = re.compile(r"\{\{(.*?)\}\}")
DIFFERENCE, VERDICT, COLLAPSED = "difference", "verdict", "collapsed"

PANELS = {"test/precision/tail": "precision of the tail, %", "test/recall/tail": "recall of the tail, %"}
LOOKS = {"higher": ("#0072B2", ">"), "lower": ("#D55E00", "<"), "": ("#6e7781", "o")}
"""Colour (Okabe & Ito's, for the colour-blind) and marker, by the verdict's direction."""

STYLE: Any = {"font.size": 9, "svg.hashsalt": "losslab", "svg.fonttype": "path", "axes.spines.top": False,
         "axes.spines.right": False, "axes.edgecolor": "#6e7781", "font.family": "DejaVu Sans"}  # fmt: skip


def render_files() -> dict[Path, str]:
    """Return the text of each written file."""
    studies = read_kept_studies(KEPT)
    files = {PAGE: render_page(studies, FINDINGS.read_text(), ROOT)}
    if BEGIN in README.read_text():  # a README of one's own is left alone
        files[README] = replace_block(README.read_text(), render_readme_block(studies))
    for name in EXPECTED:
        file = ROOT / name
        files[file] = replace_expected(file.read_text(), name, studies)
    headline = studies.get(HEADLINE)
    if headline is not None and headline.newest is not None:
        files[PICTURE] = draw_losses(headline.newest.summary)
    return files


def read_kept_studies(folder: Path) -> dict[str, KeptStudy]:
    """Return the kept studies in the page's order.

    Raises:
        UserError: a file is of a study that the page does not list.
    """
    for file in folder.glob("*.jsonl"):
        if file.stem not in STUDIES:
            raise UserError(f"{file} is of no known study; experiments/results/page.py lists {', '.join(STUDIES)}.")
    found = {name: read_kept_study(kept_file(folder, name)) for name in STUDIES}
    return {name: study for name, study in found.items() if study is not None}


def render_page(studies: Mapping[str, KeptStudy], findings: str, root: Path) -> str:
    """Return the text of RESULTS.md.

    Args:
        studies: the kept studies by name, all of them in `STUDIES`.
        findings: the text of findings.md, which becomes the page's first part.
        root: the folder that the studies' commands were called in.
    """
    parts = [
        "<!-- Written by `make results` from results/*.jsonl and findings.md: change those. -->",
        fill_placeholders(findings, studies, "findings.md").strip(),
        "## The studies",
        "Each table can be had again by the commands below it (by the former protocol, at its commit), "
        "and written again by `make results`. "
        "▲ and ▼ are verdicts: paired over the seeds, holding together at 95 % for all settings and metrics of the "
        "table that a verdict was declared on (precision, recall and F1). A verdict needs an interval without zero and "
        "enough seeds of its sign ([docs/statistics.md](../docs/statistics.md)). Where a margin was declared, △ and ▽ "
        "are higher and lower by less than it, and ≈ is alike. No mark means that no difference is shown, "
        "which is not \"no difference\"; ECE and confidence have no verdicts. "
        "A + behind a commit: files lay beside it that were not committed (the studies' own logs).",
    ]  # fmt: skip
    links = [
        f"- [{title}](#{name})" if name in studies else f"- {title}: not run yet" for name, title in STUDIES.items()
    ]
    parts.append("\n".join(links))
    for name, title in STUDIES.items():
        if name in studies:
            parts += [f'<a id="{name}"></a>', f"### {title}", study_section(studies[name], root, name in WITH_COSTS)]
    return "\n\n".join(parts) + "\n"


def render_readme_block(studies: Mapping[str, KeptStudy]) -> str:
    """Return the README's table and picture, or a sentence that its study has not been run yet."""
    study = studies.get(HEADLINE)
    if study is None or study.newest is None:
        return f"The study {HEADLINE} has not been run yet."
    summary = study.newest.summary
    keys = [f"test/{key}" for key in HEADLINE_KEYS]
    rows = [[s.label, *(format_cell(summary, s, key) for key in keys)] for s in summary.settings]
    marks = f"; {legend(summary)}" if summary.baseline is not None else ""
    rate = (
        "its learning rate chosen anew by each seed on validation"
        if study.kept.study.tunes_each_seed
        else "one learning rate"
    )
    return (
        f"{STUDIES[HEADLINE]}: each loss with {rate}, test images, mean ± sd of "
        f"{len(summary.study.seeds)} seeds in percent{marks}. The tail are the three "
        "rarest digits, which differ from seed to seed. [experiments/RESULTS.md](experiments/RESULTS.md) has all "
        f"studies, and what we found.\n\n{markdown_table(['loss', *map(metric_title, keys)], rows)}\n\n"
        "![Precision and recall of the rarest digits, a row for each loss](experiments/results/losses.svg)"
    )


def replace_block(readme: str, block: str) -> str:
    """Return the README with its block between the two marks replaced.

    Raises:
        UserError: the marks are not there, once each and in order.
    """
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in after or END in after:
        raise UserError(f"README.md must have the lines {BEGIN} and {END}, once each: the results go between them.")
    return f"{before}{BEGIN}\n{block}\n{END}{after}"


def replace_expected(text: str, name: str, studies: Mapping[str, KeptStudy]) -> str:
    """Return the text of a YAML file with the "Expected" line of its header replaced.

    Args:
        text: the file's text.
        name: the file's path in the repository, in `EXPECTED`.
        studies: the kept studies by name.

    Raises:
        UserError: the header has no "Expected:" before "Seeds:".
    """
    template = EXPECTED[name]
    needed = set(re.findall(r"{{([^|}]+)\|", template))
    if any(study not in studies or studies[study].newest is None for study in needed):
        return text
    numbers = fill_placeholders(template, studies, f"EXPECTED[{name!r}]")
    tuned_once = [studies[known].kept.study.tune_per == "study" for known in needed if studies[known].kept.study.tune]
    former = f", {'' if all(tuned_once) else 'partly '}by the former protocol" if any(tuned_once) else ""
    expected = f"{numbers}: mean ± sd of the test images{former}, experiments/RESULTS.md"
    lines = textwrap.wrap(expected, 118, initial_indent="# Expected: ", subsequent_indent="#           ")
    found, count = re.subn(r"# Expected:.*\n(?:#  .*\n)*(?=# Seeds:)", lambda _: "\n".join(lines) + "\n", text)
    if count != 1:
        raise UserError(f"{name} needs a line '# Expected:' and behind it one '# Seeds:'.")
    return found


def fill_placeholders(text: str, studies: Mapping[str, KeptStudy], file: str) -> str:
    """Return the text with its placeholders replaced by numbers.

    {{STUDY|SETTING|METRIC}} is mean ± sd in percent, such as "97.12 ± 0.10", {{STUDY|SETTING|METRIC|difference}} the
    difference from the baseline with its interval, in points, such as "+1.23 [+0.40, +2.06]", and
    {{STUDY|SETTING|METRIC|verdict}} its word, such as "not shown". {{STUDY|SETTING|collapsed}} is at how many seeds a class
    has recall 0, such as "5 of 12". A metric is named without "test/": recall/tail,
    precision/3, f1/macro, ece, ece_psi, confidence. {{STUDY|SETTING|lr}} is the median of what the seeds chose, and
    where one value was chosen for all seeds, that.

    Args:
        text: Markdown.
        studies: the kept studies by name.
        file: the text's origin, for messages.

    Raises:
        UserError: there is no such study, setting or metric, or no verdict on it.
    """
    return PLACEHOLDER.sub(lambda found: _number(found[1].split("|"), studies, f"{file}: {found[0]}"), text)


def draw_losses(summary: Summary) -> str:
    """Return the README's picture: precision and recall of the tail, a row for each loss, the best recall on top.

    An SVG on a white ground, the same bytes for the same numbers.

    Args:
        summary: summary of a confirmation on data with a tail, with a complete baseline.
    """
    settings = sorted(summary.settings, key=lambda setting: setting.mean_sd("test/recall/tail")[0])
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.8, 1.2 + 0.24 * len(settings)), dpi=72, facecolor="white", layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        for axes, (key, label) in zip((left, right), PANELS.items(), strict=True):
            for place, setting in enumerate(settings):
                _draw_mark(axes, summary, setting, key, place)
            axes.set_xlabel(label)
            axes.grid(axis="y", color="#d0d7de", linewidth=0.6)
            axes.tick_params(axis="y", length=0)
        left.set_yticks(range(len(settings)), [setting.label for setting in settings])
        base = summary.baseline.label if summary.baseline is not None else ""
        for direction, (colour, marker) in LOOKS.items():
            right.plot([], [], marker, color=colour, label=direction or "no difference shown")
        right.plot([], [], "s", color="black", label=base)
        figure.legend(
            *right.get_legend_handles_labels(), loc="outside upper right", ncols=4, frameon=False, fontsize=8,
            title=f"Three rarest of ten digits, test images, mean ± sd of {len(summary.study.seeds)} seeds; "
            f"against {base}:",
        )  # fmt: skip
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def _draw_mark(axes: Axes, summary: Summary, setting: SettingResults, key: str, place: int) -> None:
    mean, sd = setting.mean_sd(key)
    verdict = summary.family.of(setting.label, key) if summary.family is not None else None
    colour, marker = LOOKS[verdict.direction] if verdict is not None else ("black", "s")
    axes.errorbar(100 * mean, place, xerr=100 * sd, fmt=marker, color=colour, elinewidth=1, markersize=5)


def _number(parts: list[str], studies: Mapping[str, KeptStudy], where: str) -> str:
    """Return the number that the parts of a placeholder name."""
    if len(parts) not in (3, 4) or parts[3:] not in ([], [DIFFERENCE], [VERDICT]):
        raise UserError(f"{where} must be STUDY|SETTING|METRIC, with |{DIFFERENCE} or |{VERDICT} behind it or without.")
    name, label, metric = parts[:3]
    study = studies.get(name)
    confirmation = study.newest if study is not None else None
    if study is None or confirmation is None:
        confirmed = [known for known, other in studies.items() if other.newest is not None]
        raise UserError(f"{where}: no study {name!r} is kept with a confirmation; there are {_listed(confirmed)}.")
    summary = confirmation.summary
    setting = next((setting for setting in summary.settings if setting.label == label), None)
    if setting is None:
        labels = [setting.label for setting in summary.settings]
        raise UserError(f"{where}: no setting {label!r} in {name}; there are {_listed(labels)}.")
    tuned = {name.removesuffix(", median"): value for name, value in study.tuned_values(setting).items()}
    if metric in tuned:
        return f"{tuned[metric]}"
    if metric == COLLAPSED and summary.family is not None:
        verdict = _verdict(summary, label, summary.family.metrics[0], where)
        return f"{verdict.collapsed} of {verdict.seeds}"
    key = f"test/{metric}" if f"test/{metric}" in setting.values else metric
    if key not in setting.values:
        raise UserError(f"{where}: no metric {metric!r} of {label!r}; there are {_listed(setting.values)}.")
    if len(parts) == 3:
        return format_mean_sd(setting, key)
    verdict = _verdict(summary, label, key, where)
    return format_interval(verdict) if parts[3] == DIFFERENCE else verdict.word


def _verdict(summary: Summary, label: str, key: str, where: str) -> Verdict:
    verdict = summary.family.of(label, key) if summary.family is not None else None
    if verdict is None:
        known = summary.family.metrics if summary.family is not None else []
        raise UserError(f"{where}: there is no verdict on it; there are those on {_listed(known)}, of other settings.")
    return verdict


def _listed(names: Iterable[str]) -> str:
    return ", ".join(name.removeprefix("test/") for name in names) or "none"
