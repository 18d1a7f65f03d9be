"""Loss functions as plug-in objects: logits and labels in, a scalar out. Knows nothing of Lightning, data and metrics.

Letters: N images, C classes; z logits, p = softmax(z), t the label, p_t = p[t].
"""

from losslab.losses.adaptive_focal import AdaptiveFocalLoss
from losslab.losses.binary_focal import BinaryFocalLoss
from losslab.losses.class_weighting import ClassWeighting, EffectiveNumber, InverseFrequency
from losslab.losses.compound import CompoundLoss
from losslab.losses.cross_entropy import CrossEntropyLoss
from losslab.losses.focal import FocalLoss, focal_crossover, focal_gradient_ratio, focal_to_probability, matching_gamma
from losslab.losses.generalized_cross_entropy import GeneralizedCrossEntropyLoss
from losslab.losses.ldam import LDAMLoss
from losslab.losses.logit_adjusted import LogitAdjustedLoss
from losslab.losses.loss import Loss
from losslab.losses.overlap import DiceLoss, OverlapLoss, TverskyLoss, dice_threshold
from losslab.losses.pointwise import PointwiseLoss
from losslab.losses.poly import PolyLoss

__all__ = [
    "AdaptiveFocalLoss",
    "BinaryFocalLoss",
    "ClassWeighting",
    "CompoundLoss",
    "CrossEntropyLoss",
    "DiceLoss",
    "EffectiveNumber",
    "FocalLoss",
    "GeneralizedCrossEntropyLoss",
    "InverseFrequency",
    "LDAMLoss",
    "LogitAdjustedLoss",
    "Loss",
    "OverlapLoss",
    "PointwiseLoss",
    "PolyLoss",
    "TverskyLoss",
    "dice_threshold",
    "focal_crossover",
    "focal_gradient_ratio",
    "focal_to_probability",
    "matching_gamma",
]
