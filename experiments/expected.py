"""The "Expected" lines in the headers of studies and experiments, from the kept records."""

# ruff: noqa: E501  a placeholder is one word

import re
import textwrap
from collections.abc import Mapping

from findings import filled
from kept_study import KeptStudy

from losslab.errors import UserError

EXPECTED = {
    "sweeps/focal.yaml": "balanced, gamma 0 and 5: macro F1 {{focal-balanced|gamma=0|f1/macro}} and "
    "{{focal-balanced|gamma=5|f1/macro}} %, ECE {{focal-balanced|gamma=0|ece}} and {{focal-balanced|gamma=5|ece}} %; tail "
    "of 0.01: tail recall {{focal-tail-0.01|gamma=0|recall/tail}} and {{focal-tail-0.01|gamma=5|recall/tail}} %",
    "sweeps/losses.yaml": "balanced: macro F1 {{losses-balanced|cross-entropy|f1/macro}} % of cross-entropy; tail of 0.01: tail recall "
    "{{losses-tail-0.01|cross-entropy|recall/tail}} %, logit adjusted {{losses-tail-0.01|logit adjusted|recall/tail}} %; 30 % "
    "wrong labels: macro F1 {{losses-noise-0.3|cross-entropy|f1/macro}} %, squared dice "
    "{{losses-noise-0.3|dice, squared|f1/macro}} %",
    "sweeps/course_mlp.yaml": "with Adam: running training accuracy {{course-mlp|Adam, one cycle, batch 128|train/acc_running}} %, after "
    "the epoch {{course-mlp|Adam, one cycle, batch 128|train/acc}} %, test {{course-mlp|Adam, one cycle, batch 128|acc}} %",
    "sweeps/parameters.yaml": "accuracy {{parameters|MLP 784-128-10|acc}} % of 784-128-10 with 101,770 parameters, "
    "{{parameters|CNN 8-16-28|acc}} % of a CNN with 8,018",
    "sweeps/cnn_ablation.yaml": "accuracy {{cnn-ablation|CNN, 3 epochs|acc}} %, without shifts {{cnn-ablation|without shifts|acc}} %",
    "sweeps/unlimited.yaml": "accuracy {{unlimited|CNN, 3 epochs|acc}} %, ten epochs with rotations "
    "{{unlimited|CNN, 10 epochs, rotated and scaled|acc}} %",
    "sweeps/focal_networks.yaml": "tail recall at gamma 0 and 5: MLP {{network-mlp|gamma=0|recall/tail}} and "
    "{{network-mlp|gamma=5|recall/tail}} %, CNN {{network-cnn|gamma=0|recall/tail}} and "
    "{{network-cnn|gamma=5|recall/tail}} %, ResNet {{network-resnet|gamma=0|recall/tail}} and "
    "{{network-resnet|gamma=5|recall/tail}} %",
    "experiments/cnn_accurate.yaml": "accuracy {{unlimited|CNN, 12 epochs, cropped, rotated and scaled|acc}} %",
    "experiments/resnet_accurate.yaml": "accuracy {{unlimited|wide ResNet, 18 epochs, rotated and scaled|acc}} %",
}
"""By file; one whose studies are not all kept and confirmed keeps its header."""


def with_expected(text: str, name: str, studies: Mapping[str, KeptStudy]) -> str:
    """The file with its expected numbers put in place.

    Args:
        text: the file.
        name: its path in the repository, in `EXPECTED`.
        studies: the kept ones, by name.

    Raises:
        UserError: its header has no "Expected:" before "Seeds:".
    """
    template = EXPECTED[name]
    asked = set(re.findall(r"{{([^|}]+)\|", template))
    if any(study not in studies or studies[study].newest is None for study in asked):
        return text
    told = f"{filled(template, studies, f'expected.py: {name}')}: mean ± sd of the test images, experiments/RESULTS.md"
    lines = textwrap.wrap(told, 118, initial_indent="# Expected: ", subsequent_indent="#           ")
    found, count = re.subn(r"# Expected:.*\n(?:#  .*\n)*(?=# Seeds:)", lambda _: "\n".join(lines) + "\n", text)
    if count != 1:
        raise UserError(f"{name} needs a line '# Expected:' and behind it one '# Seeds:'.")
    return found
