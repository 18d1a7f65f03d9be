"""`pytest tests/losses --loss my_package.MyLoss` holds a user's loss against the contract."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from loss_examples import Example, examples, user_class

TESTS = Path(__file__).parent

USERS_FILE = '''
import torch
from losslab.losses import PointwiseLoss


class MeanAbsoluteError(PointwiseLoss):
    """2 (1 - p_t), as in the README."""

    def per_image(self, logits, label):
        return 2 * (1 - logits.softmax(dim=1).gather(1, label.unsqueeze(1)).squeeze(1))

    def per_class_as_label(self, logits):
        return 2 * (1 - logits.softmax(dim=1))


class NaiveFocal(torch.nn.Module):
    """Two derivatives of (1 - p)^0.5 are infinite at p = 1."""

    def forward(self, logits, labels):
        p = logits.softmax(dim=1).gather(1, labels.unsqueeze(1)).squeeze(1)
        return (-((1 - p) ** 0.5) * p.log()).mean()


class NeedsArguments(torch.nn.Module):
    def __init__(self, gamma):
        super().__init__()


a_number = 3
'''


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    (folder / "my_loss.py").write_text(USERS_FILE)
    files = [str(TESTS / name) for name in ("test_loss.py", "test_stability.py")]
    command = [sys.executable, "-m", "pytest", *files, "-q", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def outcomes(done: subprocess.CompletedProcess, name: str) -> dict[str, set[str]]:
    """Theorems by outcome, of one loss."""
    found: dict[str, set[str]] = {}
    for outcome, test in re.findall(rf"^(PASSED|FAILED|SKIPPED) \S+::(\w+)\[{name}", done.stdout, re.MULTILINE):
        found.setdefault(outcome, set()).add(test)
    return found


def test_a_good_loss_passes_and_a_naive_one_fails_where_it_should(own_folder: Path) -> None:
    names = ("my_loss.MeanAbsoluteError", "my_loss.NaiveFocal")
    theorems = "far_logits or derivatives or adding or scalar or order or one_hot or only_class"
    done = run(own_folder, *(f"--loss={name}" for name in names), "-rA", "-k", f"(MeanAbs or Naive) and ({theorems})")
    assert done.returncode == 1, done.stdout + done.stderr
    good, naive = outcomes(done, "MeanAbsoluteError"), outcomes(done, "NaiveFocal")
    assert set(good) == {"PASSED"}
    assert len(good["PASSED"]) >= 9
    assert naive["FAILED"] == {
        "test_far_logits_have_finite_losses_gradients_and_hessians",
        "test_first_and_second_derivatives_are_those_of_the_values",
        "test_the_target_may_be_the_only_class_left",
    }
    assert {
        "test_it_is_a_scalar_with_a_gradient",
        "test_the_order_of_images_is_no_matter",
        "test_adding_a_number_to_all_logits_of_an_image_changes_nothing",
    } <= naive["PASSED"]


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("my_loss.Missing", "there is no such class"),
        ("nowhere.Loss", "there is no such class"),
        ("MyLoss", "there is no such class"),
        ("my_loss.a_number", "must be a class derived from torch.nn.Module, got 3"),
        ("my_loss.NeedsArguments", "must be buildable without arguments, got TypeError"),
    ],
)
def test_a_path_that_names_no_usable_loss_is_refused(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch, path: str, why: str
) -> None:
    (own_folder / "my_loss.py").write_text(USERS_FILE)
    monkeypatch.syspath_prepend(own_folder)
    monkeypatch.delitem(sys.modules, "my_loss", raising=False)
    with pytest.raises(ValueError, match=f"--loss {path}.* {why}"):
        user_class(path)


def test_pytest_says_so_and_runs_nothing(own_folder: Path) -> None:
    done = run(own_folder, "--loss", "my_loss.Missing")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "ERROR: --loss my_loss.Missing: there is no such class" in done.stderr


def test_a_loss_that_is_there_already_is_not_tested_twice() -> None:
    ours = examples("any_class", [])
    assert examples("any_class", [ours[0].loss_class]) == ours
    assert [str(example) for example in examples("loss_class", [ours[0].loss_class])] == list(map(str, ours))
    assert str(Example(ours[0].loss_class, {"a": 1, "b": (2, 3)})).endswith("-a:1-b:2:3")
