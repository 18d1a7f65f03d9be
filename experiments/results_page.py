"""RESULTS.md and the README's block, from the kept studies."""

from collections.abc import Mapping
from pathlib import Path

from findings import filled
from kept_study import KeptStudy
from study_section import cell, section, table

from losslab.errors import UserError
from losslab.report import escape_markdown, metric_title

STUDIES = {
    "focal-balanced": "Focal's γ on balanced MNIST",
    "focal-tail-0.1": "Focal's γ on a long tail, the rarest class with a tenth of the images",
    "focal-tail-0.01": "Focal's γ on a long tail, the rarest class with a hundredth of the images",
    "focal-noise-0.1": "Focal's γ with a tenth of the labels wrong",
    "focal-noise-0.3": "Focal's γ with three tenths of the labels wrong",
    "losses-balanced": "Every loss on balanced MNIST",
    "losses-tail-0.01": "Every loss on a long tail, the rarest class with a hundredth of the images",
    "losses-noise-0.3": "Every loss with three tenths of the labels wrong",
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
"""Those whose tables give parameters and seconds a training."""

HEADLINE = "losses-tail-0.01"
HEADLINE_KEYS = ("precision/macro", "recall/macro", "precision/tail", "recall/tail", "f1/macro")
BEGIN, END = "<!-- results -->", "<!-- /results -->"


def results_page(studies: Mapping[str, KeptStudy], findings: str, root: Path) -> str:
    """RESULTS.md.

    Args:
        studies: the kept ones, by name, all of them in `STUDIES`.
        findings: findings.md, which becomes the page's first part.
        root: the folder that the studies' commands were called in.
    """
    parts = [
        "<!-- Written by `make results` from results/*.jsonl and findings.md: change those. -->",
        filled(findings, studies, "findings.md").strip(),
        "## The studies",
        "Each table can be had again by the commands below it, and written again by `make results`. "
        "▲ and ▼ are verdicts: paired over the seeds, holding together at 95 % for all settings and metrics of the "
        "table that a verdict was declared on (precision, recall and F1). No mark means that no difference is shown, "
        "which is not \"no difference\"; ECE and confidence have no verdicts. "
        "A + behind a commit: files lay beside it that were not committed (the studies' own logs).",
    ]  # fmt: skip
    parts.append("\n".join(f"- {_link(name, title, name in studies)}" for name, title in STUDIES.items()))
    for name, title in STUDIES.items():
        if name in studies:
            parts += [f'<a id="{name}"></a>', f"### {title}", section(studies[name], root, name in WITH_COSTS)]
    return "\n\n".join(parts) + "\n"


def _link(name: str, title: str, kept: bool) -> str:
    return f"[{title}](#{name})" if kept else f"{title}: not run yet"


def readme_block(studies: Mapping[str, KeptStudy]) -> str:
    """The headline table and the picture, or that they are not there yet."""
    study = studies.get(HEADLINE)
    if study is None or study.newest is None:
        return f"The study {HEADLINE} has not been run yet."
    summary = study.newest.summary
    keys = [f"test/{key}" for key in HEADLINE_KEYS]
    rows = [[s.label, *(cell(summary, s, key) for key in keys)] for s in summary.settings]
    base = escape_markdown(summary.baseline.label) if summary.baseline is not None else ""
    return (
        f"{STUDIES[HEADLINE]}: each loss at its own best learning rate, test images, mean ± sd of "
        f"{len(summary.study.seeds)} fresh seeds in percent; ▲ higher, ▼ lower than {base}. The tail are the three "
        "rarest digits, which differ from seed to seed. [experiments/RESULTS.md](experiments/RESULTS.md) has all "
        f"studies, and what we found.\n\n{table(['loss', *map(metric_title, keys)], rows)}\n\n"
        "![Precision and recall of the rarest digits, a row for each loss](experiments/results/losses.svg)"
    )


def with_block(readme: str, block: str) -> str:
    """The README with its block replaced.

    Raises:
        UserError: its two marks are not there, once each and in order.
    """
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in after or END in after:
        raise UserError(f"README.md must have the lines {BEGIN} and {END}, once each: the results go between them.")
    return f"{before}{BEGIN}\n{block}\n{END}{after}"
