"""A loss that became NaN or infinite, and where."""

from torch import Tensor

from losslab.errors import TrainingError


class NonFiniteLossError(TrainingError):
    """Training met a loss that is NaN or infinite; its weights are of no use from that step on."""


def require_finite(losses: Tensor, what: str, where: str) -> None:
    """Raise NonFiniteLossError if one of `losses` (S,) is not finite: it names the loss, `where` and the first step."""
    bad = (~losses.isfinite()).nonzero()
    if len(bad):
        step = int(bad[0])
        raise NonFiniteLossError(
            f"the loss {what} became {float(losses[step])} in {where}, step {step}. "
            "Lower the learning rate, or look at the loss and the data at that step."
        )
