"""Which trainings may form a population, and why the others are trained alone."""

import copy
import functools
import hashlib
import inspect
import json
from collections.abc import Iterator, Sequence
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from losslab.data import ImageDataModule
from losslab.losses import ignored_label
from losslab.models import MLP, Classifier
from losslab.run import SEED, Config, Parts, class_name

MEMBERS_OWN = ("optimizer", "lr_scheduler", "loss")
"""Arguments of a model in which members may differ."""

DATA_OF_MEMBERS = ("split_seed", "imbalance", "permute_ranks", "label_noise", "validation")
"""Arguments of the data in which they may, as long as their splits have the same sizes."""

ACT_ALIKE = {
    "accelerator", "benchmark", "default_root_dir", "deterministic", "enable_model_summary", "enable_progress_bar",
    "inference_mode", "limit_predict_batches", "limit_test_batches", "limit_train_batches", "limit_val_batches",
    "log_every_n_steps", "logger", "max_epochs", "precision",
}  # fmt: skip
"""Arguments of the Trainer that act on each member of a population as on a training alone. All others, and those that
later versions of Lightning add, must have their default."""

CALLED: dict[type, set[str]] = {
    Classifier: {"forward"},
    ImageDataModule: {
        "class_counts", "class_names", "data_name", "default_val_size", "from_picture", "image_shape", "load_test",
        "load_train", "num_classes", "pixel_mean", "pixel_std", "prepare_data", "scale",
    },
}  # fmt: skip
"""What a population calls of a member and of its data; all else that these classes have, it does in its own way."""

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class TrainAloneError(Exception):
    """A population, once started, found that members must be trained alone; the message says why.

    Args:
        message: why.
        rest: the members, by place, of populations that may be tried instead, where the reason lies in single members;
            all others are trained alone. None: it lies in what all members share.
    """

    def __init__(self, message: str, rest: Sequence[Sequence[int]] | None = None) -> None:
        super().__init__(message)
        self.rest = rest


def why_alone(config: Config, parts: Parts) -> str | None:
    """Return why a training cannot join a population; None if it can.

    Args:
        config: the training's resolved configuration.
        parts: Trainer, model and data built from it.
    """
    return next(_reasons(config["trainer"], parts), None)


def _reasons(trainer: Config, parts: Parts) -> Iterator[str]:
    defaults = {name: argument.default for name, argument in inspect.signature(Trainer).parameters.items()}
    defaults |= {"devices": 1, "num_sanity_val_steps": 0}
    for name in trainer.keys() - ACT_ALIKE:
        value, default = trainer[name], defaults.get(name)
        if value != default and (value or default):
            names = [class_name(part) for part in (value if isinstance(value, list) else [value])]
            yield f"trainer.{name} is {', '.join(filter(None, names)) or value}"
    if (trainer["max_epochs"] or 0) < 1:
        yield f"trainer.max_epochs is {trainer['max_epochs']}"
    for name in ("limit_train_batches", "limit_val_batches"):
        if trainer[name] == 0:
            yield f"trainer.{name} is 0"
    if str(trainer["precision"]).startswith(("16", "transformer")):
        yield f"trainer.precision is {trainer['precision']}"  # all members would share one loss scale
    model = parts.model
    pairs: list[tuple[Any, Any]] = [(model, Classifier), (parts.data, ImageDataModule)]
    for part, base in pairs:
        if names := sorted(_overridden(part.__class__, base) | (vars(part).keys() & set(dir(base)) - CALLED[base])):
            yield f"{type(part).__name__} overrides {', '.join(names)}"
    if not model.automatic_optimization:
        yield f"{type(model).__name__} has automatic_optimization = False"
    for path, module in model.named_modules():
        name = f"{type(model).__name__}.{path}" if path else type(model).__name__
        if any(getattr(module, hooks) for hooks in HOOKS):
            yield f"{name} has hooks"
        if any(p._backward_hooks or p._post_accumulate_grad_hooks for p in module.parameters(recurse=False)):
            yield f"{name} has parameters with hooks"
        if not module.training:
            yield f"{name} is in eval mode"
    if _shares_with_loss(model):
        yield f"{type(model).__name__} shares modules or tensors with its loss"


def _shares_with_loss(model: LightningModule) -> bool:
    every = (model.named_modules, model.named_parameters, model.named_buffers)
    named = [(f"{name}.", part) for parts in every for name, part in parts(remove_duplicate=False)]
    of_loss = {id(part) for name, part in named if name.startswith("loss.")}
    return any(id(part) in of_loss for name, part in named if not name.startswith("loss."))


@functools.cache
def _overridden(kind: type, base: type) -> frozenset[str]:
    """Return the names of `base` that `kind` defines anew, apart from those that a population calls."""
    shared = {name for name in dir(base) if name[:2] != "__" and name not in ("_abc_impl", *CALLED[base])}
    found = inspect.getattr_static
    return frozenset(name for name in shared if found(kind, name) is not found(base, name))


