"""Parsers of classes and parsed configurations are kept: what they give is what parsing everything anew gives."""

import json
import sys
import types
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import ArgumentParser, _typehints
from jsonargparse._signatures import SignatureArguments

from losslab.errors import UserError
from losslab.run import SEED, CommandLine, Config, Parts, set_value
from losslab.run.precision import resolve_auto
from losslab.study import read_study, settings_to_check


def dumped_by_lightning(self: CommandLine) -> None:
    """Put what Lightning gives to `save_hyperparameters` into the command line, as LightningCLI itself does."""
    text = self.parser.dump(self.config, skip_link_targets=False, skip_none=False, format="yaml")
    self.config_dump = yaml.safe_load(text)


def described(parts: Parts) -> dict[str, Any]:
    """Return everything about the parts that a training sees, as values to compare; weights by their bytes."""
    trainer, model, data = parts
    optimizers = model.make_optimizer(model.parameters()) if model.make_optimizer else None
    schedule = model.make_lr_scheduler(optimizers) if optimizers and model.make_lr_scheduler else None
    return {
        "network": str(model),
        "weights": {name: value.numpy().tobytes() for name, value in model.state_dict().items()},
        "buffers": {name: value.numpy().tobytes() for name, value in model.named_buffers()},
        "modules": [plain(vars(module)) for module in model.modules()],
        "hyper-parameters": dict(model.hparams),
        "optimizer": optimizers and (type(optimizers), plain(optimizers.defaults)),
        "schedule": schedule and (type(schedule), plain(vars(schedule))),
        "data": (type(data), plain(vars(data))),
        "callbacks": [(type(each), plain(vars(each))) for each in trainer.callbacks],
        "loggers": [type(each.guarded) for each in trainer.loggers],
        "precision": type(trainer.precision_plugin),
        "lengths": (trainer.max_epochs, trainer.max_steps, trainer.limit_train_batches, trainer.limit_val_batches),
    }


def plain(values: dict[str, Any]) -> dict[str, Any]:
    kept = (bool, int, float, str, tuple, list, dict, type(None))
    return {
        name: repr(value) for name, value in values.items() if isinstance(value, kept) and " at 0x" not in repr(value)
    }


def settings(tokens: list[str], study: Path | None = None) -> Iterator[tuple[CommandLine, Config]]:
    """Yield the configuration of an experiment at another seed, or one of each arm of a study."""
    command_line = CommandLine(tokens, "sweep")
    base = command_line.resolved()
    if study is None:
        yield command_line, {**base, SEED: 5}
        return
    file = read_study(study, {})
    last_of_arms = {setting.arm: setting for setting in settings_to_check(file)}
    for number, setting in enumerate(last_of_arms.values()):
        yield command_line, setting.config(file, base, number % 3)


def check(command_line: CommandLine, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    command_line.parse_config(config)
    ours, first, second = command_line.resolved(), command_line.build(), command_line.build()
    data = command_line.config_dump["data"]
    with monkeypatch.context() as former:
        make_parser = _typehints.ActionTypeHint.get_class_parser.__wrapped__
        former.setattr(_typehints.ActionTypeHint, "get_class_parser", staticmethod(make_parser))
        former.setattr(CommandLine, "_dump_config", dumped_by_lightning)
        parsed = command_line.parser.parse_object(config)
        resolve_auto(parsed.trainer)
        resolved = json.loads(command_line.parser.dump(parsed, skip_none=False, format="json"))
        anew = command_line.build()
    assert command_line.config == parsed
    assert ours == {key: value for key, value in resolved.items() if key != "config"}
    assert described(first) == described(anew) == described(second)
    assert data == command_line.config_dump["data"]
    assert first.model is not second.model
    assert first.data is not second.data
    assert not {id(each) for each in first.trainer.callbacks} & {id(each) for each in second.trainer.callbacks}


def test_what_is_kept_builds_the_same_parts_as_parsing_everything_anew(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for command_line, config in settings(["--config", str(repository / "experiments" / "mlp.yaml")]):
        check(command_line, config, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("room", ["experiments", "sweeps"])
def test_all_shipped_experiments_and_arms_are_built_as_by_parsing_everything_anew(
    room: str, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    for file in sorted((repository / room).glob("*.yaml")):
        study = file if room == "sweeps" else None
        experiment = repository / room / yaml.safe_load(file.read_text())["experiment"] if study else file
        for command_line, config in settings(["--config", str(experiment)], study):
            check(command_line, config, monkeypatch)


COUNTED = """\
import torch
from torch import nn


class Scaled(nn.CrossEntropyLoss):
    made = []

    def __init__(self, BY: float = 1.0) -> None:
        super().__init__()
        self.made.append(BY)
        self.scale = float(BY * torch.rand(()))
"""


def test_a_further_training_is_neither_parsed_nor_are_its_classes_read_again(
    tiny_mlp: list[str], own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another value is parsed once for all seeds, without new parsers of classes; a constructor runs each time."""
    (own_folder / "counted.py").write_text(COUNTED.replace("BY", "by"))
    command_line = CommandLine([*tiny_mlp, "--model.loss", "counted.Scaled", "--model.loss.by", "2"], "sweep")
    base = command_line.resolved()
    made = type(command_line.build().model.loss).made
    calls = Counter[str]()
    for kind, name in (
        (ArgumentParser, "parse_object"),
        (ArgumentParser, "dump"),
        (SignatureArguments, "add_class_arguments"),
    ):
        former = vars(kind)[name]

        def counted(self: Any, *args: Any, name: str = name, former: Any = former, **kwargs: Any) -> Any:
            calls[name] += self is command_line.parser or name == "add_class_arguments"
            return former(self, *args, **kwargs)

        monkeypatch.setattr(kind, name, counted)
    drawn = []
    for by in (3.0, 4.0):
        for seed in (0, 1, 2):
            set_value(base, "model.init_args.loss.init_args.by", by)
            command_line.parse_config({**base, SEED: seed})
            _, model, data = command_line.build()
            assert (command_line.resolved()[SEED], data.seed, data.split_seed, len(made)) == (
                seed,
                seed,
                seed,
                len(drawn) + 2,
            )
            drawn.append(model.loss.scale)
    assert calls == {"parse_object": 2, "dump": 2}
    assert len(set(drawn)) == 6
    assert drawn[3:] == pytest.approx([value * 4 / 3 for value in drawn[:3]])


def test_each_value_and_each_seed_is_checked_by_the_parser(tiny_mlp: list[str]) -> None:
    command_line = CommandLine(tiny_mlp, "sweep")
    base = command_line.resolved()
    for gamma, seed, message in (
        ("two", 1, "gamma must be float"),
        (2.0, "x", "seed_everything"),
        (2.0, 1.5, "seed_everything"),
    ):
        set_value(base, "model.init_args.loss.init_args.gamma", gamma)
        for _ in range(2):
            with pytest.raises(UserError, match=message):
                command_line.parse_config({**base, SEED: seed})


def test_a_class_that_is_defined_anew_gets_a_parser_of_its_own(
    tiny_mlp: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a notebook, where the cell of a class is edited and run again."""
    module = types.ModuleType("notebook")
    monkeypatch.setitem(sys.modules, "notebook", module)
    for argument in ("first", "second"):
        exec(COUNTED.replace("BY", argument), vars(module))
        command_line = CommandLine([*tiny_mlp, "--model.loss", "notebook.Scaled", f"--model.loss.{argument}=-2"], "fit")
        assert command_line.build().model.loss.scale < 0
