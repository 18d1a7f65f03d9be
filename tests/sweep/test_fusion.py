"""The fused network computes what each of its members computes alone."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from operations import Operations
from torch import Tensor, nn
from torch.nn.utils import parametrize

from losslab.losses import FocalLoss
from losslab.models import CNN, MLP, Classifier, ResNet, SeparableCNN
from losslab.sweep.fusion import FusedNetwork, NoTranslationError

K, B = 3, 5

State = dict[str, Tensor]

SMALL: dict[str, Any] = {"image_shape": (2, 12, 12), "num_classes": 4}


class Of(Classifier):
    """A classifier of any layers, or with any forward."""

    def __init__(self, *layers: nn.Module, forward: Callable[[Any, Tensor], Tensor] | None = None, **rest: Any) -> None:
        super().__init__(**SMALL, **rest)
        self.network = nn.Sequential(*layers)
        self.scale = 2.0
        self.register_buffer("shift", torch.zeros(1))
        self._forwards = [forward]

    def forward(self, images: Tensor) -> Tensor:
        return self._forwards[0](self, images) if self._forwards[0] else self.network(images)


class FrozenNorm(Of):
    """Whose first batch norm stays in evaluation mode."""

    def __init__(self) -> None:
        super().__init__(nn.BatchNorm2d(2), nn.Conv2d(2, 4, 12), nn.BatchNorm2d(4), nn.Flatten())

    def train(self, mode: bool = True) -> "FrozenNorm":
        super().train(mode)
        self.network[0].eval()
        return self


class ResidualMLP(Classifier):
    """With layers that are used twice, sums in place, functions, methods and numbers."""

    def __init__(self) -> None:
        super().__init__(**SMALL)
        self.first, self.inner, self.norm, self.head = (
            nn.Linear(288, 20), nn.Linear(20, 20), nn.BatchNorm1d(20), nn.Linear(20, 4),
        )  # fmt: skip

    def forward(self, images: Tensor) -> Tensor:
        x = F.gelu(self.first(images.flatten(start_dim=1)))
        for _ in range(2):
            y = F.dropout(self.inner(x), 0.5, training=False)
            y += x
            x = self.norm(F.relu(y, inplace=True))
        return self.head(torch.flatten(2 * (1 - x).tanh() + x, 1)) / 3


class OfImages(Classifier):
    """What the images are alone, for all members alike, meets what has weights; as maps and as rows."""

    def __init__(self) -> None:
        super().__init__(**SMALL)
        self.grouped, self.point = nn.Conv2d(2, 4, 3, padding="same", groups=2), nn.Conv2d(2, 4, 1)
        self.norm, self.tied = nn.BatchNorm2d(2, momentum=None), nn.Linear(288, 4)
        self.wide = nn.Linear(288, 4, bias=False)
        self.tied.weight = self.wide.weight

    def forward(self, images: Tensor) -> Tensor:
        x = self.grouped(images) + self.point(self.norm(images)) - self.point(images * self.norm(images))
        x = F.max_pool2d(F.avg_pool2d(x.relu(), 2), kernel_size=2)
        flat = images.flatten(1)
        return self.wide(flat) + F.adaptive_avg_pool2d(x, 1).flatten(1) * self.tied(torch.sigmoid(flat))


NETWORKS: dict[str, Callable[[], Classifier]] = {
    "MLP": lambda: MLP((7, 6), **SMALL),
    "MLP with batch norm": lambda: MLP((7,), batch_norm=True, **SMALL),
    "CNN": lambda: CNN((3, 4, 5), dropout=0.0),
    "CNN with crop": lambda: CNN((3, 4, 5), crop=2, dropout=0.0, max_pooling=False),
    "SeparableCNN": lambda: SeparableCNN((3, 4, 5), dropout=0.0, **SMALL),
    "ResNet": lambda: ResNet((3, 4), **SMALL),
    "residual MLP": ResidualMLP,
    "of images": OfImages,
    "frozen norm": FrozenNorm,
    "layers with settings": lambda: Of(
        nn.ConstantPad2d((1, 0, -2, 1), 0.5), nn.ReLU(inplace=True), nn.BatchNorm2d(2, momentum=None, affine=False),
        nn.Conv2d(2, 4, 3, stride=2), nn.BatchNorm2d(4, track_running_stats=False), nn.LeakyReLU(0.1, inplace=True),
        nn.AdaptiveAvgPool2d((2, 1)), nn.Identity(), nn.Flatten(), nn.BatchNorm1d(8, momentum=0.3), nn.Linear(8, 4),
        nn.Hardswish(inplace=True), nn.Softplus(),
    ),
    "norm of rows": lambda: Of(nn.Flatten(), nn.BatchNorm1d(288, momentum=None), nn.SiLU(), nn.Linear(288, 4)),
    "no weights": lambda: Of(nn.ZeroPad2d(-5), nn.AvgPool2d((2, 1)), nn.Flatten(), nn.ELU()),
}  # fmt: skip


def members_of(build: Callable[[], Classifier], dtype: torch.dtype = torch.float64) -> list[Classifier]:
    torch.manual_seed(0)
    members = [build().to(dtype) for _ in range(K)]
    for member in members:
        for parameter in member.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return members


def stacked(members: list[Classifier]) -> State:
    parameters = {
        name: torch.stack([dict(member.named_parameters())[name].detach() for member in members]).requires_grad_()
        for name, _ in members[0].named_parameters()
    }
    buffers = {
        name: torch.stack([dict(member.named_buffers())[name] for member in members]).clone()
        for name, _ in members[0].named_buffers()
    }
    return parameters | buffers


@pytest.mark.parametrize("own", [True, False], ids=["own images", "common images"])
@pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)
def test_logits_gradients_and_running_statistics_are_those_of_each_member_alone(
    build: Callable[[], Classifier], own: bool
) -> None:
    """In three steps of training and in evaluation after them; float64, to 1e-10."""
    members = members_of(build)
    state = stacked(members)
    fused = FusedNetwork(members[0], K)
    generator = torch.Generator().manual_seed(1)
    for step in range(4):
        training = step < 3
        images = torch.randn(*([K] if own else []), B, *members[0].image_shape, generator=generator).double()
        logits = fused(state, images, training)
        assert logits.shape == (K, B, members[0].num_classes)
        towards = torch.randn(logits.shape, generator=generator).double()
        if any(tensor.requires_grad for tensor in state.values()):
            (logits * towards).sum().backward()
        for k, member in enumerate(members):
            alone = member.train(training)(images[k].clone() if own else images.clone())
            torch.testing.assert_close(logits[k], alone, rtol=0, atol=1e-10)
            if any(parameter.requires_grad for parameter in member.parameters()):
                (alone * towards[k]).sum().backward()
            for name, parameter in member.named_parameters():
                assert parameter.grad is not None
                torch.testing.assert_close(state[name].grad[k], parameter.grad, rtol=0, atol=1e-10)
                parameter.data -= 0.001 * parameter.grad
                parameter.grad = None
            for name, buffer in member.named_buffers():
                torch.testing.assert_close(state[name][k], buffer, rtol=0, atol=1e-10)
        for tensor in state.values():
            if tensor.grad is not None:
                tensor.data -= 0.001 * tensor.grad
                tensor.grad = None


def test_each_member_drops_its_own_share() -> None:
    """Of elements and of whole maps; nothing in evaluation."""
    networks = {
        "flat": Of(nn.Flatten(), nn.Dropout(0.25)),
        "maps": Of(nn.Dropout(0.25, inplace=True), nn.Flatten()),
        "whole maps": Of(nn.Dropout2d(0.25), nn.Flatten()),
        "function": Of(forward=lambda self, x: F.dropout(x.flatten(1), 0.25, self.training)),
    }
    torch.manual_seed(0)
    images = torch.ones(2000, 2, 12, 12)
    for name, network in networks.items():
        fused = FusedNetwork(network, K)
        kept = fused({}, images, True) > 0
        assert kept.double().mean().item() == pytest.approx(0.75, abs=0.02), name
        both = (kept[0] & kept[1]).double().mean().item()  # where two members keep alike, by chance
        assert both == pytest.approx(0.75**2, abs=0.02), name
        maps = kept.unflatten(2, (2, 144))
        assert bool((maps.all(3) == maps.any(3)).all()) == (name == "whole maps")
        assert fused({}, images, False).eq(1).all(), name


def test_a_fused_network_computes_under_autocast() -> None:
    """In bfloat16, with running statistics in float32."""
    for build in (NETWORKS["CNN"], NETWORKS["MLP with batch norm"], ResidualMLP):
        members = members_of(build, torch.float32)
        state = stacked(members)
        fused = FusedNetwork(members[0], K)
        images = torch.randn(K, B, *members[0].image_shape)
        with torch.autocast("cpu", torch.bfloat16):
            logits = fused(state, images, True)
            alone = torch.stack([member(images[k]) for k, member in enumerate(members)])
        assert logits.dtype == alone.dtype == torch.bfloat16
        torch.testing.assert_close(logits, alone, rtol=0.1, atol=0.1)
        logits.float().sum().backward()
        assert all(tensor.grad.isfinite().all() for tensor in state.values() if tensor.requires_grad)


class Subclass(nn.Linear):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) + 1


def hooked(layer: nn.Module) -> nn.Module:
    layer.register_forward_hook(lambda *_: None)
    return layer


def parametrised(layer: nn.Module) -> nn.Module:
    parametrize.register_parametrization(layer, "weight", nn.Tanh())
    return layer


def overwrites(self: Any, x: Tensor) -> Tensor:
    y = torch.tanh(x)
    z = y
    y += 1
    return (y + z).flatten(1)


def overwrites_a_view(self: Any, x: Tensor) -> Tensor:
    y = torch.tanh(x)
    return F.relu(y.flatten(1), inplace=True) + y.flatten(1)


def counts(self: Any, x: Tensor) -> Tensor:
    self.scale += 1
    return x.flatten(1)


def keeps(self: Any, x: Tensor) -> Tensor:
    self.scale = x
    return x.flatten(1)


def without_gradients(self: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        return x.flatten(1)


def in_float32(self: Any, x: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=not torch.is_autocast_enabled("cpu")):
        return x.flatten(1)


UNTRANSLATED: dict[str, tuple[Callable[[], Classifier], str]] = {
    "module": (lambda: Of(nn.GroupNorm(1, 2)), "GroupNorm has no translation"),
    "recurrence": (lambda: Of(nn.Flatten(), nn.LSTM(288, 4)), "LSTM has no translation"),
    "subclass": (lambda: Of(nn.Flatten(), Subclass(288, 4)), r"network\.1\.weight, read outside of its module"),
    "hooks": (lambda: Of(hooked(nn.Flatten())), "Flatten with hooks"),
    "hooks of a part": (lambda: Of(nn.Sequential(hooked(nn.Sequential(nn.Flatten())))), "Sequential with hooks"),
    "parametrisation": (lambda: Of(nn.Flatten(), parametrised(nn.Linear(288, 4))), "ParametrizedLinear has"),
    "padding": (lambda: Of(nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect")), "padding_mode reflect"),
    "maps to a linear layer": (lambda: Of(nn.Linear(12, 4)), "Linear has no translation"),
    "flatten from another dimension": (lambda: Of(nn.Flatten(2)), "Flatten has no translation"),
    "maps as logits": (lambda: Of(nn.ReLU()), "an output other than logits"),
    "two outputs": (lambda: Of(forward=lambda self, x: (x.flatten(1), x.flatten(1))), "has no translation"),
    "function": (lambda: Of(forward=lambda self, x: torch.softmax(x.flatten(1), 1)), "softmax has no translation"),
    "method": (lambda: Of(forward=lambda self, x: x.mean(1)), r"Tensor\.mean has no translation"),
    "view": (lambda: Of(forward=lambda self, x: x.view(-1, 144)), r"Tensor\.view has no translation"),
    "part": (lambda: Of(forward=lambda self, x: x[:, 0]), "getitem has no translation"),
    "join": (lambda: Of(forward=lambda self, x: torch.cat([x, x], 1).flatten(1)), "cat of more than one value"),
    "number of a shape": (lambda: Of(forward=lambda self, x: x.flatten(1) / x.shape[0]), "getattr has no translation"),
    "shapes": (
        lambda: Of(forward=lambda self, x: (x + F.adaptive_avg_pool2d(x, 1)).flatten(1)),
        "add of values of different shapes",
    ),
    "maps and rows": (lambda: Of(forward=lambda self, x: x * x.flatten(1)), "mul of values of different shapes"),
    "buffer": (lambda: Of(forward=lambda self, x: x.flatten(1) + self.shift), "shift, read outside of its module"),
    "number of a buffer": (lambda: Of(forward=lambda self, x: x.flatten(1) + float(self.shift)), "cannot be traced"),
    "branch on data": (lambda: Of(forward=lambda self, x: x if x.sum() > 0 else -x), "Of.forward cannot be traced"),
    "loss": (lambda: Of(forward=lambda self, x: x.flatten(1) * self.loss.gamma), "Of.forward reads loss"),
    "loss that is asked": (
        lambda: Of(forward=lambda self, x: x.flatten(1) * isinstance(self.loss, FocalLoss)), "Of.forward reads loss",
    ),
    "function as a loss": (
        lambda: Of(forward=lambda self, x: x.flatten(1) * self.loss(1, 2), loss=F.cross_entropy), "reads loss",
    ),
    "epoch": (lambda: Of(forward=lambda self, x: x.flatten(1) * self.current_epoch), "Of.forward reads trainer"),
    "overwritten value": (lambda: Of(forward=overwrites), "iadd in place"),
    "overwritten view": (lambda: Of(forward=overwrites_a_view), "relu in place"),
    "counter": (lambda: Of(forward=counts), "Of.forward changes scale"),
    "value kept": (lambda: Of(forward=keeps), "Of.forward changes scale"),
    "no gradients": (lambda: Of(forward=without_gradients), "switches gradients or autocast"),
    "no autocast": (lambda: Of(forward=in_float32), "switches gradients or autocast"),
    "torch's numbers": (
        lambda: Of(forward=lambda self, x: x.flatten(1) * torch.rand(1).item()), "draws random numbers",
    ),
    "Python's numbers": (lambda: Of(forward=lambda self, x: x.flatten(1) * random.random()), "draws random numbers"),
    "NumPy's numbers": (
        lambda: Of(forward=lambda self, x: x.flatten(1) * np.random.rand(1).item()), "draws random numbers",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("build", "reason"), UNTRANSLATED.values(), ids=UNTRANSLATED)
def test_what_has_no_translation_is_named(build: Callable[[], Classifier], reason: str) -> None:
    """And the model and the random numbers are as before."""
    model = build()
    modules = list(model.modules())
    before = [dict(vars(module)) for module in modules]
    streams = (torch.get_rng_state(), random.getstate(), repr(np.random.get_state()))
    with pytest.raises(NoTranslationError, match=reason):
        FusedNetwork(model, K)
    assert [vars(module) for module in modules] == before
    assert torch.get_rng_state().equal(streams[0])
    assert (random.getstate(), repr(np.random.get_state())) == streams[1:]


def test_a_model_is_left_in_its_modes() -> None:
    model = CNN((3, 4, 5)).train()
    model.network[1].eval()
    model.loss.eval()
    modes = [module.training for module in model.modules()]
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    FusedNetwork(model, K)
    assert [module.training for module in model.modules()] == modes
    assert all(buffer.equal(buffers[name]) for name, buffer in model.named_buffers())


def operations(build: Callable[[], Classifier], members: int) -> int:
    """Of a forward and a backward on each member's own images."""
    model = build()
    state = {
        name: torch.stack([tensor.detach()] * members).requires_grad_(tensor.requires_grad)
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
    }
    fused = FusedNetwork(model, members)
    with Operations() as counted:
        logits = fused(state, torch.randn(members, B, *model.image_shape), True)
        trained = [tensor for tensor in state.values() if tensor.requires_grad]
        torch.autograd.grad(logits, trained, torch.ones_like(logits))
    return counted.count


@pytest.mark.parametrize(
    ("build", "most"),
    [(lambda: MLP(), 12), (lambda: MLP((8, 8), batch_norm=True, dropout=0.1), 36), (lambda: CNN((3, 4, 5)), 44)],
    ids=["MLP", "deep MLP", "CNN"],
)
def test_a_step_has_as_many_operations_for_any_number_of_members(build: Callable[[], Classifier], most: int) -> None:
    counts = {operations(build, members) for members in (4, 16)}
    assert len(counts) == 1
    assert max(counts) <= most
