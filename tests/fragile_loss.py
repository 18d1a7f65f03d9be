"""A loss that fails at some of its arguments, as a setting of a search may."""

from torch import Tensor

from losslab.losses import FocalLoss


class FragileLoss(FocalLoss):
    """Focal loss that stops the training for gamma > 2.5."""

    def of_label(self, logits: Tensor, label: Tensor) -> Tensor:
        if float(self.gamma) > 2.5:
            raise RuntimeError("out of memory <b>(simulated)")
        return super().of_label(logits, label)
