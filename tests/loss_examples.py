"""Every loss of losslab, and those that `pytest --loss` names, with hyper-parameters: what tests/losses runs over.

A loss of losslab is found, not listed: a new subclass of Loss is tested as soon as its file is there. If it cannot be
built without arguments, or has hyper-parameters that deserve more than their default, it has an entry below.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap

import losslab.losses
from losslab.losses import (
    AdaptiveFocalLoss,
    BinaryFocalLoss,
    CompoundLoss,
    CrossEntropyLoss,
    DiceLoss,
    FocalLoss,
    GeneralizedCrossEntropyLoss,
    LDAMLoss,
    LogitAdjustedLoss,
    Loss,
    OverlapLoss,
    PointwiseLoss,
    PolyLoss,
    TverskyLoss,
    constructor_arguments,
)

COUNTS = torch.tensor([900, 30, 300, 10, 100, 50, 700, 20, 200, 80])
"""Training images of each class: every loss is told, whether it asks or not."""

GAMMAS = (0.0, 0.1, 0.5, 0.9, 1.0, 1.5, 2.0, 5.0)

VARIANTS: dict[type[nn.Module], list[dict[str, Any]]] = {
    AdaptiveFocalLoss: [{"rule": "flsd_53"}, {"rule": "lambert_w"}, {"rule": "lambert_w", "p_0": 0.125}],
    BinaryFocalLoss: [{"gamma": gamma} for gamma in GAMMAS] + [{"alpha": 0.25}, {"alpha": 0.0}, {"alpha": 1.0}],
    CompoundLoss: [{"weights": (1.0, 1.0)}, {"weights": (0.25, 4.0)}],
    DiceLoss: [{"squared": False}, {"squared": True}],
    FocalLoss: [{"gamma": gamma} for gamma in GAMMAS],
    GeneralizedCrossEntropyLoss: [{"q": q} for q in (0.01, 0.7, 1.0)],
    LDAMLoss: [{}, {"max_margin": 0.0}, {"max_margin": 2.0}, {"scale": 30.0}],
    LogitAdjustedLoss: [{"tau": tau} for tau in (0.0, 0.5, 1.0, 2.0)],
    PolyLoss: [{"epsilon": epsilon} for epsilon in (-1.0, 0.5, 2.0)],
    TverskyLoss: [{"alpha": a, "beta": b} for a, b in ((0.3, 0.7), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0))],
}


def compound(
    weights: tuple[float, float] = (1.0, 1.0),
    class_weights: Any = None,
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
) -> CompoundLoss:
    """The usual compound, whose policies are its parts'."""
    policies = {"class_weights": class_weights, "ignore_index": ignore_index}
    return CompoundLoss([CrossEntropyLoss(label_smoothing=label_smoothing, **policies), DiceLoss(**policies)], weights)


BUILDERS: dict[type[nn.Module], Callable[..., nn.Module]] = {CompoundLoss: compound}
"""How to build a loss that needs arguments."""

_LETS_GO = "it is bounded: it lets go of hopeless images"
_GAMMA_IS_HELD = "its gamma is held fixed, so that its gradient is not that of its values"

BY_DESIGN: dict[str, dict[str, str]] = {
    "test_a_right_answer_costs_less_than_a_wrong_one": {
        "BinaryFocalLoss-alpha:0.0": "only negatives count, and class 0 is the label",
        "TverskyLoss-alpha:1.0-beta:0.0": "a single image's soft precision is 1",
    },
    "test_adding_a_number_to_all_logits_of_an_image_changes_nothing": {"BinaryFocalLoss": "each logit has a sigmoid"},
    "test_first_and_second_derivatives_are_those_of_the_values": {"AdaptiveFocalLoss-rule:lambert_w": _GAMMA_IS_HELD},
    "test_a_hopeless_image_keeps_its_full_pull": {
        "BinaryFocalLoss-alpha": "alpha weighs the sides less than 1",
        "DiceLoss": _LETS_GO,
        "GeneralizedCrossEntropyLoss": _LETS_GO,
        "TverskyLoss": _LETS_GO,
    },
}
"""Theorems that do not hold for some of ours, and are expected to fail: test, beginning of the example's id, reason."""


