import gzip
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from losslab.data import LabelledImages, MNISTDataModule, mnist
from losslab.data import mnist as mnist_files
from losslab.data.mnist import MD5, download_mnist, embedded_mnist, find_mnist, read_mnist
from losslab.errors import UserError, notice_once


@pytest.fixture(autouse=True)
def nothing_told_yet() -> Iterator[None]:
    notice_once.cache_clear()
    yield
    notice_once.cache_clear()


@pytest.fixture
def no_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any look for files, and any download, fails the test."""
    monkeypatch.setattr(mnist, "find_mnist", lambda root: pytest.fail(f"looked into {root}"))
    monkeypatch.setattr(mnist, "download_mnist", lambda root: pytest.fail(f"downloaded into {root}"))


@pytest.fixture
def no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mnist, "download_mnist", lambda root: pytest.fail(f"downloaded into {root}"))


@pytest.fixture
def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of MNIST's files that are read, and "hash" for each set of images that is hashed."""
    counted: list[str] = []
    verified, fingerprint = mnist._verified, LabelledImages.fingerprint

    def read(files: dict[str, Path], name: str) -> bytes:
        counted.append(name)
        return verified(files, name)

    def hashed(self: LabelledImages) -> str:
        counted.append("hash")
        return fingerprint(self)

    monkeypatch.setattr(mnist, "_verified", read)
    monkeypatch.setattr(LabelledImages, "fingerprint", hashed)
    return counted


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
    assert data.hashes["train"] == read_mnist(find_mnist(places[place]), "train").fingerprint()
    assert data.hashes["test"] == read_mnist(find_mnist(places[place]), "t10k").fingerprint()
    assert data.data_name == "mnist"


def test_an_empty_mnist_dir_is_none(write_mnist, no_download, own_folder, monkeypatch):
    write_mnist(own_folder / "data" / "MNIST" / "raw")
    monkeypatch.setenv("MNIST_DIR", "")
    assert len(MNISTDataModule().load_train().labels) == 40


def test_a_root_that_is_given_is_the_only_place_looked_into(write_mnist, own_folder, monkeypatch):
    write_mnist(own_folder / "data" / "MNIST" / "raw")
    monkeypatch.setenv("MNIST_DIR", str(own_folder / "data"))
    (own_folder / "elsewhere").mkdir()
    with pytest.raises(UserError, match=r"^data\.root is elsewhere, but MNIST is not in it and could not be"):
        MNISTDataModule(root="elsewhere").load_train()


@pytest.fixture(params=["data.root", "MNIST_DIR"])
def given(request, monkeypatch) -> Callable[[str], MNISTDataModule]:
    """given(folder): a data module whose folder is given by this setting."""

    def give(folder: str) -> MNISTDataModule:
        if request.param == "data.root":
            return MNISTDataModule(root=folder)
        monkeypatch.setenv("MNIST_DIR", folder)
        return MNISTDataModule()

    give.setting = request.param
    return give


@pytest.fixture
def refused(given, own_folder) -> Callable[[str], str]:
    """refused(folder): the message, after a check that nothing was created and no image read."""

    def refuse(folder: str) -> str:
        before = everything_under(own_folder)
        data = given(folder)
        for step in (data.prepare_data, data.load_train, data.load_test):
            with pytest.raises(UserError) as refusal:
                step()
        assert everything_under(own_folder) == before
        assert data.data_name == "mnist"
        message = str(refusal.value)
        assert message.startswith(f"{given.setting} is {folder}, but ")
        assert "\n" not in message
        assert all(words in message for words in ("train-images-idx3-ubyte", "MNIST/raw/", "--data.source embedded"))
        return message

    return refuse


def test_a_folder_that_is_given_and_not_there_is_refused(no_download, refused, own_folder):
    message = refused(str(own_folder / "mnits"))
    assert "there is no such folder. Searched in " in message


