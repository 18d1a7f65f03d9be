"""`losslab export`: a run's network as an ONNX file, checked against PyTorch."""

import importlib.util
from typing import Any

import numpy as np
import torch

from losslab.data import ImageDataModule
from losslab.errors import UserError
from losslab.models import Classifier
from losslab.run.callbacks import loading, read_checkpoint
from losslab.run.evaluate import FinishedRun, find_finished_run
from losslab.run.folder import write_whole, writing
from losslab.run.provenance import require_same_data, utc_now

PACKAGES = ("onnx", "onnxruntime", "onnxscript")

TOLERANCE = 1e-4
"""The largest difference of a logit that counts as rounding, relative to the largest logit (or to 1)."""

README = """\
# {model} of {run.folder.path}

`model.onnx`: input `images`, float32 (batch, {shape}), any batch; output `logits`, float32 (batch, {data.num_classes}).
Softmax over the last axis gives the network's confidence in each class.

- **Input**: pixels in 0..255, from which {subtract:.10g} is subtracted and which are then divided by {divide:.10g}:
  with pixels in 0..1, (pixel - {data.pixel_mean}) / {data.pixel_std}.
  How any other picture is first brought into this form: {pictures}
- **Labels**: {labels}.
- **Data**: trained on {data.data_name}; weights from `{run.checkpoint.name}`, written {at}.
- **Checked** against PyTorch on the {images:,} images of the validation split with onnxruntime {version}: the largest
  difference of a logit is {difference:.1e}, and the most probable class differs for {changed} of them.
"""


def export_command(tokens: list[str]) -> None:
    """Write RUN/export/model.onnx and its README.md.

    Raises:
        UserError: a package is missing, the network cannot be written as ONNX, the file's logits differ from PyTorch's,
            the data differ from the run's, or `find_finished_run` fails.
    """
    finished_run = find_finished_run("export", tokens)
    if missing := [package for package in PACKAGES if importlib.util.find_spec(package) is None]:
        raise UserError(f"export needs {', '.join(missing)}: pip install {' '.join(missing)}")
    # On CPU in float32, whatever the device and the precision of the training.
    _, model, data = finished_run.build_in_one_process(accelerator="cpu")
    assert isinstance(model, Classifier)
    data.prepare_data()
    data.setup("validate")
    require_same_data(finished_run.folder.manifest(), data, finished_run.folder.path)
    with loading(finished_run.checkpoint):
        model.load_state_dict(read_checkpoint(finished_run.checkpoint)["state_dict"])
    model.float().eval()
    content = _onnx(model, data)
    compared = _compare(content, model, data)
    out = finished_run.output_folder("export")
    with writing(out):
        out.mkdir(exist_ok=True)
        write_whole(out / "model.onnx", content)
        write_whole(out / "README.md", _readme(model, data, finished_run, compared))
    difference = f"largest difference of a logit to PyTorch {compared['difference']:.1e}, classes {compared['changed']}"
    print(f"{compared['images']:,} validation images: {difference}")
    print(f"Written to {out}/model.onnx, with a README.md")


def _onnx(model: Classifier, data: ImageDataModule) -> bytes:
    """Return the network as ONNX, for batches of any size."""
    example = torch.zeros(2, *data.image_shape)  # two, since the exporter takes a batch size of 1 for a constant
    try:
        program = torch.onnx.export(
            model, (example,), input_names=["images"], output_names=["logits"], dynamo=True, verbose=False,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )  # fmt: skip
    except Exception as error:  # a user's own network can make the exporter raise anything
        first = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise UserError(f"{type(model).__name__} cannot be written as ONNX: {type(error).__name__}: {first}") from error
    assert program is not None
    return program.model_proto.SerializeToString()


def _compare(content: bytes, model: Classifier, data: ImageDataModule) -> dict[str, Any]:
    """Return the numbers of the comparison with PyTorch, under the names that README gives them."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    ours, theirs = [], []
    with torch.inference_mode():
        for images, _ in data.val_dataloader():
            ours.append(model(images).numpy())
            theirs.append(session.run(None, {"images": images.numpy()})[0])
    torch_logits, onnx_logits = np.concatenate(ours), np.concatenate(theirs)  # (N, C)
    difference = float(np.abs(torch_logits - onnx_logits).max())
    allowed = TOLERANCE * max(1.0, float(np.abs(torch_logits).max()))
    if not difference <= allowed:
        raise UserError(
            f"the ONNX file's logits differ from PyTorch's by up to {difference:.1e}, more than {allowed:.1e}: "
            "the exporter does not support this network. Nothing was written."
        )
    changed, version = int((torch_logits.argmax(1) != onnx_logits.argmax(1)).sum()), onnxruntime.__version__
    return {"images": len(torch_logits), "difference": difference, "changed": changed, "version": version}


def _readme(model: Classifier, data: ImageDataModule, finished_run: FinishedRun, compared: dict[str, Any]) -> str:
    return README.format(
        run=finished_run,
        data=data,
        model=type(model).__name__,
        shape=", ".join(map(str, data.image_shape)),
        subtract=255 * data.pixel_mean,
        divide=255 * data.pixel_std,
        pictures=" ".join((data.from_picture.__doc__ or "").split("\n\n")[0].split()).removeprefix("Return "),
        labels=", ".join(f"{index} = {name}" for index, name in enumerate(data.class_names)),
        at=utc_now(),
        **compared,
    )
