"""findings.md: text by hand, whose numbers come from the kept studies."""

import re
from collections.abc import Iterable, Mapping

from kept_study import KeptStudy
from study_section import mean_sd

from losslab.errors import UserError
from losslab.report import Summary, format_interval

PLACEHOLDER = re.compile(r"\{\{(.*?)\}\}")
DIFFERENCE = "difference"


def filled(text: str, studies: Mapping[str, KeptStudy], file: str) -> str:
    """`text` with its placeholders replaced.

    {{STUDY|SETTING|METRIC}} is mean ± sd in percent, such as "97.12 ± 0.10", and {{STUDY|SETTING|METRIC|difference}}
    the difference from the baseline with its interval, in points, such as "+1.23 [+0.40, +2.06]". A metric is
    named without "test/": recall/tail, precision/3, f1/macro, ece, ece_psi, confidence.

    Args:
        text: Markdown.
        studies: the kept ones, by name.
        file: where the text is from, for messages.

    Raises:
        UserError: there is no such study, setting or metric, or no verdict on it.
    """
    return PLACEHOLDER.sub(lambda found: _value(found[1].split("|"), studies, f"{file}: {found[0]}"), text)


def _value(parts: list[str], studies: Mapping[str, KeptStudy], where: str) -> str:
    if len(parts) not in (3, 4) or parts[3:] not in ([], [DIFFERENCE]):
        raise UserError(f"{where} must be STUDY|SETTING|METRIC or STUDY|SETTING|METRIC|{DIFFERENCE}.")
    name, label, metric = parts[:3]
    study = studies.get(name)
    confirmation = study.newest if study is not None else None
    if confirmation is None:
        confirmed = [known for known, other in studies.items() if other.newest is not None]
        raise UserError(f"{where}: no study {name!r} is kept with a confirmation; there are {_listed(confirmed)}.")
    summary = confirmation.summary
    setting = next((setting for setting in summary.settings if setting.label == label), None)
    if setting is None:
        labels = [setting.label for setting in summary.settings]
        raise UserError(f"{where}: no setting {label!r} in {name}; there are {_listed(labels)}.")
    key = f"test/{metric}" if f"test/{metric}" in setting.values else metric
    if key not in setting.values:
        raise UserError(f"{where}: no metric {metric!r} of {label!r}; there are {_listed(setting.values)}.")
    return _difference(summary, label, key, where) if len(parts) == 4 else mean_sd(setting, key)


def _difference(summary: Summary, label: str, key: str, where: str) -> str:
    verdict = summary.family.of(label, key) if summary.family is not None else None
    if verdict is None:
        known = summary.family.metrics if summary.family is not None else []
        raise UserError(f"{where}: there is no verdict on it; there are those on {_listed(known)}, of other settings.")
    return format_interval(verdict)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(name.removeprefix("test/") for name in names) or "none"
