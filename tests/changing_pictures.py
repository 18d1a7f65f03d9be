"""A data set that changes while a study is trained on it."""

from pathlib import Path
from typing import Any

from tiny_digits import TinyDigits

from losslab.data import LabelledImages
from losslab.errors import UserError


class Pictures(TinyDigits):
    """Digits whose labels a file shifts; without it, others in their place, as the embedded images for MNIST."""

    def __init__(self, file: str = "shift.txt", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.file = Path(file)
        self.data = "an attribute of the module's own, with the name of one of a population's"

    @property
    def data_name(self) -> str:  # type: ignore[override]
        return "pictures" if self.file.exists() else "fallback"

    def load_train(self) -> LabelledImages:
        train = super().load_train()
        shift = int(self.file.read_text()) if self.file.exists() else 5
        return train._replace(labels=(train.labels + shift) % 10)

    def load_test(self) -> LabelledImages:
        test = super().load_test()
        shift = int(self.file.read_text()) if self.file.exists() else 5
        return test._replace(labels=(test.labels + shift) % 10)


class PicturesOfTheSeed(Pictures):
    def load_train(self) -> LabelledImages:
        train = super().load_train()
        return train._replace(labels=(train.labels + self.seed) % 10)


class PicturesOrNone(Pictures):
    def load_train(self) -> LabelledImages:
        if not self.file.exists():
            raise UserError(f"there is no {self.file}.")
        return super().load_train()
