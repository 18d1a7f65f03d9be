"""`losslab predict`: logits of the validation split, or predictions for any pictures."""

import json
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from losslab.data import EvaluationBatches, ImageDataModule, LabelledImages
from losslab.errors import UserError
from losslab.run.callbacks import loading
from losslab.run.evaluate import evaluate_command, find_finished_run
from losslab.run.folder import csv_text, write_whole, writing
from losslab.run.provenance import utc_now
from losslab.run.terminal import OptionParser

SUFFIXES = (".png", ".jpg", ".jpeg")
"""File names in a folder that count as pictures."""

OPTIONS = (("images", "Pictures to classify: files, or folders of PNG and JPEG files. Default: the validation split."),)


def predict_command(tokens: list[str]) -> None:
    """Write the logits of the validation split, or with `--images` the predictions for pictures."""
    parser = OptionParser(add_help=False)
    parser.add_argument("--images", nargs="+", type=Path)
    known, rest = parser.parse_known_args(tokens)
    if known.images is None:
        evaluate_command("predict", rest, OPTIONS)
        return
    predict_pictures(known.images, rest)


def predict_pictures(where: Sequence[Path], tokens: Sequence[str]) -> None:
    """Classify pictures, and write each one's class and all probabilities to pictures.csv and pictures.json.

    No data set is read. Files that are no readable pictures are named on the terminal and in pictures.json; the others
    are classified.

    Args:
        where: files, and folders whose PNG and JPEG files are classified, with those in their subfolders.
        tokens: the command line, as for `find_finished_run`.

    Raises:
        UserError: no picture could be read, or `find_finished_run` fails.
    """
    finished_run = find_finished_run("predict", tokens, OPTIONS)
    trainer, model, data = finished_run.build_in_one_process()
    files: list[Path] = []
    images: list[Tensor] = []
    unreadable: dict[str, str] = {}
    for file in _files(where):
        try:
            images.append(_read(file, data))
            files.append(file)
        except UserError as error:
            unreadable[_name(file)] = str(error)
            print(f"losslab predict: skipped {_name(file)}: {error}", file=sys.stderr)
    if not files:
        raise UserError(f"none of the {len(unreadable)} file(s) could be read as a picture.")
    # A picture has no label: the zeros are never read.
    pictures = LabelledImages(torch.stack(images), torch.zeros(len(images), dtype=torch.int64))  # (N, *image_shape)
    with loading(finished_run.checkpoint):
        loader = EvaluationBatches(pictures.whole().to(trainer.strategy.root_device), data.eval_batch_size, data.scale)
        trainer.predict(model, loader, ckpt_path=finished_run.checkpoint, return_predictions=False, weights_only=True)
    logits, _ = model.evaluated  # type: ignore[misc]
    probabilities = logits.double().softmax(dim=1)  # (N, C)
    names = data.class_names
    rows: list[dict[str, Any]] = [
        {
            "file": _name(file),
            "predicted": names[int(row.argmax())],
            "probabilities": dict(zip(names, (float(f"{p:.8g}") for p in row), strict=True)),
        }
        for file, row in zip(files, probabilities, strict=True)
    ]
    record = {"at": utc_now(), "run": str(finished_run.folder.path), "checkpoint": finished_run.checkpoint.name}
    out = finished_run.output_folder("predict")
    with writing(out):
        out.mkdir(exist_ok=True)
        cells = [[row["file"], row["predicted"], *row["probabilities"].values()] for row in rows]
        write_whole(out / "pictures.csv", csv_text([["file", "predicted", *names], *cells]))
        content = {**record, "pictures": rows, "unreadable": unreadable}
        write_whole(out / "pictures.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    print(f"{len(files)} picture(s) classified" + (f", {len(unreadable)} could not be read" if unreadable else ""))
    print(f"Written to {out}/pictures.csv and {out}/pictures.json")


def _files(where: Sequence[Path]) -> Iterator[Path]:
    for path in where:
        if not path.is_dir():
            yield path
            continue
        found = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
        if not found:
            raise UserError(f"there is no {', '.join(SUFFIXES)} file in {path}.")
        yield from found


def _read(file: Path, data: ImageDataModule) -> Tensor:
    """Return a picture as an image of this data set: uint8 (*image_shape)."""
    try:
        with warnings.catch_warnings(), Image.open(file) as picture:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture.load()
            return data.from_picture(picture)
    except ValueError as error:
        raise UserError(str(error)) from None
    except OSError as error:
        raise UserError(error.strerror or "no picture, or a truncated one") from None
    except Exception as error:  # for a damaged file, Pillow raises SyntaxError, struct.error and others
        raise UserError(f"{type(error).__name__}: {error}") from None


def _name(file: Path) -> str:
    """Return a file's name in a form that UTF-8 can encode."""
    return str(file).encode(errors="backslashreplace").decode()
