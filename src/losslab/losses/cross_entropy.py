"""Cross-entropy: the loss that every other is compared with."""

import torch.nn.functional as F
from torch import Tensor

from losslab.losses.pointwise import PointwiseLoss


class CrossEntropyLoss(PointwiseLoss):
    """l(z, t) = -log p_t, in [0, inf).

    Its gradient in the logits is p - onehot(t): every image pulls in proportion to its error, and summed over the
    training set at the optimum, predicted and true counts of each class agree. The same value and gradient as
    torch.nn.functional.cross_entropy, for labels with class weights and smoothing too; for probability targets with
    class weights the mean is weighted here as it is for labels, where torch divides by N.

    Use it where probabilities matter, and as the baseline. Under imbalance it favours the precision of rare classes
    over their recall.

    Args:
        reduction, class_weights, label_smoothing: see PointwiseLoss.
    """

    def of_label(self, logits: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(logits, label, reduction="none")

    def of_every_class(self, logits: Tensor) -> Tensor:
        return -F.log_softmax(logits, dim=1)
