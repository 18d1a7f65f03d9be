"""YAML that says something else than its author thinks, and the types of values from a text to an object."""

import json
import re
import subprocess
import sys
from pathlib import Path

import jsonargparse
import pytest

from losslab.cli import main
from losslab.errors import UserError
from losslab.run import CommandLine, as_value, dump_yaml, read_yaml
from losslab.run.values import MAX_VALUES, load_yaml

MLP = """\
model: {class_path: losslab.models.MLP, init_args: {loss: {class_path: losslab.losses.FocalLoss}}}
data: {class_path: losslab.data.MNISTDataModule}
"""

BOMB = "a0: &a0 [x, x, x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12))
MERGED_BOMB = "a0: &a0 {x: 1}\n" + "".join(
    f"a{n}: &a{n} {{<<: *a{n - 1}, y{n}: [*a{n - 1}, *a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 22)
)

REFUSED = {
    "arms: {focal: {}, focal: {}}": "column 19: focal is given twice, first in line 1",
    'seeds: [0]\n"seeds": [1]': "line 2, column 1: seeds is given twice, first in line 1",
    "no: {}": "line 1, column 1: a key must be a string, but YAML reads no as False: put it in quotes",
    "a:\n  0: {}": "line 2, column 3: a key must be a string, but YAML reads 0 as 0",
    "? [a]\n: 1": "a key must be a string, but this is a list",
    "b: &b {a: 1}\nc: {<<: *b, <<: *b}": "<< is given twice",
    "a: 012": "line 1, column 4: YAML reads 012 as 10: write it without leading zeros, or put it in quotes",
    "max_time: 10:00:00:00": "YAML reads 10:00:00:00 as 2160000: write it as one number, or put it in quotes",
    "a: &a [*a]": "nested too deeply, or an alias stands within its own anchor",
    "[" * 3000 + "]" * 3000: "nested too deeply",
    "a: !!int one": "invalid literal for int",
    "a: !!timestamp 2026-01-01": "is no mapping, list, text or number: put it in quotes",
    BOMB: f"more than {MAX_VALUES} values",
    MERGED_BOMB: f"more than {MAX_VALUES} values",
}


@pytest.mark.parametrize("text", REFUSED, ids=range(len(REFUSED)))
def test_yaml_that_says_something_else_is_refused_with_file_line_and_column(text: str) -> None:
    with pytest.raises(UserError, match=r"^s\.yaml, line \d+, column \d+: ") as refused:
        load_yaml(text, "s.yaml")
    assert REFUSED[text] in str(refused.value)


def test_aliases_and_merge_keys_in_moderation_are_values_of_their_own() -> None:
    content = load_yaml("x: &x {a: 1, b: [2]}\ny: {<<: *x, a: 3}\nz: {<<: [{c: 4, a: 5}, *x]}\nw: *x")
    assert content["y"] == {"a": 3, "b": [2]}
    assert content["z"] == {"c": 4, "a": 5, "b": [2]}
    content["w"]["b"].append(5)
    assert content["x"]["b"] == content["y"]["b"] == [2]


@pytest.mark.parametrize("value", ["1e-3", "1e5", "012", "08", "1:30", "2026-01-01", "no", "~", "", "<<", "é", "a: b"])
def test_a_string_comes_back_from_yaml_as_that_string(value: str) -> None:
    assert load_yaml(dump_yaml({"k": [value], "s": value})) == {"k": [value], "s": value}


@pytest.mark.parametrize("value", [0, 0.0, 1, 1.0, True, False, None, 10**30, 1e30, 1e-30, float("inf")])
def test_a_number_comes_back_from_yaml_and_the_command_line_with_its_type(value: object) -> None:
    for back in (load_yaml(dump_yaml({"k": value}))["k"], as_value(dump_yaml({"k": value})[3:].strip())):
        assert (type(back), back) == (type(value), value)


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_bytes(b"\xef\xbb\xbfseeds: [1e-3]\n")
    assert read_yaml(tmp_path / "s.yaml") == {"seeds": [0.001]}


