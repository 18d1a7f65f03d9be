"""`precision: auto`: bfloat16 where the device computes in it, float32 elsewhere; what was used is recorded."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from losslab.cli import main
from losslab.run import CommandLine, RunFolder, config_hash

X86 = "processor\t: 0\nmodel name\t: A\nflags\t\t: fpu sse2 avx2 avx512f avx512vl{}\nbugs\t\t: none\n"
ARM = "processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd{}\nCPU part\t: 0xd40\n"
WITH, WITHOUT = X86.format(" avx512_bf16"), X86.format(" avx512_vnni")

Machine = Callable[..., None]
"""Makes this machine one with another /proc/cpuinfo (None: it has no such file), and with a GPU or without."""


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    def become(cpuinfo: str | None, cuda_capability: int | None = None, mps: bool = False) -> None:
        file = tmp_path / "cpuinfo"
        file.unlink(missing_ok=True)
        if cpuinfo is not None:
            file.write_text(cpuinfo)
        monkeypatch.setattr("losslab.run.precision.CPU_FLAGS", file)
        has_cuda = cuda_capability is not None
        monkeypatch.setattr("lightning.pytorch.accelerators.CUDAAccelerator.is_available", lambda: has_cuda)
        monkeypatch.setattr("lightning.pytorch.accelerators.MPSAccelerator.is_available", lambda: mps)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(major=cuda_capability))
        monkeypatch.setattr(torch.version, "hip", None)

    return become


def precision_of(tokens: list[str]) -> str:
    return CommandLine(tokens, "fit").resolved()["trainer"]["precision"]


@pytest.mark.parametrize(
    ("cpuinfo", "cuda_capability", "mps", "accelerator", "expected"),
    [
        (WITH, None, False, "auto", "bf16-mixed"),
        (WITHOUT, None, False, "auto", "32-true"),  # oneDNN and torch call this supported, and emulate it
        (X86.format(" amx_bf16 amx_tile"), None, False, "cpu", "bf16-mixed"),
        (X86.format(" amx_tile amx_int8"), None, False, "cpu", "32-true"),
        (ARM.format(" bf16"), None, False, "cpu", "bf16-mixed"),
        (ARM.format(""), None, False, "cpu", "32-true"),
        (None, None, False, "cpu", "32-true"),
        (WITHOUT, 8, False, "auto", "bf16-mixed"),
        (WITHOUT, 9, False, "cuda", "bf16-mixed"),
        (WITH, 7, False, "gpu", "32-true"),  # torch emulates it there
        (WITHOUT, 8, False, "cpu", "32-true"),
        (WITH, 7, False, "cpu", "bf16-mixed"),
        (WITH, None, True, "auto", "32-true"),
        (WITH, None, True, "mps", "32-true"),
        (WITH, None, True, "lightning.pytorch.accelerators.CPUAccelerator", "bf16-mixed"),
    ],
)
def test_auto_is_bfloat16_only_where_the_device_that_trains_computes_in_it(
    cpuinfo: str | None,
    cuda_capability: int | None,
    mps: bool,
    accelerator: str,
    expected: str,
    machine: Machine,
    tiny_mlp: list[str],
) -> None:
    machine(cpuinfo, cuda_capability, mps)
    assert precision_of([*tiny_mlp, "--trainer.precision", "auto", "--trainer.accelerator", accelerator]) == expected


def test_auto_means_the_same_wherever_it_is_written_and_an_explicit_value_is_left_alone(
    machine: Machine, tiny_mlp: list[str]
) -> None:
    machine(WITHOUT)
    file = Path("auto.yaml")
    file.write_text(Path("tiny.yaml").read_text().replace("max_epochs: 2", "max_epochs: 2, precision: auto"))
    command_line = CommandLine(tiny_mlp, "fit")
    base = command_line.resolved()
    assert base["trainer"]["precision"] is None
    for flags, expected in ((WITH, "bf16-mixed"), (WITHOUT, "32-true")):
        machine(flags)
        assert precision_of(["--config", "auto.yaml"]) == expected
        assert precision_of([*tiny_mlp, "--trainer.precision=auto"]) == expected
        arm = CommandLine(tiny_mlp, "sweep")
        arm.parse_config({**base, "trainer": base["trainer"] | {"precision": "auto"}})
        explicit = CommandLine([*tiny_mlp, "--trainer.precision", expected], "fit").resolved()
        assert arm.resolved() == explicit
        assert config_hash(arm.resolved()) == config_hash(explicit)
        assert precision_of(["--config", "auto.yaml", "--trainer.precision", "bf16-mixed"]) == "bf16-mixed"
        assert precision_of(["--config", "auto.yaml", "--trainer.precision", "64"]) == 64


def test_a_run_records_what_it_used_and_goes_on_only_where_that_is_the_same(
    machine: Machine, tiny_mlp: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    machine(WITH)
    fit = ["fit", *tiny_mlp, "--trainer.precision", "auto", "--trainer.max_epochs", "1"]
    assert main(fit) == 0
    (run,) = Path("runs/tiny").iterdir()
    assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["precision"] == "bf16-mixed"
    assert RunFolder(run).manifest()["precision"] == "bf16-mixed"
    machine(WITHOUT)
    assert main(["test", "--run", str(run)]) == 0
    capsys.readouterr()
    assert main([*fit, "--run", str(run)]) == 2
    assert "trainer.precision: bf16-mixed -> 32-true" in capsys.readouterr().err
    machine(WITH)
    assert main([*fit, "--run", str(run)]) == 0


def test_a_study_whose_arm_says_auto_goes_on_only_where_that_means_the_same(
    machine: Machine, tiny_mlp: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Its text is the same everywhere, and one setting would become two."""
    Path("study.yaml").write_text(
        "experiment: tiny.yaml\narms: {plain: {}, auto: {trainer.precision: auto}}\n"
        "grid: {data.init_args.batch_size: [50]}\nseeds: [0]\n"
    )
    sweep = ["sweep", "--config", "study.yaml", "--trainer.max_epochs", "1"]
    machine(WITH)
    assert main(sweep) == 0
    machine(WITHOUT)
    capsys.readouterr()
    assert main(sweep) == 2
    assert "precision.auto: bf16-mixed -> 32-true" in capsys.readouterr().err
    assert main(["confirm", "runs/study", "--seeds", "1"]) == 2
    assert "what precision: auto means on this machine" in capsys.readouterr().err
    machine(WITH)
    assert main(sweep) == 0


def test_a_precision_that_does_not_exist_gets_the_allowed_ones(
    tiny_mlp: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", *tiny_mlp, "--trainer.precision", "bf17"]) == 2
    error = capsys.readouterr().err
    assert "trainer.precision must be one of null, 'auto', " in error
    assert all(value in error for value in ("'bf16-mixed'", "'32-true'", "64, ", "got 'bf17'"))
    with pytest.raises(SystemExit):
        main(["fit", "--help"])
    help_text = " ".join(capsys.readouterr().out.split())
    assert "'auto': 'bf16-mixed' where the device computes in it, else '32-true'" in help_text


def test_the_shipped_files_leave_bfloat16_to_the_device(repository: Path) -> None:
    texts = {
        path.name: path.read_text() for room in ("experiments", "sweeps") for path in (repository / room).glob("*.yaml")
    }
    given = {
        name: line.partition("precision:")[2].strip()
        for name, text in texts.items()
        for line in text.splitlines()
        if not line.startswith("#") and "precision:" in line
    }
    assert given == {"fast.yaml": "auto", "resnet_accurate.yaml": "auto", "unlimited.yaml": "auto"}
