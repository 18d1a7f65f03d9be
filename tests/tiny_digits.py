"""250 real digits to train (200) and validate (50) on, and 50 to test on: a data set for quick tests."""

from losslab.data import ImageDataModule, LabelledImages
from losslab.data.mnist import embedded_mnist


class TinyDigits(ImageDataModule):
    """The first 25 embedded training images of each digit, and the first 5 embedded test images."""

    data_name = "tiny-digits"
    class_names = tuple("0123456789")
    image_shape = (1, 28, 28)
    default_val_size = 50

    def load_train(self) -> LabelledImages:
        return embedded_mnist("train").take(slice(None, None, 16))

    def load_test(self) -> LabelledImages:
        return embedded_mnist("test").take(slice(None, None, 20))