def shared_model_key(config: Config, parts: Parts) -> str:
    """Return a key that is equal for trainings that may form a population, if `why_alone` returns None for them.

    Args:
        config: the training's resolved configuration.
        parts: Trainer, model and data built from it; the data are set up for a fit.
    """
    sizes = [len(parts.data.evaluation_dataloader(name).split.labels) for name in ("train", "val")]
    return json.dumps([shared_config(config), member_attributes(parts.model), sizes], sort_keys=True)


def shared_config(config: Config) -> str:
    """Return what the configurations of a population's trainings have in common; `config` may be unparsed."""
    shared = copy.deepcopy({key: value for key, value in config.items() if key != SEED})
    kind = None
    for part, names in (("model", MEMBERS_OWN), ("data", DATA_OF_MEMBERS)):
        arguments = shared[part].get("init_args") if isinstance(shared[part], dict) else None  # else a class path
        own = {name: arguments.pop(name, None) for name in names} if arguments else {}
        if optimizer := own.get("optimizer"):
            kind = optimizer.get("class_path") if isinstance(optimizer, dict) else optimizer
    shared["trainer"].pop("logger", None)
    return json.dumps([shared, kind], sort_keys=True, default=repr)


@functools.cache
def _of_classifier() -> frozenset[str]:
    """Return the attributes that Classifier itself sets; an MLP has no others."""
    with torch.device("meta"):  # draws no random numbers
        return frozenset(vars(MLP()))


def member_attributes(model: LightningModule) -> dict[str, str]:
    """Return what the members of a population share, by name: their networks' attributes, and the ignored class."""
    return network_attributes(model) | {"loss.ignore_index": repr(ignored_class(model))}


def ignored_class(model: Any) -> int | None:
    """Return the class whose images the model's loss leaves out, if any; torch's -100 is none."""
    label = ignored_label(model.loss)
    return label if label in range(model.num_classes) else None


def network_attributes(model: nn.Module) -> dict[str, str]:
    """Return the `shared_attributes` of a Classifier without those of its loss."""
    return {name: value for name, value in shared_attributes(model).items() if not f"{name}.".startswith("loss.")}


def loss_attributes(loss: Any) -> dict[str, str]:
    """Return the `shared_attributes` of a loss, a module or a function, by the names that a Classifier has for them."""
    own = shared_attributes(loss) if isinstance(loss, nn.Module) else {"": repr(_content(loss, {}))}
    return {f"loss.{name}".removesuffix("."): value for name, value in own.items()}


def require_equal(own: dict[str, str], shared: dict[str, str], model: nn.Module, problem: str) -> None:
    """Raise TrainAloneError, which names the attributes of the model that differ, unless all are equal."""
    if names := sorted(name for name in {*own, *shared} if own.get(name) != shared.get(name)):
        raise TrainAloneError(f"{', '.join(names)} of {type(model).__name__} {problem}")


def shared_attributes(model: nn.Module) -> dict[str, str]:
    """Return what modules that are computed as one share, by name: classes, tensor shapes, attributes with contents.

    A population computes with the first member's modules, into which it puts the stacked parameters and buffers. So all
    that is neither must be equal in all members, and stay as it is.
    """
    shared = {}
    for path, module in model.named_modules():
        tensors = {
            name: None if tensor is None else (tuple(tensor.shape), tensor.dtype, tensor.requires_grad)
            for name, tensor in (*module._parameters.items(), *module._buffers.items())
        }
        shared[path] = f"{type(module).__module__}.{type(module).__qualname__} {tensors}"
        known = _of_classifier() if module is model else vars(nn.Module()).keys()
        for name, value in vars(module).items():
            if name not in known:
                shared[f"{path}.{name}" if path else name] = repr(_content(value, {}))
    return shared


def _content(value: Any, seen: dict[int, Any]) -> Any:
    """Return plain values that are equal for two objects of equal content only; the same as if they were pickled."""
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return value
    if isinstance(value, type | ModuleType):
        return repr(value)
    if id(value) in seen:
        return f"object {list(seen).index(id(value))}"
    seen[id(value)] = value  # kept, so that no later object has its id
    inside = functools.partial(_content, seen=seen)
    try:
        match value:
            case Tensor():
                plain = value.detach().cpu().reshape(-1).view(torch.uint8)
                return [value.dtype, tuple(value.shape), hashlib.sha256(plain.numpy().tobytes()).hexdigest()]
            case dict():
                return [type(value), [(inside(key), inside(part)) for key, part in value.items()]]
            case list() | tuple():
                return [type(value), [inside(part) for part in value]]
            case set() | frozenset():
                return [type(value), sorted(repr(_content(part, {})) for part in value)]
            case FunctionType():
                cells = [cell.cell_contents for cell in value.__closure__ or ()]
                code = (value.__module__, value.__qualname__, value.__code__.co_code, value.__code__.co_consts)
                return [code, inside([cells, value.__defaults__, value.__kwdefaults__, vars(value)])]
            case MethodType() if isinstance(value.__self__, nn.Module):
                return inside(value.__func__)
        reduced = value.__reduce_ex__(4)
        if isinstance(reduced, str):
            return reduced
        return [inside(list(part) if isinstance(part, Iterator) else part) for part in reduced]
    except Exception:  # cannot be pickled, or is a tensor of a step that is over: equal to nothing else
        return f"{type(value)} at {id(value)}"
