"""Loss functions as plug-in objects: logits and labels in, a scalar out. Knows nothing of Lightning, data and metrics.

Letters: N images, C classes; z logits, p = softmax(z), t the label, p_t = p[t].

loss: the base: checks of a call, class weights, class frequencies, ignored images
pointwise: the base of losses that are a mean over images; label smoothing, probability targets
cross_entropy: cross-entropy, the baseline
focal: focal loss; its gradient ratio, crossover p* and matching gamma; its logits as probabilities
adaptive_focal: focal loss with a gamma for each image
binary_focal: focal loss of one sigmoid per class
poly: Poly-1, cross-entropy with another first term
generalized_cross_entropy: between cross-entropy and the mean absolute error, for label noise
logit_adjusted: cross-entropy with logits shifted by the class frequencies
ldam: larger margins for rarer classes
overlap: the base of losses that compare sets over a batch; dice, Tversky, the best F1 threshold
compound: a weighted sum of losses
class_weighting: class weights from class frequencies
log_probabilities: exact log p and log(1 - p) of softmax
description: a loss as plain values, for checkpoints
"""

from losslab.losses.adaptive_focal import AdaptiveFocalLoss
from losslab.losses.binary_focal import BinaryFocalLoss
from losslab.losses.class_weighting import ClassWeighting, EffectiveNumber, InverseFrequency
from losslab.losses.compound import CompoundLoss
from losslab.losses.cross_entropy import CrossEntropyLoss
from losslab.losses.description import build_loss, constructor_arguments, describe_loss
from losslab.losses.focal import FocalLoss, focal_crossover, focal_gradient_ratio, focal_to_probability, matching_gamma
from losslab.losses.generalized_cross_entropy import GeneralizedCrossEntropyLoss
from losslab.losses.ldam import LDAMLoss
from losslab.losses.logit_adjusted import LogitAdjustedLoss
from losslab.losses.loss import Loss, ignored_label
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
    "build_loss",
    "constructor_arguments",
    "describe_loss",
    "dice_threshold",
    "focal_crossover",
    "focal_gradient_ratio",
    "focal_to_probability",
    "ignored_label",
    "matching_gamma",
]
