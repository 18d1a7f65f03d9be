"""`make bench`: measure everything, or the named tables, and keep the results.

    make bench                          all tables, about 20 minutes on 2 cores
    make bench ARGS='epochs studies'    these two; the others stay as they are
    BENCH_SMALL=1 make bench            a few steps of everything on the embedded images: prints, and keeps nothing

MNIST must be on disk (MNIST_DIR, else data/). HYDRA_TEMPLATE=FOLDER, with github.com/ashleve/lightning-hydra-template
in it, adds that template's row. Each table is kept as soon as it is there, in RESULTS.json with every repeat and in
RESULTS.md for people. Tables made on a GPU stand beside those made on a CPU.
"""

import os

os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # torch's profiler, read when it is imported

import json
import sys
from pathlib import Path

from epoch import epochs, steps
from losses import losses
from many_results import many_results
from measure import DEVICE, SMALL, be_quiet, markdown
from members import members
from overheads import growth, start_up
from study import studies
from time_to_99 import time_to_99

TABLES = {
    table.__name__: table
    for table in (epochs, steps, time_to_99, members, studies, start_up, growth, many_results, losses)
}
KEPT = Path(__file__).with_name("RESULTS.json")
HEADING = """\
# How fast losslab is

Written by `make bench`; RESULTS.json holds every repeat. A ratio is taken within a repeat, where both sides took turns.
"""


def main(names: list[str]) -> int:
    """Measure the named tables; all, if none is named."""
    unknown = [name for name in names if name not in TABLES]
    if unknown:
        print(f"bench: error: no table {', '.join(unknown)}; there are {', '.join(TABLES)}", file=sys.stderr)
        return 2
    be_quiet()
    for name in names or TABLES:
        if SMALL:
            print(markdown(TABLES[name]().record()), flush=True)
            continue
        kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
        kept[f"{name} on {DEVICE.type}"] = TABLES[name]().record()
        KEPT.write_text(json.dumps(kept, indent=1) + "\n")
        ordered = [kept[key] for table in TABLES for key in (f"{table} on cpu", f"{table} on cuda") if key in kept]
        KEPT.with_suffix(".md").write_text("\n".join([HEADING, *map(markdown, ordered)]))
        print(markdown(kept[f"{name} on {DEVICE.type}"]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
