"""What a loss refuses is told before training."""

import pytest
import torch

from losslab.errors import UserError
from losslab.losses import CrossEntropyLoss, DiceLoss, FocalLoss, LDAMLoss, Loss
from losslab.models.unfit_loss import require_fitting

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("loss", "told"),
    [
        (FocalLoss(class_weights=[1.0, 2.0]), "class_weights must be 3 numbers, one a class, got 2"),
        (LDAMLoss(), "LDAMLoss needs the classes' frequencies"),
        (CrossEntropyLoss("none"), "loss must give a scalar, but CrossEntropyLoss.* has reduction='none'; use 'mean'"),
        (DiceLoss(reduction="none"), "loss must give a scalar, but DiceLoss.* has reduction='none'; use 'mean' or"),
    ],
    ids=["weights", "frequencies", "images", "classes"],
)
def test_it_is_refused_in_its_own_words(loss: Loss, told: str) -> None:
    with pytest.raises(UserError, match=told):
        require_fitting(loss, 3, CPU)


def test_any_other_loss_passes() -> None:
    for loss in (CrossEntropyLoss(), DiceLoss(class_weights=[1.0, 2.0, 3.0]), FocalLoss(0.5, "sum")):
        require_fitting(loss, 3, CPU)
