"""The images that a run was validated on, from the data of its configuration."""

from pathlib import Path

import numpy as np

from losslab.run.command_line import CommandLine
from losslab.run.folder import RunFolder
from losslab.run.provenance import require_same_data


def validation_images(run: Path) -> np.ndarray:
    """Read the validation split of a run, in its order: uint8 (N, channels, height, width).

    Raises:
        UserError: the images cannot be read, or are not those that the run was trained on.
    """
    folder = RunFolder(run)
    command_line = CommandLine(["--config", str(folder.config_file)], "losslab report")
    config = command_line.resolved()
    config["trainer"] = {"accelerator": "cpu"}  # nothing is trained: no tracker, and no device that is not here
    command_line.parse_config(config)
    data = command_line.build().data
    data.prepare_data()
    data.setup("fit")
    require_same_data(folder.manifest(), data, run)
    return data.split("val").images.cpu().numpy()
