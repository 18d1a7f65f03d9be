"""The images that a run was validated on, from the data of its configuration."""

from pathlib import Path

import numpy as np

from losslab.run.command_line import CommandLine
from losslab.run.provenance import require_same_data
from losslab.run.run_folder import RunFolder

PLAIN_TRAINER = [
    "--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.strategy", "auto", "--trainer.precision",
    "null", "--trainer.logger", "false", "--trainer.callbacks", "null", "--trainer.plugins", "null",
]  # fmt: skip
"""Nothing is trained: only the data of the configuration are wanted."""


def validation_images(run: Path) -> np.ndarray:
    """Read the validation split of a run, in its order: uint8 (N, channels, height, width).

    Raises:
        UserError: the images cannot be read, or are not those that the run was trained on.
    """
    folder = RunFolder(run)
    command_line = CommandLine(["--config", str(folder.config_file), *PLAIN_TRAINER], "losslab report")
    data = command_line.build().data
    data.prepare_data()
    data.setup("fit")
    require_same_data(folder.manifest(), data, run)
    return data.split("val").images.cpu().numpy()