@pytest.mark.parametrize("level", [".", "home", "home/mnits", "home/mnist/MNIST/raw/deeper"])
def test_a_wrong_level_and_a_misspelt_name_are_refused_with_the_right_folder(
    write_mnist, no_download, refused, own_folder, level
):
    """A download would be a second copy."""
    write_mnist(own_folder / "home" / "mnist" / "MNIST" / "raw")
    write_mnist(own_folder / "MNIST" / "raw")
    near = {".": "home", "home": "home/mnist", "home/mnits": "home/mnist"}.get(level, "home/mnist/MNIST/raw")
    if level == ".":
        shutil.rmtree(own_folder / "MNIST")
        shutil.move(own_folder / "home" / "mnist" / "MNIST", own_folder / "home")
    assert f" MNIST is in {own_folder / near}. Searched in " in refused(str(own_folder / level))


def test_a_folder_that_is_given_and_cannot_be_downloaded_into_is_refused_and_stays_empty(refused, own_folder):
    (own_folder / "empty").mkdir()
    assert "MNIST is not in it and could not be downloaded (no network in tests)" in refused(str(own_folder / "empty"))


def test_a_variable_of_a_folder_that_is_not_set_is_named(given):
    with pytest.raises(
        UserError, match=rf"^{given.setting} is '\$NOWHERE/mnist', but the environment has no \$NOWHERE"
    ):
        given("$NOWHERE/mnist").load_train()


def test_home_and_variables_are_replaced_in_the_folder_that_is_given(write_mnist, given, own_folder, monkeypatch):
    write_mnist(own_folder / "mnist" / "MNIST" / "raw")
    monkeypatch.setenv("HOME", str(own_folder))
    monkeypatch.setenv("PLACE", "mnist")
    assert len(given("~/${PLACE}").load_train().labels) == 40


def test_the_default_folder_may_hold_mnist_one_level_deeper_and_the_notice_says_so(write_mnist, own_folder, caplog):
    write_mnist(own_folder / "data" / "mnist" / "raw")
    assert len(MNISTDataModule().load_train().labels) == 4000
    assert "; MNIST is in data/mnist." in caplog.messages[0]


def test_what_is_missing_is_downloaded_into_the_folder_and_read_from_there(write_mnist, own_folder, monkeypatch):
    asked = []

    def download(root: Path) -> None:
        asked.append(root)
        write_mnist(root / "MNIST" / "raw")

    monkeypatch.setattr(mnist, "download_mnist", download)
    monkeypatch.setenv("MNIST_DIR", "shared")
    (own_folder / "shared").mkdir()
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
    with pytest.raises(UserError, match="not MNIST's file"):
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
    assert notice.startswith("NOTICE: the data folder is data/, but MNIST is not in it ")
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
    data = MNISTDataModule("embedded")
    data.prepare_data()
    data.setup(stage)
    assert data.data_name == "mnist-5k"
    assert caplog.records == []


def test_source_embedded_says_that_it_does_not_read_a_root(no_looking, caplog):
    data = MNISTDataModule("embedded", root="given")
    data.prepare_data()
    data.setup("fit")
    assert data.data_name == "mnist-5k"
    assert caplog.messages == ["NOTICE: data.source is 'embedded': data.root (given) is not read."]


def test_source_embedded_passes_over_files_that_are_there(write_mnist, own_folder):
    write_mnist(own_folder / "data" / "MNIST" / "raw")
    data = MNISTDataModule("embedded")
    assert len(data.load_train().labels) == 4000
    assert len(data.load_test().labels) == 1000


@pytest.mark.parametrize("stage", ["fit", "validate", "test", "predict"])
def test_source_full_refuses_the_embedded_images_and_says_what_to_do(stage, caplog):
    data = MNISTDataModule("full")
    with pytest.raises(UserError) as refusal:
        data.setup(stage)
    message = str(refusal.value)
    assert message.startswith("data.source is full, and the data folder is data, but MNIST is not in it ")
    assert all(words in message for words in ("no network in tests", "right folder", "--data.source embedded"))
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
    assert embedded <= with_labels(read_mnist(find_mnist(real_mnist), "train"))


NEXT_STEP = "give another data.root"


@pytest.fixture
def root(own_folder: Path) -> Path:
    return own_folder / "images"


@pytest.fixture
def raw(root: Path) -> Path:
    return root / "MNIST" / "raw"


def refuse(*_: object, **__: object) -> None:
    raise PermissionError(13, "Permission denied")


# Reading


