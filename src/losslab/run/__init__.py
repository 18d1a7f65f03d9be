"""One configured training: parse, build, fit, test, predict, and the folder that records it. Imports no study code.

command_line: LightningCLI parses an experiment and builds its parts; a mistake is one line
code: the identity of code: digests of the classes that a configuration names
config: configuration files laid over each other; the hash of a configuration; differences of two
values: YAML read and written; what says something else than its author thinks is refused; 1 stays 1
folder: a run's folder; atomic writes
precision: `precision: auto`, what it means on a device; how exactly float32 is multiplied
provenance: commit, versions and hashes of a run; the count of test reads
callbacks: metrics.csv, checkpoints and Ctrl-C during a fit
tracking: W&B and TensorBoard, guarded against failures
fit: `losslab fit`: train a new run, or continue one
evaluate: `losslab validate` and `test`: evaluate a finished run
predict: `losslab predict`: logits of the validation split, or predictions for any pictures
export: `losslab export`: a run's network as ONNX
summary: `losslab summary`: a network's layers, shapes and parameter counts
runs: `losslab runs`: the runs with their headline numbers
terminal: options, tables and printed text
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from losslab.run.callbacks import Interrupted, Interruption, epoch_row, stopping_at_once, write_epochs
    from losslab.run.code import changed_code, code_digests
    from losslab.run.command_line import CommandLine, Parts, explain_parse_error, find_own_modules
    from losslab.run.config import SEED, Config, class_name, config_hash, differences, is_given, set_value
    from losslab.run.evaluate import FinishedRun, evaluate_run, find_finished_run
    from losslab.run.fit import fit_run, require_complete
    from losslab.run.folder import (
        RUNS,
        RunFolder,
        find_run,
        named_folder,
        read_predictions,
        read_record,
        study_name,
        write_predictions,
        write_whole,
        writing,
    )
    from losslab.run.provenance import (
        ACCEPT,
        continue_code,
        earlier_reads,
        git_state,
        new_manifest,
        require_same_data,
        utc_now,
    )
    from losslab.run.terminal import OptionParser, console, dense_table
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
    from losslab.run.values import as_value, dump_yaml, read_yaml

_FAST_MODULES = ("folder", "config", "values", "code", "terminal")
_SLOW_MODULES = ("provenance", "callbacks", "command_line", "tracking", "evaluate", "fit")
"""The modules that define these names; the slow ones import Lightning."""


def __getattr__(name: str) -> Any:
    # Lazy, since `losslab runs` needs no Lightning, whose import takes seconds.
    for module in () if name.startswith("_") else (*_FAST_MODULES, *_SLOW_MODULES):
        found = getattr(importlib.import_module(f"losslab.run.{module}"), name, None)
        if found is not None:
            globals()[name] = found
            return found
    raise AttributeError(f"module 'losslab.run' has no attribute {name!r}")
