"""A loss that cannot train this network is told before training starts."""

import torch

from losslab.errors import UserError
from losslab.losses import Loss


def require_fitting(loss: Loss, num_classes: int, device: torch.device) -> None:
    """Call a loss once with one image of each class.

    Raises:
        UserError: it refuses the call (class weights of another number of classes, say), or gives no scalar.
    """
    try:
        value = loss(torch.zeros(num_classes, num_classes, device=device), torch.arange(num_classes, device=device))
    except ValueError as error:
        raise UserError(str(error)) from error
    if value.ndim > 0:
        raise UserError(f"loss must give a scalar, but {loss} has reduction={loss.reduction!r}; use 'mean' or 'sum'.")
