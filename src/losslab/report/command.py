"""`losslab report`: a study as one page, and as Markdown."""

import argparse
from pathlib import Path
from typing import NoReturn

from losslab.errors import UserError
from losslab.report.study_summary import summarise_folder
from losslab.run.run_folder import write_whole


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def report_command(tokens: list[str]) -> None:
    """Write report.html and report.md of a study, from what lies in its folder."""
    parser = _Parser(
        prog="losslab report",
        allow_abbrev=False,
        description="Write a study's report.html, one file that needs no network, and report.md.",
    )
    parser.add_argument("study", type=Path, help="the study's folder, runs/gamma")
    options = parser.parse_args(tokens)
    write_report(options.study)


def write_report(folder: Path) -> None:
    """Write report.html and report.md into runs/<study>.

    Raises:
        UserError: there is no study, it has no result, or its folder cannot be written.
    """
    from losslab.report.markdown import markdown
    from losslab.report.page import render
    from losslab.report.page_content import page_content

    summary, results = summarise_folder(folder)
    try:
        write_whole(folder / "report.html", render(page_content(folder, summary, results)))
        write_whole(folder / "report.md", markdown(summary))
    except OSError as error:
        raise UserError(f"cannot write the report into {folder}: {error.strerror}.") from None
    print(f"{folder}/report.html, {folder}/report.md")
