"""The modules of a user, edited: a test imports them again, as a new process would."""

import importlib
import sys
from pathlib import Path

from losslab.run import code

LOSS = """\
import torch

WEIGHT = 1.0


class MyLoss(torch.nn.Module):
    def forward(self, logits, target):
        return WEIGHT * torch.nn.functional.cross_entropy(logits, target)
"""


def forget(*modules: str) -> None:
    """Forget these modules, and the sources of all."""
    for name in [name for name in sys.modules if name.partition(".")[0] in modules]:
        del sys.modules[name]
    for cached in (code._digest, code._definition, code._source):
        cached.cache_clear()
    importlib.invalidate_caches()


def write_loss(module: str, weight: float = 1.0) -> None:
    """Write MODULE.py with the class MyLoss into the current folder, to be imported anew."""
    sys.dont_write_bytecode = True  # a file of the same second and size would not be read again
    Path(f"{module}.py").write_text(LOSS.replace("1.0", str(weight), 1))
    forget(module)
