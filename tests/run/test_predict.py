"""Anyone's pictures are classified, whatever their form; what is no picture is named and left out."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from losslab.cli import main
from losslab.data import LabelledImages
from losslab.data.mnist import embedded_mnist, find_mnist, read_mnist
from losslab.run import find_run

MNIST_MLP = """\
model:
  class_path: losslab.models.MLP
  init_args: {{hidden: [64], optimizer: {{class_path: torch.optim.Adam, init_args: {{lr: 0.005}}}}}}
data: {{class_path: losslab.data.MNISTDataModule, init_args: {{{where}, batch_size: 100}}}}
trainer: {{max_epochs: {epochs}, accelerator: cpu, enable_progress_bar: false}}
"""


def fit_mnist(where: str, epochs: int) -> None:
    Path("digits.yaml").write_text(MNIST_MLP.format(where=where, epochs=epochs))
    assert main(["fit", "--config", "digits.yaml"]) == 0


def write_pictures(digits: LabelledImages, folder: Path) -> None:
    """Enlarged, padded off the centre and, every second one, inverted; as PNGs in grey and in colour."""
    folder.mkdir()
    for number, (image, label) in enumerate(zip(*digits, strict=True)):
        random = np.random.default_rng(number)
        side = int(28 * random.uniform(3, 9))
        digit = Image.fromarray(image[0].numpy()).resize((side, side), Image.Resampling.BICUBIC)
        picture = Image.new("L", (side + int(random.integers(0, 150)), side + int(random.integers(0, 150))))
        left, top = (int(random.integers(0, size - side + 1)) for size in picture.size)
        picture.paste(digit, (left, top))
        picture = picture.point(lambda grey: 255 - grey) if number % 2 else picture
        picture.convert("RGB" if number % 3 else "L").save(folder / f"{number:05}-{int(label)}.png")


def predictions(run: str) -> tuple[Path, dict]:
    folder = find_run(run, finished=True).path / "predict"
    return folder, json.loads((folder / "pictures.json").read_text())


def accuracy_of_pictures() -> float:
    _, record = predictions("runs/digits")
    return float(np.mean([row["predicted"] == Path(row["file"]).stem[-1] for row in record["pictures"]]))


def test_embedded_digits_as_pictures_keep_their_accuracy(own_folder: Path) -> None:
    fit_mnist("source: embedded", 8)
    digits = embedded_mnist("train").take(slice(None, None, 8))
    write_pictures(digits, own_folder / "pictures")
    assert main(["predict", "--run", "runs/digits", "--images", "pictures"]) == 0
    for number, image in enumerate(digits.images):  # the same as they are: 28 x 28
        Image.fromarray(image[0].numpy()).save(
            own_folder / "pictures" / f"{number:05}-{int(digits.labels[number])}.png"
        )
    ours = accuracy_of_pictures()
    assert main(["predict", "--run", "runs/digits", "--images", "pictures"]) == 0
    assert accuracy_of_pictures() > 0.9
    assert abs(ours - accuracy_of_pictures()) <= 0.01


@pytest.mark.slow
def test_mnists_test_digits_as_pictures_keep_their_accuracy(own_folder: Path, real_mnist: Path) -> None:
    """Checks the way from a picture to a digit; nothing is chosen by it."""
    fit_mnist(f"root: {real_mnist}", 3)
    assert main(["test", "--run", "runs/digits"]) == 0
    run = find_run("runs/digits", finished=True).path
    as_they_are = json.loads((run / "test" / "metrics.json").read_text())["metrics"]["test/acc"]
    write_pictures(read_mnist(find_mnist(real_mnist), "t10k"), own_folder / "pictures")
    assert main(["predict", "--run", "runs/digits", "--images", "pictures"]) == 0
    assert as_they_are > 0.96
    assert abs(accuracy_of_pictures() - as_they_are) <= 0.01


def test_what_is_no_picture_is_named_and_the_others_go_on(
    tiny_mlp: list[str], own_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", *tiny_mlp]) == 0
    write_pictures(embedded_mnist("train").take(slice(0, 3)), own_folder / "some")
    whole = (own_folder / "some" / "00001-0.png").read_bytes()
    (own_folder / "some" / "inside").mkdir()
    (own_folder / "some" / "inside" / "truncated.PNG").write_bytes(whole[: len(whole) // 2])
    (own_folder / "some" / "text.jpg").write_text("no picture")
    (own_folder / "some" / "note.txt").write_text("not looked at")
    (own_folder / "one, with a comma.png").write_bytes(whole)
    words = ["--images", "some", "one, with a comma.png", "nowhere.png", "--run", "runs/tiny"]
    capsys.readouterr()
    assert main(["predict", *words]) == 0
    shown = capsys.readouterr()
    assert "4 picture(s) classified, 3 could not be read" in shown.out
    for name in ("some/inside/truncated.PNG", "some/text.jpg", "nowhere.png"):
        assert f"skipped {name}: " in shown.err

    folder, record = predictions("runs/tiny")
    assert sorted(record["unreadable"]) == ["nowhere.png", "some/inside/truncated.PNG", "some/text.jpg"]
    files = [*(f"some/{number:05}-0.png" for number in range(3)), "one, with a comma.png"]
    assert [row["file"] for row in record["pictures"]] == files
    with (folder / "pictures.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    for row, line in zip(record["pictures"], table, strict=True):
        probabilities = row["probabilities"]
        assert sum(probabilities.values()) == pytest.approx(1)
        assert row["predicted"] == max(probabilities, key=probabilities.get) == line["predicted"]
        assert [float(line[name]) for name in probabilities] == list(probabilities.values())
    assert record["pictures"][1]["probabilities"] == record["pictures"][3]["probabilities"]


def test_an_image_of_another_data_set_is_scaled_to_its_shape(own_folder: Path, tiny_mlp: list[str]) -> None:
    assert main(["fit", *tiny_mlp]) == 0  # TinyDigits has the general rule
    digit = embedded_mnist("train").images[0, 0]
    Image.fromarray(digit.numpy()).save("a.png")
    Image.fromarray(torch.kron(digit, torch.ones(4, 4, dtype=torch.uint8)).numpy()).save("b.png")
    assert main(["predict", "--run", "runs/tiny", "--images", "a.png", "b.png"]) == 0
    a, b = (list(row["probabilities"].values()) for row in predictions("runs/tiny")[1]["pictures"])
    assert np.allclose(a, b, atol=0.02)


def test_mistakes_are_told_in_one_line(
    tiny_mlp: list[str], own_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", *tiny_mlp]) == 0
    (own_folder / "empty").mkdir()
    for words, message in (
        (["--run", "runs/tiny", "--images"], "--images: expected at least one argument"),
        (["--run", "runs/tiny", "--images", "empty"], "there is no .png, .jpg, .jpeg file in empty."),
        (["--run", "runs/tiny", "--images", "x.png"], "none of the 1 file(s) could be read as a picture."),
        (["--images", "x.png"], "losslab predict needs --run"),
        (["--run", "runs/tiny", "--images", "x.png", "--model.loss.gamma", "3"], "gamma: 1.5 -> 3.0"),
    ):
        assert main(["predict", *words]) == 2
        assert message in capsys.readouterr().err
