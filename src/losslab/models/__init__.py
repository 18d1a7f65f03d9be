"""Networks that classify images. Knows nothing of runs, sweeps and reports.

classifier: the abstract base: step, metrics, optimiser, schedule
checks: what is looked at before a training: the loss, the schedule's length, the shape of the data
epoch: the sums of an epoch and the metrics of a split, for one model or a population of K
mlp: multi-layer perceptron
cnn: three convolutions
separable_cnn: depthwise separable convolutions
resnet: residual network for small images
"""

from losslab.models.classifier import Classifier
from losslab.models.cnn import CNN
from losslab.models.epoch import (
    EpochTally,
    NonFiniteLossError,
    count_correct_in,
    counted_labels,
    ends_training,
    evaluation_logits,
    population_metrics,
    require_finite,
    running_metrics,
    split_metrics,
)
from losslab.models.mlp import MLP
from losslab.models.resnet import ResNet
from losslab.models.separable_cnn import SeparableCNN

__all__ = [
    "CNN",
    "MLP",
    "Classifier",
    "EpochTally",
    "NonFiniteLossError",
    "ResNet",
    "SeparableCNN",
    "count_correct_in",
    "counted_labels",
    "ends_training",
    "evaluation_logits",
    "population_metrics",
    "require_finite",
    "running_metrics",
    "split_metrics",
]
