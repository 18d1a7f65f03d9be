"""Cross-entropy, the baseline of all other losses."""

from torch import Tensor

from losslab.losses import log_probabilities
from losslab.losses.pointwise import PointwiseLoss


class CrossEntropyLoss(PointwiseLoss):
    """l(z, t) = -log p_t, in [0, inf).

    Gradient: dl/dz = p - onehot(t), proportional to the image's error. Where the sum over the training set is zero,
    predicted and true counts of each class agree: soft precision equals soft recall.

    Limits: l -> 0 only as z_t - z_k -> inf for all k; l -> z_max - z_t for a hopeless image, whose gradient keeps its
    full size. Value and gradient equal torch.nn.functional.cross_entropy's, also for labels with class weights and
    smoothing, but are more exact: torch's float32 value is 0 from a margin of 17 on. For probability targets with
    class weights the mean is weighted as for labels, where torch divides by N.

    Use it where probabilities matter (it is a strictly proper score: its minimiser is the true probability), and as
    the baseline. Under class imbalance it favours the precision of rare classes over their recall.

    Args:
        reduction, class_weights, label_smoothing, ignore_index: see PointwiseLoss.
    """

    def per_image(self, logits: Tensor, label: Tensor) -> Tensor:
        return -log_probabilities.per_image(logits, label)[0]

    def per_class_as_label(self, logits: Tensor) -> Tensor:
        return -log_probabilities.per_class(logits)[0]
