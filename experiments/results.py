"""`make results`: write RESULTS.md, its picture and the README's table from the kept records; keep and restore those.

    results.py                    experiments/RESULTS.md, experiments/results/losses.svg, the README's block, and what
                                  the headers of studies and experiments expect
    results.py keep runs/NAME     write what the study has so far into experiments/results/NAME.jsonl, and say how far
                                  it is from what that held before
    results.py restore NAME       put kept results back into runs/NAME, so that its commands train what is missing only

Called in the repository's folder.
"""

import sys
from pathlib import Path

from expected import EXPECTED, with_expected
from kept import keep, kept_file, read_kept, restore
from kept_difference import kept_difference
from kept_study import KeptStudy, read_kept_study
from losses_picture import losses_picture
from results_page import HEADLINE, STUDIES, readme_block, results_page, with_block

from losslab.errors import UserError
from losslab.run import RUNS, write_whole

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "experiments" / "results"
PAGE = ROOT / "experiments" / "RESULTS.md"
FINDINGS = ROOT / "experiments" / "findings.md"
README = ROOT / "README.md"
PICTURE = KEPT / "losses.svg"


def kept_studies(folder: Path) -> dict[str, KeptStudy]:
    """All that are kept, in the page's order.

    Raises:
        UserError: a file is of no study that the page knows.
    """
    for file in folder.glob("*.jsonl"):
        if file.stem not in STUDIES:
            raise UserError(f"{file} is of no known study; results_page.py lists {', '.join(STUDIES)}.")
    found = {name: read_kept_study(kept_file(folder, name)) for name in STUDIES}
    return {name: study for name, study in found.items() if study is not None}


def rendered() -> dict[Path, str]:
    """What each written file shall hold."""
    studies = kept_studies(KEPT)
    files = {
        PAGE: results_page(studies, FINDINGS.read_text(), ROOT),
        README: with_block(README.read_text(), readme_block(studies)),
    }
    for name in EXPECTED:
        file = ROOT / name
        files[file] = with_expected(file.read_text(), name, studies)
    headline = studies.get(HEADLINE)
    if headline is not None and headline.newest is not None:
        files[PICTURE] = losses_picture(headline.newest.summary)
    return files


def main(words: list[str]) -> int:
    """Run one of the three commands."""
    try:
        if not words:
            for file, text in rendered().items():
                write_whole(file, text)
                print(file.relative_to(ROOT))
        elif words[0] == "keep" and len(words) > 1:
            for name in words[1:]:
                file = kept_file(KEPT, Path(name).name)
                former, kept = read_kept(file), keep(Path(name), KEPT)
                told = kept_difference(former, kept)
                print(f"{file.relative_to(ROOT)}: {len(kept.results)} results; {told}")
        elif words[0] == "restore" and len(words) > 1:
            for name in words[1:]:
                print(f"{RUNS / name}: {restore(kept_file(KEPT, name), RUNS / name)} result files put back")
        else:
            raise UserError(f"give nothing, keep runs/NAME or restore NAME, got {' '.join(words)!r}.")
    except UserError as error:
        print(f"results: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
