"""Which trainings may share a population: those that differ in stacked tensors and in their own optimisers only."""

import copy
import json
from typing import Any

from torch import nn

from losslab.run.command_line import Built
from losslab.run.config import SEED, Config

OF_EACH_MEMBER = ("optimizer", "lr_scheduler", "loss")
"""Arguments of a model that members may have of their own, apart from what `kinship` says of the loss."""

USUAL = {"gradient_clip_val": (None, 0), "callbacks": (None, []), "accumulate_grad_batches": (1,), "devices": (1,)}
"""Arguments of the Trainer that otherwise act on, or speak of, one model as a whole."""


def kinship(config: Config, built: Built) -> str | None:
    """What a training must have in common with the others of its population; None if it has to be trained alone.

    Args:
        config: its resolved configuration.
        built: what the configuration builds.
    """
    trainer = config["trainer"]
    if any(trainer[key] not in usual for key, usual in USUAL.items()):
        return None
    if str(trainer["precision"]).startswith("16"):  # its one loss scale would tie the members together
        return None
    optimizer = (config["model"]["init_args"].get("optimizer") or {}).get("class_path")
    if optimizer == "torch.optim.LBFGS":  # searches along one line for all its parameters
        return None
    common = copy.deepcopy({key: value for key, value in config.items() if key != SEED})
    for name in OF_EACH_MEMBER:
        common["model"]["init_args"].pop(name, None)
    common["trainer"].pop("logger")
    loss: Any = getattr(built.model, "loss", None)
    structure = _structure(loss) if isinstance(loss, nn.Module) else repr(config["model"]["init_args"].get("loss"))
    # The seed draws a long tail's images and the wrong labels: members train on the same ones.
    data_seed = config[SEED] if built.data.imbalance is not None or built.data.label_noise else None
    return json.dumps([common, optimizer, structure, data_seed], sort_keys=True, default=repr)


def _structure(module: nn.Module) -> list[Any]:
    """All of a module that is not in a tensor; of tensors, their shapes."""
    plain = {key: repr(value) for key, value in vars(module).items() if not key.startswith("_") and key != "training"}
    tensors = {
        name: None if tensor is None else [*tensor.shape, str(tensor.dtype)]
        for name, tensor in (*module._parameters.items(), *module._buffers.items())
    }
    children = {name: _structure(child) for name, child in module.named_children()}
    return [f"{type(module).__module__}.{type(module).__qualname__}", plain, tensors, children]