@pytest.mark.parametrize(("part", "count"), [("train", 40), ("t10k", 20)])
def test_files_are_read_as_they_were_written(write_mnist, root, raw, part, count):
    write_mnist(raw)
    images, labels = read_mnist(find_mnist(root), part)
    assert (images.dtype, images.shape) == (torch.uint8, (count, 1, 28, 28))
    assert images.numpy().tobytes() == (raw / f"{part}-images-idx3-ubyte").read_bytes()[16:]
    assert (labels.dtype, labels.tolist()) == (torch.int64, [k % 10 for k in range(count)])


@pytest.mark.parametrize("kind", ["images-idx3-ubyte", "labels-idx1-ubyte"])
@pytest.mark.parametrize("part", ["train", "t10k"])
@pytest.mark.parametrize(
    ("damage", "verdict"),
    [
        (lambda content: content[:-1], "truncated"),
        (lambda content: content[:16], "truncated"),
        (lambda content: content[:6], "truncated"),
        (lambda content: content[:-1] + bytes([content[-1] ^ 1]), "MD5"),
        (lambda content: content + b"\0", "MD5"),
        (lambda content: b"<html>Not found</html>", "not MNIST's file"),
        (lambda content: gzip.compress(content)[:-9], "truncated or damaged"),
        (lambda content: gzip.compress(content)[:15] + bytes(40), "truncated or damaged"),
        (lambda content: gzip.compress(content)[:-1] + b"?", "truncated or damaged"),
        (lambda content: gzip.compress(b"<html>Not found</html>"), "not MNIST's file"),
        (lambda content: b"\0\0\x08\2" + content[4:], "not MNIST's file"),
        (lambda content: b"", "not MNIST's file"),
    ],
    ids=[
        *("last byte lost", "all images lost", "header cut", "altered", "longer", "HTML", "gzip cut", "gzip altered"),
        *("gzip of another length", "HTML in gzip", "other idx", "empty"),
    ],
)
def test_a_damaged_file_is_refused_with_its_path_and_the_next_step(write_mnist, root, raw, part, kind, damage, verdict):
    file = write_mnist(raw) / f"{part}-{kind}"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UserError) as refusal:
        read_mnist(find_mnist(root), part)
    message = str(refusal.value)
    assert message.startswith(f"{file} is ")
    assert verdict in message
    assert NEXT_STEP in message
    # The other advice leads somewhere too: without its files, the folder counts as one without MNIST.
    assert f"Delete MNIST's files in {raw} " in message
    for name in MD5:
        (raw / name).unlink()
    assert not find_mnist(root)


def test_a_truncated_file_says_how_much_of_it_is_there(write_mnist, root, raw):
    file = write_mnist(raw) / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:1234])
    with pytest.raises(UserError, match="1,234 bytes of 31,376"):  # 16 + 40 * 28 * 28
        read_mnist(find_mnist(root), "train")


def test_a_file_that_may_not_be_read_is_named(write_mnist, root, raw, monkeypatch):
    write_mnist(raw)
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(UserError) as refusal:
        read_mnist(find_mnist(root), "train")
    assert str(refusal.value).startswith(f"cannot read {raw / 'train-images-idx3-ubyte'}: ")
    assert NEXT_STEP in str(refusal.value)


# Looking


def dotted(name: str) -> str:
    return name.replace("-idx", ".idx")


