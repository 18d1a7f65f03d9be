"""One configured training: parse, build, fit, test, predict, and the folder that records it. Knows nothing of studies.

command_line: LightningCLI: parses and builds an experiment; a mistake is one line
config: configuration files laid over each other; a configuration's identity; where two differ
folder: a run's folder, and how its files are written and read
provenance: commit, versions, hashes of a run; every read of the test images is counted
callbacks: what acts during a fit: metrics.csv, checkpoints, Ctrl-C
tracking: W&B and TensorBoard
fit: `losslab fit`: train, or continue
evaluate: `losslab validate` and `test`: evaluate a finished run
predict: `losslab predict`: logits of the validation split, or the classes of anyone's pictures
export: `losslab export`: a run's network as ONNX
summary: `losslab summary`: a network's layers, shapes and parameter counts
runs: `losslab runs`: the runs with their headline numbers
terminal: where tables are printed
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from losslab.run.callbacks import (
        Interrupted,
        Interruption,
        epoch_row,
        read_checkpoint,
        stopping_at_once,
        write_epochs,
    )
    from losslab.run.command_line import CommandLine, OptionParser, Parts, explain_parse_error, find_own_modules
    from losslab.run.config import SEED, Config, config_hash, differences, read_yaml, set_value
    from losslab.run.evaluate import FinishedRun, evaluate_run
    from losslab.run.fit import fit_run
    from losslab.run.folder import (
        RUNS,
        RunFolder,
        find_run,
        new_run_path,
        read_predictions,
        read_record,
        study_name,
        write_predictions,
        write_whole,
        writing,
    )
    from losslab.run.provenance import earlier_reads, git_state, new_manifest, require_same_data, utc_now
    from losslab.run.terminal import console, dense_table
    from losslab.run.tracking import (
        CONFUSION,
        MISCLASSIFIED,
        PER_CLASS,
        TrackerSummary,
        finish_trackers,
        run_config,
        tracker_arguments,
        wandb_has_key,
    )

__all__ = [
    "CONFUSION",
    "MISCLASSIFIED",
    "PER_CLASS",
    "RUNS",
    "SEED",
    "CommandLine",
    "Config",
    "FinishedRun",
    "Interrupted",
    "Interruption",
    "OptionParser",
    "Parts",
    "RunFolder",
    "TrackerSummary",
    "config_hash",
    "console",
    "dense_table",
    "differences",
    "earlier_reads",
    "epoch_row",
    "evaluate_run",
    "explain_parse_error",
    "find_own_modules",
    "find_run",
    "finish_trackers",
    "fit_run",
    "git_state",
    "new_manifest",
    "new_run_path",
    "read_checkpoint",
    "read_predictions",
    "read_record",
    "read_yaml",
    "require_same_data",
    "run_config",
    "set_value",
    "stopping_at_once",
    "study_name",
    "tracker_arguments",
    "utc_now",
    "wandb_has_key",
    "write_epochs",
    "write_predictions",
    "write_whole",
    "writing",
]


_MODULES = ("folder", "config", "terminal", "provenance", "callbacks", "command_line", "tracking", "evaluate", "fit")
"""Where the names above are defined, the quick ones to import first."""


def __getattr__(name: str) -> Any:
    # Imported when asked for: `losslab runs` needs no Lightning, whose import takes seconds.
    for module in _MODULES if name in __all__ else ():
        found = getattr(importlib.import_module(f"losslab.run.{module}"), name, None)
        if found is not None:
            globals()[name] = found
            return found
    raise AttributeError(f"module 'losslab.run' has no attribute {name!r}")
