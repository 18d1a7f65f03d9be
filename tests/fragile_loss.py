"""A loss that fails at some of its arguments, as a setting of a search may."""

from torch import Tensor

from losslab.losses import FocalLoss


class FragileLoss(FocalLoss):
    """Focal loss that stops the training for gamma > 2.5."""

    def per_image(self, logits: Tensor, label: Tensor) -> Tensor:
        if float(self.gamma) > 2.5:
            raise RuntimeError("out of memory <b>(simulated)")
        return super().per_image(logits, label)