FORMS = {
    "as torchvision has it": lambda name: (f"MNIST/raw/{name}", False),
    "MNIST/raw itself, and flat": lambda name: (name, False),
    "raw": lambda name: (f"raw/{name}", False),
    "MNIST": lambda name: (f"MNIST/{name}", False),
    "with a dot": lambda name: (dotted(name), False),
    "compressed, as published": lambda name: (f"{name}.gz", True),
    "compressed, with a dot, in raw": lambda name: (f"raw/{dotted(name)}.gz", True),
    "compressed by its content alone": lambda name: (name, True),
    "compressed by its name alone": lambda name: (f"{name}.gz", False),
    "mixed": lambda name: (
        (f"{name}.gz", True) if "labels" in name else (f"raw/{dotted(name)}" if "t10k" in name else name, False)
    ),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("setting", ["data.root", "MNIST_DIR", "data"])
def test_mnist_as_people_have_it_is_read(write_mnist, no_download, own_folder, raw, monkeypatch, form, setting):
    write_mnist(raw)
    expected = {part: read_mnist(find_mnist(raw), part).fingerprint() for part in ("train", "t10k")}
    folder = own_folder / ("data" if setting == "data" else "shared")
    for name in MD5:
        path, compressed = FORMS[form](name)
        file, content = folder / path, (raw / name).read_bytes()
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(gzip.compress(content) if compressed else content)
    shutil.rmtree(raw)
    if setting == "MNIST_DIR":
        monkeypatch.setenv("MNIST_DIR", str(folder))
    data = MNISTDataModule(root=folder if setting == "data.root" else None)
    data.prepare_data()
    assert data.load_train().fingerprint() == expected["train"]
    assert data.load_test().fingerprint() == expected["t10k"]
    assert data.data_name == "mnist"


def test_a_folder_named_like_a_file_is_passed_over(write_mnist, root):
    """One archive has train-images.idx3-ubyte, and a folder train-images-idx3-ubyte with the same file once more."""
    write_mnist(root)
    for name in MD5:
        (root / name).rename(root / dotted(name))
        (root / name).mkdir()
        shutil.copyfile(root / dotted(name), root / name / name)
    assert len(read_mnist(find_mnist(root), "train").labels) == 40


def test_of_several_forms_torchvisions_own_comes_first_and_the_plain_file_before_the_compressed(write_mnist, root, raw):
    write_mnist(raw)
    for name in MD5:
        (raw / f"{name}.gz").write_bytes(b"not read")
        (root / name).write_bytes(b"of another data set, such as Fashion-MNIST")
    assert find_mnist(root) == {name: raw / name for name in MD5}


def test_another_data_set_of_the_same_names_is_refused(write_mnist, no_download, root):
    write_mnist(root, seed=1)
    others = {name: (root / name).read_bytes() for name in MD5}
    write_mnist(root, seed=0)
    for name in MD5:
        (root / f"{name}.gz").write_bytes(gzip.compress(others[name]))
        (root / name).unlink()
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte\.gz is not MNIST's file: its MD5 is not "):
        MNISTDataModule(root=root).load_train()


def test_the_files_are_there_or_not(write_mnist, root, raw):
    assert not find_mnist(root)
    raw.mkdir(parents=True)
    assert not find_mnist(root)
    (raw / "README.md").write_text("another file is no matter")
    assert not find_mnist(root)
    write_mnist(raw)
    assert find_mnist(root) == {name: raw / name for name in MD5}


def test_all_data_modules_of_a_process_share_what_was_read_and_hashed_once(write_mnist, own_folder, count_reads):
    write_mnist(own_folder / "raw")
    datas = [MNISTDataModule(root=own_folder, val_size=10, seed=seed) for seed in range(3)]
    for data in datas:
        data.setup("fit")
        data.setup("test")
    assert sorted(count_reads) == sorted([*MD5, "hash", "hash"])
    assert len({id(data.train_dataloader().split.images) for data in datas}) == 1
    assert len({data.hashes["train"] for data in datas}) == 1
    assert len({data.hashes["split"] for data in datas}) == 3


def test_files_that_were_replaced_are_read_again(write_mnist, own_folder, count_reads):
    def hashes() -> dict[str, str]:
        data = MNISTDataModule(root=own_folder, val_size=10)
        data.setup("fit")
        return data.hashes

    raw = write_mnist(own_folder / "raw")
    first = hashes()
    write_mnist(raw, seed=1)
    for name in MD5:
        os.utime(raw / name, ns=(0, 0))  # as a copy that keeps the times of its source
    assert hashes()["train"] != first["train"]
    (raw / "train-labels-idx1-ubyte").write_bytes(b"damaged")
    with pytest.raises(UserError, match="train-labels-idx1-ubyte is not MNIST's file"):
        hashes()


def test_what_is_written_to_images_does_not_reach_another_data_module(write_mnist, own_folder):
    write_mnist(own_folder / "raw")
    loaded = [MNISTDataModule(root=own_folder).load_train() for _ in range(2)]
    assert loaded[0].images is loaded[1].images
    before = loaded[0].fingerprint()
    loaded[0].images[:10] = 0
    assert MNISTDataModule(root=own_folder).load_train().fingerprint() == before != loaded[0].fingerprint()
    with torch.inference_mode():
        assert MNISTDataModule(root=own_folder).load_test().fingerprint()
        assert MNISTDataModule(root=own_folder).load_test().fingerprint()


@pytest.mark.parametrize("missing", [[name] for name in MD5] + [list(MD5)[1:]], ids=len)
@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("place", ["MNIST/raw", "."])
def test_missing_files_are_named_when_others_are_there(write_mnist, no_download, root, missing, suffix, place):
    folder = write_mnist(root / place)
    for name in MD5:
        (folder / name).rename(folder / f"{name}{suffix}")
    for name in missing:
        (folder / f"{name}{suffix}").unlink()
    with pytest.raises(UserError) as refusal:
        MNISTDataModule(root=root).load_train()
    assert str(refusal.value).startswith(f"{folder} lacks {', '.join(missing)}. Add the missing files, or remove ")


def test_a_folder_that_may_not_be_read_is_named(write_mnist, root, raw, monkeypatch):
    write_mnist(raw)
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError) as refusal:
        find_mnist(root)
    assert str(refusal.value) == f"cannot read the folder {raw}: Permission denied. Give another data.root."


