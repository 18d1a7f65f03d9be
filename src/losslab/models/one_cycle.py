"""The schedule of a training that names none."""

from torch.optim import Optimizer
from torch.optim.lr_scheduler import OneCycleLR


def one_cycle(optimizer: Optimizer, steps: int) -> OneCycleLR:
    """Up to the optimiser's learning rate and down to nothing, over all steps (Smith & Topin 2017, arXiv:1708.07120).

    Where there is momentum (or Adam's beta 1), it goes from 0.95 to 0.85 and back, against the learning rate.
    """
    has_momentum = "betas" in optimizer.defaults or optimizer.defaults.get("momentum", 0.0) > 0
    peaks = [group["lr"] for group in optimizer.param_groups]
    return OneCycleLR(optimizer, peaks, total_steps=steps, cycle_momentum=has_momentum)
