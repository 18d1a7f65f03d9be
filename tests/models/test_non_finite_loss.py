import math

import pytest
import torch

from losslab.errors import UserError
from losslab.models import NonFiniteLossError
from losslab.models.non_finite_loss import require_finite


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("step", [0, 2, 4])
def test_the_first_loss_that_is_not_finite_is_named(bad, step):
    losses = torch.ones(5)
    losses[step:] = bad
    with pytest.raises(NonFiniteLossError, match=rf"the loss FocalLoss\(\) became {bad} in epoch 3, step {step}\."):
        require_finite(losses, "FocalLoss()", "epoch 3")


def test_finite_losses_pass():
    finite = torch.tensor([0.0, -1.0, torch.finfo(torch.float32).max])
    assert require_finite(finite, "CrossEntropyLoss()", "epoch 0") is None


def test_it_is_an_error_of_the_user():
    """So the command line shows it as a message, without a traceback."""
    assert issubclass(NonFiniteLossError, UserError)