# Downloading


class Torchvision:
    """In the place of torchvision.datasets.MNIST: does what the test wants, and remembers where and how often."""

    def __init__(self) -> None:
        self.action: Callable[[Path], None] = lambda raw: None
        self.folders: list[Path] = []
        self.threads: list[threading.Thread] = []
        self.let_go = threading.Event()

    def __call__(self, root: str, download: bool = False) -> None:
        assert download
        self.folders.append(Path(root))
        self.threads.append(threading.current_thread())
        raw = Path(root) / "MNIST" / "raw"
        raw.mkdir(parents=True)
        self.action(raw)


@pytest.fixture
def torchvision(monkeypatch: pytest.MonkeyPatch) -> Iterator[Torchvision]:
    fake = Torchvision()
    monkeypatch.setattr("torchvision.datasets.MNIST", fake)
    monkeypatch.setattr(mnist_files, "PATIENCE_SECONDS", 0.3)
    download_mnist.cache_clear()
    yield fake
    download_mnist.cache_clear()
    fake.let_go.set()
    for thread in fake.threads:
        thread.join(10)
        assert not thread.is_alive()


def everything_under(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


ALL_FILES = {"MNIST", "MNIST/raw"} | {f"MNIST/raw/{name}" for name in MD5}


@pytest.mark.parametrize("before", [[], ["MNIST"], ["MNIST/raw"], ["MNIST/raw/README.md"]], ids=str)
def test_downloaded_files_land_where_they_are_looked_for(torchvision, write_mnist, root, raw, before):
    for place in before:
        (root / place).mkdir(parents=True)
    torchvision.action = write_mnist
    assert download_mnist(root) is None
    assert everything_under(root) == ALL_FILES | set(before)
    assert find_mnist(root) == {name: raw / name for name in MD5}
    assert read_mnist(find_mnist(root), "t10k").images.shape == (20, 1, 28, 28)
    usual = root / "usual"
    usual.mkdir()
    assert raw.stat().st_mode == usual.stat().st_mode  # others may read them as any other folder


def test_nothing_is_in_the_folder_before_all_files_are(torchvision, write_mnist, root):
    def look(raw: Path) -> None:
        write_mnist(raw)
        assert not root.exists()

    torchvision.action = look
    assert download_mnist(root) is None
    assert not torchvision.folders[0].exists()


def test_two_downloads_at_once_both_succeed(torchvision, write_mnist, root, raw):
    def other_is_faster(own: Path) -> None:
        write_mnist(own)
        shutil.copytree(own, raw)

    torchvision.action = other_is_faster
    assert download_mnist(root) is None
    assert everything_under(root) == ALL_FILES


@pytest.mark.parametrize("before", ["", "images", "images/MNIST", "images/MNIST/raw/README.md"])
def test_a_full_disk_leaves_the_folder_as_it_was(torchvision, write_mnist, root, monkeypatch, before):
    (root.parent / before).mkdir(parents=True, exist_ok=True)
    torchvision.action = write_mnist
    copied = []

    def copy(source: Path, target: Path) -> None:
        if copied:
            target.write_bytes(b"half")
            raise OSError(28, "No space left on device", str(target))
        copied.append(target.write_bytes(source.read_bytes()))

    monkeypatch.setattr(shutil, "copyfile", copy)
    state = everything_under(root.parent)
    assert "No space left on device" in download_mnist(root)
    assert everything_under(root.parent) == state


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("Error downloading train-images\nTried a mirror, got:\n<unknown host>\n"), "<unknown host>"),
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device"),
        (TimeoutError(), "TimeoutError"),
    ],
    ids=["two lines", "disk full", "no words"],
)
def test_a_failed_download_gives_the_reason_in_one_line_and_leaves_nothing(torchvision, root, error, reason):
    def fail(raw: Path) -> None:
        (raw / "train-images-idx3-ubyte").write_bytes(b"half a file")
        raise error

    torchvision.action = fail
    assert download_mnist(root) == reason
    assert not root.exists()
    assert not find_mnist(root)


