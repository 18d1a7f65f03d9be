"""Networks that classify images. Knows nothing of runs, sweeps and reports."""

from losslab.models.classifier import Classifier, NonFiniteLossError
from losslab.models.cnn import CNN
from losslab.models.mlp import MLP
from losslab.models.resnet import ResNet
from losslab.models.separable_cnn import SeparableCNN

__all__ = ["CNN", "MLP", "Classifier", "NonFiniteLossError", "ResNet", "SeparableCNN"]
