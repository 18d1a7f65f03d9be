"""`make results`: writes RESULTS.md and the other files from the kept records; keeps and restores records.

    python -m experiments.results
        writes experiments/RESULTS.md, experiments/results/losses.svg, the README's table, and the expected numbers in
        the headers of studies and experiments
    python -m experiments.results keep runs/NAME
        writes the study's results so far into experiments/results/NAME.jsonl, and prints how far they are from the
        results that the file held before
    python -m experiments.results restore NAME
        puts kept results back into runs/NAME, so that its commands train only the missing ones

Called in the repository's folder.
"""

import sys
from pathlib import Path

from losslab.errors import UserError
from losslab.run import RUNS, write_whole

from .kept import describe_difference, keep, kept_file, read_kept, restore
from .page import KEPT, ROOT, render_files


def main(words: list[str]) -> int:
    """Runs one of the three commands; returns the exit status."""
    try:
        if not words:
            for file, text in render_files().items():
                write_whole(file, text)
                print(file.relative_to(ROOT))
        elif words[0] == "keep" and len(words) > 1:
            for name in words[1:]:
                file = kept_file(KEPT, Path(name).name)
                former, kept = read_kept(file), keep(Path(name), KEPT)
                difference = describe_difference(former, kept)
                print(f"{file.relative_to(ROOT)}: {len(kept.results)} results; {difference}")
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
