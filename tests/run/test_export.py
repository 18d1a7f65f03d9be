"""An exported network says what PyTorch says, for batches of any size, or is not written."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from tiny_digits import TinyDigits

import losslab.models as models
import losslab.run.export as export
from losslab.cli import main
from losslab.data import MNISTDataModule
from losslab.run import find_run, read_predictions

onnxruntime = pytest.importorskip("onnxruntime")


@pytest.fixture
def run(tiny_mlp: list[str]) -> Path:
    assert main(["fit", *tiny_mlp]) == 0
    return find_run("runs/tiny", finished=True).path


@pytest.mark.parametrize("model", ["MLP", "CNN", "SeparableCNN", "ResNet"])
def test_every_network_is_exported(model: str) -> None:
    network = getattr(models, model)()
    data = MNISTDataModule(source="embedded", eval_batch_size=70)
    data.setup("validate")
    compared = export._compare(export._onnx(network.eval(), data), network, data)
    assert compared["difference"] < 1e-4
    assert (compared["changed"], compared["images"]) == (0, 500)


def test_the_file_gives_what_the_fit_has_written(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    assert main(["export", "--run", "runs/tiny"]) == 0
    assert "50 validation images: largest difference" in capsys.readouterr().out
    assert {file: file.read_bytes() for file in before} == before
    assert sorted(file.name for file in (run / "export").iterdir()) == ["README.md", "model.onnx"]

    session = onnxruntime.InferenceSession(run / "export" / "model.onnx")
    (images,) = session.get_inputs()
    assert (images.name, images.type, images.shape[1:]) == ("images", "tensor(float)", [1, 28, 28])
    data = TinyDigits()
    data.setup("validate")
    val = data.split("val")
    pixels = (val.images.numpy().astype(np.float32) - 127.5) / 127.5
    fitted, _ = read_predictions(run / "predictions.npz")
    for size in (1, 3, 50):
        (logits,) = session.run(["logits"], {"images": pixels[:size]})
        assert np.allclose(logits, fitted[:size], atol=1e-5)

    readme = (run / "export" / "README.md").read_text()
    for words in ("float32 (batch, 1, 28, 28)", "(pixel - 0.5) / 0.5", "127.5", "0 = 0, 1 = 1", "tiny-digits", "50"):
        assert words in readme
    assert "into this form: a picture as uint8 (*image_shape): scaled" in readme


def test_a_run_on_other_images_is_not_exported(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The README would name the wrong data, and the check would be on images that the network has seen."""
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps(manifest | {"data_name": "mnist"}))
    assert main(["export", "--run", "runs/tiny"]) == 2
    assert "was trained on mnist, and these are other images (tiny-digits)" in capsys.readouterr().err
    assert not (run / "export").exists()


def test_a_file_that_says_something_else_is_not_written(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write = export._onnx

    def of_other_weights(model, data) -> bytes:
        try:
            model.network[-1].bias.data += 1
            return write(model, data)
        finally:
            model.network[-1].bias.data -= 1

    monkeypatch.setattr(export, "_onnx", of_other_weights)
    assert main(["export", "--run", "runs/tiny"]) == 2
    assert "the ONNX file's logits differ from PyTorch's by up to 1.0e+00" in capsys.readouterr().err
    assert not (run / "export").exists()


def test_a_missing_package_is_told_with_the_command(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name.startswith("onnx") else find(name))
    assert main(["export", "--run", "runs/tiny"]) == 2
    error = "export needs onnx, onnxruntime, onnxscript: pip install onnx onnxruntime onnxscript"
    assert capsys.readouterr().err == f"losslab export: error: {error}\n"
