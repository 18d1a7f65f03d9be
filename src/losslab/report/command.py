"""`losslab report`: a study as one page and as Markdown; or two of them side by side."""

from pathlib import Path

from losslab.errors import UserError
from losslab.report.study_summary import summarise_folder
from losslab.run.command_line import OptionParser
from losslab.run.folder import RUNS, write_whole


def report_command(tokens: list[str]) -> None:
    """Write report.html and report.md of a study, from what lies in its folder."""
    parser = OptionParser(
        prog="losslab report",
        description="Write a study's report.html, one file that needs no network, and report.md.",
    )
    parser.add_argument("study", type=Path, nargs="?", help="the study's folder, runs/gamma")
    parser.add_argument(
        "--compare", type=Path, nargs=2, metavar=("A", "B"), help="instead: two studies or two runs side by side"
    )
    parser.add_argument("--wandb", metavar="PROJECT", help="also save it as a W&B report: PROJECT or ENTITY/PROJECT")
    parser.add_argument("--out", type=Path, help="the comparison's file; by default runs/compare/A-and-B.html")
    options = parser.parse_args(tokens)
    if (options.study is None) == (options.compare is None):
        raise UserError("give either a study's folder, such as runs/gamma, or --compare with two of them.")
    if options.compare is None:
        write_report(options.study)
        if options.wandb is not None:
            from losslab.report.wandb_report import save_wandb_report

            print(save_wandb_report(options.study, *summarise_folder(options.study), options.wandb))
    else:
        write_comparison(options.compare[0], options.compare[1], options.out)


def write_report(folder: Path) -> None:
    """Write report.html and report.md into runs/<study>.

    Raises:
        UserError: there is no study, it has no result, or its folder cannot be written.
    """
    from losslab.report.confirmations import read_confirmations
    from losslab.report.markdown import markdown
    from losslab.report.page import render
    from losslab.report.page_content import page_content

    summary, results = summarise_folder(folder)
    try:
        write_whole(folder / "report.html", render(page_content(folder, summary, results)))
        write_whole(folder / "report.md", markdown(summary, read_confirmations(folder)))
    except OSError as error:
        raise UserError(f"cannot write the report into {folder}: {error.strerror}.") from None
    print(f"{folder}/report.html, {folder}/report.md")


def write_comparison(a: Path, b: Path, out: Path | None) -> None:
    """Write the page of two studies or two runs side by side.

    Raises:
        UserError: they cannot be compared, or the page cannot be written.
    """
    from losslab.report.comparison_content import comparison_content
    from losslab.report.page import render_comparison
    from losslab.report.side import read_side

    out = out or RUNS / "compare" / f"{a.name}-and-{b.name}.html"
    page = render_comparison(comparison_content(read_side(a), read_side(b)))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, page)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}.") from None
    print(out)