@dataclass(frozen=True)
class Example:
    """A loss class with hyper-parameters."""

    loss_class: type[nn.Module]
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """As in a test's id; without signs that pytest's -k does not take."""
        words = [self.loss_class.__name__]
        for name, value in self.arguments.items():
            words.append(":".join([name, *map(str, value if isinstance(value, tuple) else [value])]))
        return "-".join(words)

    def build(self, **policies: Any) -> nn.Module:
        """The loss with these policies: reduction, class_weights, ..."""
        return self._builder(**self.arguments, **policies)

    def make(self, num_classes: int = 3, **policies: Any) -> nn.Module:
        """The same, told of the first COUNTS."""
        loss = self.build(**policies)
        if isinstance(loss, Loss):
            loss.set_class_counts(COUNTS[:num_classes])
        return loss

    def takes(self, *names: str) -> bool:
        """Whether it has all of these policies; "probability_targets" is one more."""
        builder = self._builder
        is_class = isinstance(builder, type)
        parameters = constructor_arguments(builder) if is_class else inspect.signature(builder).parameters
        return all(self._takes_probabilities if name == "probability_targets" else name in parameters for name in names)

    def all_policies(self, num_classes: int = 3) -> dict[str, Any]:
        """Class weights, smoothing and an ignored label, as far as it takes them; exact in float32."""
        smooths = {"label_smoothing": 0.125} if self.takes("probability_targets") else {}
        policies = {"class_weights": [0.5, 2.0, 0.25, 1.0, 3.0][:num_classes], **smooths, "ignore_index": -100}
        return {name: value for name, value in policies.items() if self.takes(name)}

    def targets(self, labels: Tensor, probabilities: Tensor) -> list[Tensor]:
        """Those of the two that it takes."""
        return [labels, probabilities] if self._takes_probabilities else [labels]

    def of_each_image(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of each image as a batch of its own: (N,)."""
        num_classes = logits.shape[1]
        if issubclass(self.loss_class, PointwiseLoss) and self.takes("reduction"):
            return self.make(num_classes, reduction="none")(logits, target)
        loss = self.make(num_classes)
        if isinstance(loss, Loss):
            return vmap(lambda z, t: loss(z[None], t[None]))(logits, target)
        return torch.stack([loss(z[None], t[None]) for z, t in zip(logits, target, strict=True)])

    @property
    def is_ours(self) -> bool:
        return self.loss_class.__module__.startswith("losslab.")

    @property
    def _builder(self) -> Callable[..., nn.Module]:
        return BUILDERS.get(self.loss_class, self.loss_class)

    @property
    def _takes_probabilities(self) -> bool:
        if issubclass(self.loss_class, PointwiseLoss):
            return self.loss_class.per_class_as_label is not PointwiseLoss.per_class_as_label
        return issubclass(self.loss_class, Loss)


def classes_of_losslab() -> list[type[Loss]]:
    """Every subclass of Loss in the package that is not abstract, in any of its files."""
    for module in pkgutil.iter_modules(losslab.losses.__path__, "losslab.losses."):
        importlib.import_module(module.name)
    found: set[type[Loss]] = set()
    to_visit = [Loss]
    while to_visit:
        for subclass in to_visit.pop().__subclasses__():
            found.add(subclass)
            to_visit.append(subclass)
    ours = {found for found in found if found.__module__.startswith("losslab.") and not inspect.isabstract(found)}
    return sorted(ours, key=lambda loss_class: loss_class.__name__)


def can_be_built(loss_class: type[nn.Module]) -> bool:
    """Whether all arguments of its builder have defaults."""
    parameters = inspect.signature(BUILDERS.get(loss_class, loss_class)).parameters.values()
    return all(p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)


def user_class(import_path: str) -> type[nn.Module]:
    """The class that `--loss` names.

    Raises:
        ValueError: there is none, it is no nn.Module, or it cannot be built without arguments.
    """
    module_name, _, name = import_path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"--loss {import_path}: there is no such class ({error})") from error
    if not isinstance(found, type) or not issubclass(found, nn.Module):
        raise ValueError(f"--loss {import_path} must be a class derived from torch.nn.Module, got {found!r}")
    if found in BUILDERS:
        return found
    try:
        found()
    except Exception as error:
        raise ValueError(f"--loss {import_path} must be buildable without arguments, got {error!r}") from error
    return found


def examples(fixture: str, user_classes: list[type[nn.Module]]) -> list[Example]:
    """The examples over which a test with this fixture runs: one a class with its defaults, or one a variant."""
    belongs, with_variants = GROUPS[fixture]
    ours = [loss_class for loss_class in classes_of_losslab() if can_be_built(loss_class)]
    return [
        Example(loss_class, arguments)
        for loss_class in dict.fromkeys([*ours, *user_classes])
        if belongs(loss_class)
        for arguments in (VARIANTS.get(loss_class, [{}]) if with_variants else [{}])
    ]


def _derives_from(base: type[nn.Module], *not_from: type[nn.Module]) -> Callable[[type[nn.Module]], bool]:
    return lambda loss_class: issubclass(loss_class, base) and not issubclass(loss_class, not_from)


GROUPS: dict[str, tuple[Callable[[type[nn.Module]], bool], bool]] = {
    "any_class": (_derives_from(nn.Module), False),
    "any_loss": (_derives_from(nn.Module), True),
    "loss_class": (_derives_from(Loss), False),
    "loss": (_derives_from(Loss), True),
    "pointwise_class": (_derives_from(PointwiseLoss), False),
    "pointwise": (_derives_from(PointwiseLoss), True),
    "batchwise": (_derives_from(Loss, PointwiseLoss), True),
    "overlap_class": (_derives_from(OverlapLoss), False),
    "overlap": (_derives_from(OverlapLoss), True),
}
"""Fixtures of tests/losses: each loss that derives from a base, and whether in all its variants.

`any_...` are also a user's plain modules, called with logits (N, C) and labels (N,) and nothing more.
"""
