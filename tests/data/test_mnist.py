import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from losslab.data import LabelledImages, MNISTDataModule, mnist
from losslab.data.mnist import embedded_mnist
from losslab.data.mnist_files import read_mnist
from losslab.errors import UserError


@pytest.fixture(autouse=True)
def nothing_told_yet() -> Iterator[None]:
    mnist._tell_once.cache_clear()
    yield
    mnist._tell_once.cache_clear()


@pytest.fixture
def no_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any look for files, and any download, fails the test."""
    monkeypatch.setattr(mnist, "mnist_is_in", lambda root: pytest.fail(f"looked into {root}"))
    monkeypatch.setattr(mnist, "download_mnist", lambda root: pytest.fail(f"downloaded into {root}"))


@pytest.fixture
def no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mnist, "download_mnist", lambda root: pytest.fail(f"downloaded into {root}"))


def each_image(*splits: LabelledImages) -> list[bytes]:
    return [image.numpy().tobytes() for split in splits for image in split.images]


# Where the images come from


@pytest.mark.parametrize("place", ["data.root", "MNIST_DIR", "data"])
@pytest.mark.parametrize("source", ["auto", "full"])
def test_files_are_sought_in_the_root_else_in_mnist_dir_else_in_data(
    write_mnist, no_download, own_folder, monkeypatch, place, source
):
    places = {"data.root": own_folder / "given", "MNIST_DIR": own_folder / "shared", "data": own_folder / "data"}
    order = [*(other for other in places if other != place), place]
    for seed, name in enumerate(order):  # the last one written is the only one with the right checksums
        write_mnist(places[name] / "MNIST" / "raw", seed)
    if place != "data":
        monkeypatch.setenv("MNIST_DIR", str(places["MNIST_DIR"]))
    data = MNISTDataModule(source, root=places[place] if place == "data.root" else None, val_size=10)
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    assert data.hashes["train"] == read_mnist(places[place], "train").fingerprint()
    assert data.hashes["test"] == read_mnist(places[place], "t10k").fingerprint()
    assert data.data_name == "mnist"


def test_an_empty_mnist_dir_is_none(write_mnist, no_download, own_folder, monkeypatch):
    write_mnist(own_folder / "data" / "MNIST" / "raw")
    monkeypatch.setenv("MNIST_DIR", "")
    assert len(MNISTDataModule().load_train().labels) == 40


def test_a_root_that_is_given_is_the_only_place_looked_into(write_mnist, own_folder, monkeypatch):
    write_mnist(own_folder / "MNIST" / "raw")
    write_mnist(own_folder / "data" / "MNIST" / "raw")
    monkeypatch.setenv("MNIST_DIR", str(own_folder))
    data = MNISTDataModule(root="elsewhere")
    assert len(data.load_train().labels) == 4000
    assert data.data_name == "mnist-5k"


def test_what_is_missing_is_downloaded_into_the_folder_and_read_from_there(write_mnist, own_folder, monkeypatch):
    asked = []

    def download(root: Path) -> None:
        asked.append(root)
        write_mnist(root / "MNIST" / "raw")

    monkeypatch.setattr(mnist, "download_mnist", download)
    monkeypatch.setenv("MNIST_DIR", "shared")
    data = MNISTDataModule(val_size=10)
    data.prepare_data()
    assert asked == [Path("shared")]
    data.setup("fit")
    assert (data.data_name, len(data.split("train").labels)) == ("mnist", 30)
    data.prepare_data()
    assert asked == [Path("shared")]


@pytest.mark.parametrize("load", ["load_train", "load_test"])
def test_setup_alone_downloads_too(write_mnist, monkeypatch, load):
    monkeypatch.setattr(mnist, "download_mnist", lambda root: write_mnist(root / "MNIST" / "raw") and None)
    data = MNISTDataModule("full")
    assert len(getattr(data, load)().labels) == (40 if load == "load_train" else 20)


def test_a_damaged_file_is_an_error_and_no_reason_for_the_embedded_images(write_mnist, no_download, own_folder):
    (write_mnist(own_folder / "data" / "MNIST" / "raw") / "train-images-idx3-ubyte").write_bytes(b"")
    with pytest.raises(UserError, match="foreign"):
        MNISTDataModule().setup("fit")


def test_an_incomplete_folder_is_an_error_and_no_reason_for_the_embedded_images(write_mnist, no_download, own_folder):
    (write_mnist(own_folder / "data" / "MNIST" / "raw") / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(UserError, match="lacks t10k-labels-idx1-ubyte"):
        MNISTDataModule().setup("fit")


# The embedded images


def test_without_files_and_download_the_embedded_images_are_taken_with_one_notice(caplog):
    for _ in range(2):
        data = MNISTDataModule()
        data.prepare_data()
        data.setup("fit")
        data.setup("test")
        assert data.data_name == "mnist-5k"
        counts = {name: torch.bincount(data.split(name).labels).tolist() for name in ("train", "val", "test")}
        assert counts == {"train": [350] * 10, "val": [50] * 10, "test": [100] * 10}
    notices = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(notices) == 1
    notice = notices[0].getMessage()
    assert notice.startswith("NOTICE: MNIST is not under data/MNIST/raw/ ")
    assert all(words in notice for words in ("no network in tests", "5,000", "3,500", "1,000", "mnist-5k"))


@pytest.mark.parametrize("stage", ["fit", "validate", "test", "predict"])
def test_every_stage_says_mnist_5k(stage):
    data = MNISTDataModule()
    assert data.data_name == "mnist"
    data.setup(stage)
    assert data.data_name == "mnist-5k"
    assert MNISTDataModule.data_name == "mnist"  # the next data module may find the files


@pytest.mark.parametrize("source", ["auto", "embedded"])
def test_embedded_splits_share_no_image(source):
    data = MNISTDataModule(source)
    data.setup("fit")
    data.setup("test")
    splits = [data.split(name) for name in ("train", "val", "test")]
    assert [len(split.labels) for split in splits] == [3500, 500, 1000]
    assert len(set(each_image(*splits))) == 5000


@pytest.mark.parametrize("stage", ["fit", "test"])
def test_source_embedded_asks_for_neither_files_nor_download_nor_attention(no_looking, monkeypatch, caplog, stage):
    monkeypatch.setenv("MNIST_DIR", "shared")
    data = MNISTDataModule("embedded", root="given")
    data.prepare_data()
    data.setup(stage)
    assert data.data_name == "mnist-5k"
    assert caplog.records == []


def test_source_embedded_passes_over_files_that_are_there(write_mnist, own_folder):
    write_mnist(own_folder / "data" / "MNIST" / "raw")
    data = MNISTDataModule("embedded")
    assert len(data.load_train().labels) == 4000
    assert len(data.load_test().labels) == 1000


@pytest.mark.parametrize("stage", ["fit", "validate", "test", "predict"])
def test_source_full_refuses_the_embedded_images_and_says_what_to_do(stage, caplog):
    data = MNISTDataModule("full", root="given")
    data.prepare_data()
    with pytest.raises(UserError) as refusal:
        data.setup(stage)
    message = str(refusal.value)
    assert message.startswith("data.source is 'full', but MNIST is not under given/MNIST/raw/ ")
    assert all(
        words in message for words in ("no network in tests", "MNIST_DIR", "data.root", "--data.source embedded")
    )
    assert caplog.records == []


def test_an_unknown_source_names_itself():
    with pytest.raises(UserError, match=r"data\.source must be auto, full or embedded, got 'Full'"):
        MNISTDataModule("Full")


def test_embedded_images_look_like_mnist_whatever_the_seeds():
    before = {part: embedded_mnist(part).fingerprint() for part in ("train", "test")}
    embedded_mnist.cache_clear()
    torch.manual_seed(1)
    for part, count in (("train", 4000), ("test", 1000)):
        images = embedded_mnist(part)
        images.check(part, MNISTDataModule.image_shape, 10)
        assert images.fingerprint() == before[part]
        assert torch.bincount(images.labels).tolist() == [count // 10] * 10
        pixels = images.images.double() / 255
        assert pixels.mean() == pytest.approx(MNISTDataModule.pixel_mean, abs=0.005)
        assert pixels.std() == pytest.approx(MNISTDataModule.pixel_std, abs=0.005)


# The real files


def test_real_mnist_is_split_55_000_5_000_10_000(real_mnist, no_download, monkeypatch, caplog):
    monkeypatch.setenv("MNIST_DIR", str(real_mnist))
    data = MNISTDataModule("full")
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    splits = {name: data.split(name) for name in ("train", "val", "test")}
    assert {name: len(split.labels) for name, split in splits.items()} == {"train": 55000, "val": 5000, "test": 10000}
    assert data.data_name == "mnist"
    assert caplog.records == []
    share = {name: torch.bincount(split.labels) / len(split.labels) for name, split in splits.items()}
    torch.testing.assert_close(share["val"], share["train"], atol=1 / 5000, rtol=0)
    training = each_image(splits["train"], splits["val"])
    assert len(set(training)) == len(training) == 60_000
    assert set(training).isdisjoint(each_image(splits["test"]))


def test_all_embedded_images_are_in_the_real_training_set_under_the_same_label(real_mnist):
    def with_labels(*splits: LabelledImages) -> set[tuple[bytes, int]]:
        labels = torch.cat([split.labels for split in splits]).tolist()
        return set(zip(each_image(*splits), labels, strict=True))

    embedded = with_labels(embedded_mnist("train"), embedded_mnist("test"))
    assert len(embedded) == 5000
    assert embedded <= with_labels(read_mnist(real_mnist, "train"))