@pytest.mark.parametrize(
    ("option", "value", "place"),
    [
        ("--model.loss", "{class_path: FocalLoss, init_args: {gamma: 1, gamma: 2}}", "--model.loss, line 1, column 47"),
        ("--model.loss", "loss.yaml", "loss.yaml, line 2, column 23"),
        ("--trainer.callbacks", "[{class_path: x, class_path: y}]", "--trainer.callbacks, line 1, column 18"),
        ("--config", "twice.yaml", "twice.yaml: trainer.max_epochs is given twice"),
    ],
)
@pytest.mark.usefixtures("own_folder")
def test_a_doubled_value_is_refused_wherever_yaml_is_read(
    option: str, value: str, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mlp.yaml").write_text(MLP)
    Path("loss.yaml").write_text("class_path: losslab.losses.FocalLoss\ninit_args: {gamma: 1, gamma: 2}\n")
    Path("twice.yaml").write_text("trainer.max_epochs: 7\ntrainer: {max_epochs: 5}\n")
    assert main(["fit", "--config", "mlp.yaml", option, value]) == 2
    assert place in capsys.readouterr().err


TYPES = """
import inspect, json, sys, {first}
from losslab.run import CommandLine
from lightning.pytorch import Trainer
arguments = inspect.signature(Trainer).parameters.items()
numbers = [n for n, p in arguments if {{int, float}} <= {{*getattr(p.annotation, "__args__", ())}}]
assert len(numbers) >= 6, numbers
wrong = []
for value in (1, 1.0, 0, 0.0, 10**12):
    given = CommandLine(["--config", "mlp.yaml", *(f"--trainer.{{n}}={{value}}" for n in numbers)], "fit").resolved()
    filed = json.dumps({{"trainer": {{n: value for n in numbers}}}})
    open("filed.yaml", "w").write(filed)
    read = CommandLine(["--config", "mlp.yaml", "--config", "filed.yaml"], "fit")
    once = read.resolved()
    read.parse_config(once)
    for config in (given, once, read.resolved()):
        wrong += [(n, value, config["trainer"][n]) for n in numbers if repr(config["trainer"][n]) != repr(value)]
assert not wrong, wrong
"""


@pytest.mark.slow  # each imports everything in a fresh process; what follows tests the same rule in this one
@pytest.mark.parametrize("first", ["losslab.run.config", "losslab.sweep.command"])
def test_an_int_stays_an_int_whatever_was_imported_first(own_folder: Path, first: str) -> None:
    Path("mlp.yaml").write_text(MLP)
    script = TYPES.format(first=first)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, cwd=own_folder
    )
    assert done.returncode == 0, done.stderr[-600:]


class Takes:
    def __init__(self, a: float | int, b: "list[float | int] | None" = None, c: bool | int = False, d: str | int = 0):
        pass


@pytest.mark.parametrize("text", ["1", "1.0", "0", "0.0", "100000000000000000000", "1e3"])
def test_a_union_takes_an_int_before_a_float_in_any_order_of_its_types(text: str) -> None:
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Takes)
    value = json.loads(text)
    for parsed in (
        parser.parse_args([f"--a={text}", f"--b=[{text}]"]),
        parser.parse_object({"a": value, "b": [value]}),
    ):
        assert repr(parsed.a) == repr(value)
        assert repr(parsed.b) == repr([value])


@pytest.mark.parametrize("value", [True, False, 1, 0])
def test_a_bool_and_an_int_stay_apart(value: object) -> None:
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Takes)
    assert parser.parse_object({"a": 1, "c": value}).c is value
    assert parser.parse_object({"a": 1, "d": "3"}).d == "3"
    assert parser.parse_object({"a": 1, "d": 3}).d == 3


def test_an_int_for_a_float_is_that_float_however_it_is_given(own_folder: Path) -> None:
    Path("mlp.yaml").write_text(MLP)
    hashes = set()
    for gamma in ("2", "2.0", "2e0"):
        config = CommandLine(["--config", "mlp.yaml", "--model.loss.gamma", gamma], "fit").resolved()
        hashes.add(json.dumps(config, sort_keys=True))
    assert len(hashes) == 1
    assert re.search(r'"gamma": 2\.0', hashes.pop())


def test_a_duration_given_as_a_mapping_stays_one(own_folder: Path) -> None:
    Path("mlp.yaml").write_text(MLP + "trainer: {max_time: {minutes: 2}}\n")
    assert CommandLine(["--config", "mlp.yaml"], "fit").resolved()["trainer"]["max_time"] == {"minutes": 2}
