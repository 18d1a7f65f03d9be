"""Loss functions as plug-in objects: logits and labels in, a scalar out. Knows nothing of Lightning, data and metrics.

Letters: N images, C classes; z logits, p = softmax(z), t the label, p_t = p[t].
"""

from losslab.losses.cross_entropy import CrossEntropyLoss
from losslab.losses.dice import DiceLoss
from losslab.losses.focal import FocalLoss
from losslab.losses.loss import Loss
from losslab.losses.pointwise import PointwiseLoss

__all__ = ["CrossEntropyLoss", "DiceLoss", "FocalLoss", "Loss", "PointwiseLoss"]