@pytest.mark.parametrize("arrived", [b"", b"half a file"], ids=["nothing", "a part"])
def test_a_download_that_hangs_is_given_up_in_time_and_leaves_nothing(torchvision, root, arrived):
    def hang(raw: Path) -> None:
        (raw / "train-images-idx3-ubyte").write_bytes(arrived)
        torchvision.let_go.wait(30)

    torchvision.action = hang
    started = time.monotonic()
    assert "nothing arrived" in download_mnist(root)
    assert 0.3 < time.monotonic() - started < 5
    assert not root.exists()
    assert not find_mnist(root)


def test_a_slow_download_that_grows_is_waited_for(torchvision, write_mnist, root, monkeypatch):
    monkeypatch.setattr(mnist_files, "PATIENCE_SECONDS", 0.6)

    def trickle(raw: Path) -> None:
        for size in range(1, 21):
            (raw / "train-images-idx3-ubyte").write_bytes(bytes(size))
            time.sleep(0.06)
        write_mnist(raw)

    torchvision.action = trickle
    started = time.monotonic()
    assert download_mnist(root) is None
    assert time.monotonic() - started > 2 * 0.6 - 0.05
    assert everything_under(root) == ALL_FILES


def test_one_attempt_for_a_folder_is_enough(torchvision, root):
    torchvision.action = refuse
    reasons = {download_mnist(root) for _ in range(3)}
    assert reasons == {"[Errno 13] Permission denied"}
    assert len(torchvision.folders) == 1
    download_mnist(root / "another")
    assert len(torchvision.folders) == 2


@pytest.mark.parametrize("place", ["images", "images/MNIST", "images/MNIST/raw"])
def test_a_file_in_the_place_of_a_folder_to_write_to_is_told_before_the_download(torchvision, root, place):
    file = root.parent / place
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"kept")
    assert download_mnist(root) == f"{file} is not a folder that can be written to"
    assert torchvision.folders == []
    assert file.read_bytes() == b"kept"


def test_a_folder_that_may_not_be_written_to_is_told_before_the_download(torchvision, root, monkeypatch):
    monkeypatch.setattr(os, "access", lambda folder, mode: False)
    assert download_mnist(root) == f"{root.parent} is not a folder that can be written to"
    assert torchvision.folders == []


# The real files


def test_the_real_files_hold_60_000_and_10_000_images(real_mnist):
    assert len(find_mnist(real_mnist)) == 4
    for part, count, first in (("train", 60_000, [5, 0, 4, 1, 9]), ("t10k", 10_000, [7, 2, 1, 0, 4])):
        images, labels = read_mnist(find_mnist(real_mnist), part)
        assert images.shape == (count, 1, 28, 28)
        assert labels[:5].tolist() == first
        assert np.unique(labels).tolist() == list(range(10))


def test_the_real_files_are_read_as_torchvision_reads_them(real_mnist):
    from torchvision.datasets import MNIST

    for part in ("train", "t10k"):
        images, labels = read_mnist(find_mnist(real_mnist), part)
        theirs = MNIST(str(real_mnist), train=part == "train")
        assert torch.equal(images[:, 0], theirs.data)
        assert torch.equal(labels, theirs.targets)


def test_a_shortened_real_file_is_refused(real_mnist, root, raw):
    shutil.copytree(real_mnist / "MNIST" / "raw", raw)
    os.truncate(raw / "t10k-images-idx3-ubyte", 5_000_000)
    with pytest.raises(UserError, match=r"truncated: 5,000,000 bytes of 7,840,016"):
        read_mnist(find_mnist(root), "t10k")
