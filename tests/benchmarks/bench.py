"""`make bench`: measure everything, or the named tables, and keep the results.

    make bench                          all tables, about 45 minutes on 2 cores
    make bench ARGS='epochs studies'    these two; the others stay as they are

MNIST must be on disk (MNIST_DIR, else data/). Each table is kept as soon as it is there, in RESULTS.json with every
repeat and in RESULTS.md for people. Tables made on a GPU stand beside those made on a CPU.
"""

import os

os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # torch's profiler, read when it is imported

import json
import logging
import sys
import warnings
from pathlib import Path

from epoch import epochs, steps
from losses import losses
from measure import DEVICE, markdown
from overheads import growth, start_up
from study import studies
from time_to_99 import time_to_99

TABLES = {table.__name__: table for table in (epochs, steps, time_to_99, studies, start_up, growth, losses)}
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
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    for name in names or TABLES:
        kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
        kept[f"{name} on {DEVICE.type}"] = TABLES[name]().record()
        KEPT.write_text(json.dumps(kept, indent=1) + "\n")
        ordered = [kept[key] for table in TABLES for key in (f"{table} on cpu", f"{table} on cuda") if key in kept]
        KEPT.with_suffix(".md").write_text("\n".join([HEADING, *map(markdown, ordered)]))
        print(markdown(kept[f"{name} on {DEVICE.type}"]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
