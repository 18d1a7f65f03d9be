"""Whatever goes wrong around a training is told in one line, and loses nothing that was finished."""

import errno
import os
import re
from pathlib import Path

import background
import pytest
import torch

from losslab.cli import main
from losslab.models import MLP
from losslab.run import RunFolder, find_run


def the_run(name: str = "tiny") -> RunFolder:
    (path,) = Path("runs", name).iterdir()
    return RunFolder(path)


class FailingDisk:
    """Stands for os.fsync: from the `fault`-th write to a run's folder on, nothing can be written."""

    def __init__(self, number: int, fault: int) -> None:
        self.number, self.fault = number, fault
        self.written: list[str] = []
        self.synchronise = os.fsync

    def __call__(self, descriptor: int) -> None:
        self.written.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name.split(".")[1])
        if len(self.written) >= self.fault:
            raise OSError(self.number, os.strerror(self.number))
        self.synchronise(descriptor)


def test_a_disk_that_is_full_at_any_write_is_told_and_the_fit_goes_on_later(
    tiny_mlp: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", *tiny_mlp, "--name", "undisturbed"]) == 0
    failed_in = set()
    for fault in range(2, 20):  # the first write makes the folder: without it there is nothing to go on with
        name = f"fault-{fault}"
        disk = FailingDisk(errno.ENOSPC, fault)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", disk)
            status = main(["fit", *tiny_mlp, "--name", name])
        error = capsys.readouterr().err
        if status == 0:
            break
        failed_in.add(disk.written[fault - 1])
        assert status == 1
        assert error == "losslab fit: error: No space left on device; finished work is on disk\n"
        assert main(["fit", *tiny_mlp, "--name", name, "--ckpt_path", "last"]) == 0
        ours, theirs = the_run(name), the_run("undisturbed")
        assert ours.metrics_file.read_text() == theirs.metrics_file.read_text()
        assert ours.predictions_file.read_bytes() == theirs.predictions_file.read_bytes()
        assert ours.manifest()["status"] == "finished"
        assert "failure" not in ours.manifest()
    assert failed_in == {"manifest", "metrics", "best", "last", "predictions"}


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("fault", [1, 4])
def test_a_disk_that_becomes_read_only_is_told(
    tiny_mlp: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: int,
    fault: int,
) -> None:
    monkeypatch.setattr(os, "fsync", FailingDisk(number, fault))
    assert main(["fit", *tiny_mlp]) == 1
    assert capsys.readouterr().err == f"losslab fit: error: {os.strerror(number)}; finished work is on disk\n"


def test_a_folder_that_cannot_be_made_is_told(
    tiny_mlp: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(path: Path, *_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert main(["fit", *tiny_mlp]) == 1
    assert "losslab fit: error: Permission denied: runs" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:119] . DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError(),
    ],
)
def test_too_little_memory_is_told_with_what_helps(
    tiny_mlp: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    step = MLP.training_step

    def fail_at_step_12(self: MLP, batch: tuple, batch_idx: int) -> torch.Tensor:
        if self.trainer.global_step == 12:
            raise error
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(MLP, "training_step", fail_at_step_12)
        assert main(["fit", *tiny_mlp]) == 1
    told = capsys.readouterr().err
    assert re.match(
        r"losslab fit: error: out of memory in epoch 1, step 12 \(.*\)\. Lower data\.batch_size \(20\)", told
    )
    assert told.count("\n") == 1
    assert the_run().manifest()["status"] == "failed"
    assert type(error).__name__ in the_run().manifest()["failure"]
    assert len(the_run().metrics_file.read_text().splitlines()) == 2  # the header and epoch 0
    assert main(["fit", *tiny_mlp, "--ckpt_path", "last"]) == 0


def test_another_error_is_not_taken_for_it(tiny_mlp: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(MLP, "training_step", fail)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        main(["fit", *tiny_mlp])
    assert the_run().manifest()["status"] == "failed"


def test_two_processes_do_not_continue_one_run(
    tiny_mlp: list[str], own_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    longer = [*tiny_mlp, "--trainer.max_epochs", "200"]
    process = background.start(own_folder, ["fit", *longer])
    try:
        background.wait_for(lambda: bool(list(Path("runs").glob("tiny/*/checkpoints/last.ckpt"))), process)
        rows = the_run().metrics_file.read_text()
        assert main(["fit", *longer, "--ckpt_path", "last"]) == 2
        assert "is being trained by another process" in capsys.readouterr().err
        assert the_run().metrics_file.read_text().startswith(rows)
    finally:
        process.terminate()
        process.join(150)
    assert process.exitcode == 143
    assert the_run().manifest()["status"] == "interrupted"


def test_two_processes_of_one_name_have_a_folder_each_or_one_is_told(tiny_mlp: list[str], own_folder: Path) -> None:
    processes = [background.start(own_folder, ["fit", *tiny_mlp]) for _ in range(2)]
    for process in processes:
        process.join(150)
    codes = sorted(process.exitcode for process in processes)  # type: ignore[type-var]
    runs = list(Path("runs/tiny").iterdir())
    assert codes in ([0, 0], [0, 2])
    assert len(runs) == codes.count(0)
    assert all(RunFolder(run).manifest()["status"] == "finished" for run in runs)
    if codes == [0, 2]:  # they began within one second
        assert "exists already; give another --name" in (own_folder / "output.txt").read_text()


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_loss_that_is_no_number_is_named(
    tiny_mlp: list[str], own_folder: Path, capsys: pytest.CaptureFixture[str], value: str
) -> None:
    (own_folder / "bad_loss.py").write_text(
        "import torch\n"
        "class BadLoss(torch.nn.Module):\n"
        "    def __init__(self, value: str):\n"
        "        super().__init__()\n"
        "        self.value, self.steps = float(value), 0\n"
        "    def forward(self, logits, target):\n"
        "        self.steps += self.training\n"
        "        return logits.mean() + (self.value if self.steps > 14 else 0.0)\n"
    )
    assert main(["fit", *tiny_mlp, "--model.loss", "bad_loss.BadLoss", "--model.loss.value", value]) == 1
    error = capsys.readouterr().err
    assert f"the loss BadLoss() became {value} in epoch 1, step 4." in error
    assert error.count("\n") == 1
    assert find_run("runs/tiny", finished=False).manifest()["status"] == "failed"
