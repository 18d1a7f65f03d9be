"""A loss that fails at some of its arguments, as a setting of a search may."""

from torch import Tensor

from losslab.losses import FocalLoss


class FragileLoss(FocalLoss):
    """Focal loss that ends a training for gamma > 2.5, at its first batch of 20: the check before has more images."""

    def per_image(self, logits: Tensor, label: Tensor) -> Tensor:
        if float(self.gamma) > 2.5 and len(logits) == 20:
            raise RuntimeError("out of memory <b>(simulated)")
        return super().per_image(logits, label)
