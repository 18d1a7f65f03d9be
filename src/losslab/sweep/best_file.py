"""best.yaml: the setting to go on with, ready for `losslab fit --config`."""

from pathlib import Path

import yaml

from losslab.report.summary import Summary
from losslab.run.folder import write_whole
from losslab.study.setting import Setting, take_setting
from losslab.sweep.study import Study


def write_best(folder: Path, study: Study, summary: Summary) -> None:
    """Write the chosen setting's whole configuration, with the reason for the choice in front."""
    chosen = summary.chosen
    setting = Setting(chosen.arm, chosen.varied)
    take_setting(study.command_line, study.file, study.base, setting, study.file.seeds[0])
    config = yaml.safe_dump(study.command_line.resolved(), sort_keys=False)
    reason = f"# {chosen.label}, chosen by the study {folder.name} on validation.\n# {' '.join(summary.answer)}\n"
    if chosen is not summary.best:
        reason += f"# So this is the baseline, {chosen.label}, and not {summary.best.label}.\n"
    write_whole(folder / "best.yaml", f"{reason}# Train it: losslab fit --config {folder}/best.yaml\n{config}")
    print(f"{folder}/best.yaml: {chosen.label}")
