"""From image files to batches on the device. Knows nothing of models and losses."""

from losslab.data.augmentation import Augmentation
from losslab.data.batches import EpochOrder, EvaluationBatches, TrainingBatches
from losslab.data.image_data import ImageDataModule
from losslab.data.labelled_images import LabelledImages
from losslab.data.mnist import MNISTDataModule

__all__ = [
    "Augmentation",
    "EpochOrder",
    "EvaluationBatches",
    "ImageDataModule",
    "LabelledImages",
    "MNISTDataModule",
    "TrainingBatches",
]
