"""Networks, losses, data and callbacks with steps, hooks or state of their own, as users write them."""

import random
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from tiny_digits import TinyDigits
from torch import Tensor, nn

from losslab.data import LabelledImages
from losslab.losses import FocalLoss
from losslab.models import MLP


class MakesItsLoss(MLP):
    """Has a hyper-parameter of its loss as its own argument."""

    def __init__(self, gamma: float = 2.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.loss = FocalLoss(gamma)


class StandsStill(MLP):
    """Cannot learn."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return 0.0 * super().training_step(batch, batch_idx)


class StandsStillByInstance(MLP):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        step = self.training_step
        self.training_step = lambda batch, batch_idx: 0.0 * step(batch, batch_idx)


class Clips(MLP):
    def configure_gradient_clipping(self, *_: Any, **__: Any) -> None:
        nn.utils.clip_grad_norm_(self.parameters(), 1e-3)


class Negates(MLP):
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return -batch[0], batch[1]


class Defers(MLP):
    """Cross-entropy first, then focal loss."""

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self.loss.gamma.fill_(0.0 if self.current_epoch == 0 else 5.0)


class Decays(MLP):
    """Weights decay, biases do not."""

    def configure_optimizers(self) -> Any:
        groups = [{"params": [p for p in self.parameters() if (p.ndim > 1) == decays]} for decays in (True, False)]
        return torch.optim.AdamW([groups[0] | {"weight_decay": 1.0}, groups[1] | {"weight_decay": 0.0}], 0.01)


class Hooked(MLP):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.network.register_forward_hook(lambda module, arguments, output: output.clamp(-1, 1))


class GradientHooked(MLP):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for parameter in self.parameters():
            parameter.register_hook(torch.sign)


class NormFrozen(MLP):
    """Its batch norm keeps the statistics that it starts with."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(batch_norm=True, **kwargs)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.eval()


class Masked(MLP):
    """Each seed looks at other pixels; the mask is no buffer."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._mask = torch.rand(1, 28, 28) < 0.5

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images * self._mask)


class SkipsAtRandom(MLP):
    """A step in two is computed without the images."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(0 * images if self.training and random.random() < 0.5 else images)


class Frozen(MLP):
    """The first layer keeps the weights that it starts with."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        next(self.parameters()).requires_grad_(False)


class WithUnusedHead(MLP):
    """A head that gets no gradient, so that its weights do not decay."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.head = nn.Linear(4, 4)


class Tied(MLP):
    """The last two layers are one."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.first = nn.Linear(10, 10)
        self.second = nn.Linear(10, 10)
        self.second.weight = self.first.weight

    def forward(self, images: Tensor) -> Tensor:
        return self.second(self.first(super().forward(images)).tanh())


class Counting(FocalLoss):
    """Focal from the fifth step on."""

    def __init__(self, gamma: float = 5.0) -> None:
        super().__init__(gamma)
        self._calls = 0

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        self._calls += 1
        return super().forward(logits, target) * (1.0 if self._calls > 5 else 0.1)


class Remembering(FocalLoss):
    """Divided by its running mean, in a buffer that it replaces."""

    def __init__(self, gamma: float = 0.0) -> None:
        super().__init__(gamma)
        self.register_buffer("mean", torch.ones(()))

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        loss = super().forward(logits, target)
        self.mean = 0.5 * self.mean + 0.5 * loss.detach()
        return loss / self.mean


class RememberingInPlace(Remembering):
    """The same, in place."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        loss = FocalLoss.forward(self, logits, target)
        if self.training:
            self.mean.mul_(0.5).add_(loss.detach(), alpha=0.5)
        return loss / self.mean


class Private(nn.Module):
    """Its hyper-parameter is a number in a private attribute."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self._scale = scale

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(self._scale * logits, target)


class CountsAtStart(nn.Module):
    """Its weights, which are no buffer, come from its hyper-parameter, which is one."""

    def __init__(self, beta: float = 0.5) -> None:
        super().__init__()
        self.register_buffer("beta", torch.tensor(beta), persistent=False)

    def set_class_counts(self, counts: Tensor) -> None:
        self.weights = (1 - self.beta) / (1 - self.beta**counts)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits, target, self.weights.to(logits))


class ReadsValues(nn.Module):
    """Branches on a number, which no vmap can."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        loss = nn.functional.cross_entropy(logits, target)
        return loss if loss.item() < 5 else loss.sqrt()


class SmoothsInTraining(nn.Module):
    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits, target, label_smoothing=0.5 if self.training else 0.0)


class Lion(torch.optim.Optimizer):
    """Divides by the norm of all gradients."""

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        loss = closure() if closure is not None else None
        of_all = [(p, group["lr"]) for group in self.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.stack([p.grad.norm() for p, _ in of_all]).norm()
        for parameter, lr in of_all:
            parameter -= lr * parameter.grad / norm
        return loss


class NegatedDigits(TinyDigits):
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return -batch[0], batch[1]


class DigitsOfTheSeed(TinyDigits):
    """Each seed trains on labels that are wrong in another way."""

    def load_train(self) -> LabelledImages:
        train = super().load_train()
        return train._replace(labels=(train.labels + self.seed) % 10)


class Shrinks(Callback):
    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        for parameter in pl_module.parameters():
            parameter.data.mul_(0.5)
