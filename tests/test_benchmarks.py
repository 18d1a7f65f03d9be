"""The benchmarks' own parts: what they count and name, and that the GPU's stages run and keep what they find."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

FOLDER = Path(__file__).parent / "benchmarks"

X86 = """\
processor\t: 0
model name\t: A Processor
flags\t\t: fpu avx2 avx512f {bf16}
processor\t: 1
model name\t: A Processor
flags\t\t: fpu avx2 avx512f {bf16}
"""
ARM = "processor\t: 0\nFeatures\t: fp asimd bf16\n"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(FOLDER)
    import gpu

    return gpu


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(FOLDER)
    import measure

    return measure


def test_operations_are_counted_and_views_are_not(measure: ModuleType) -> None:
    images, weight = torch.rand(4, 1, 2, 2), torch.rand(3, 4, requires_grad=True)
    with measure.CountOperations() as count:
        rows = images.flatten(1)[:2].unsqueeze(0).detach()
    assert count.number == 0
    with measure.CountOperations() as count:
        (rows.squeeze(0) @ weight.t()).sum().backward()
    assert count.number >= 4  # product, sum, and their gradients
    with measure.CountOperations() as count:
        rows.add_(1)
    assert count.number == 1


@pytest.mark.parametrize(
    ("cpuinfo", "said"),
    [
        (X86.format(bf16="avx512_bf16 amx_bf16"), "AVX2, AVX-512, bf16 (avx512_bf16, amx_bf16)"),
        (X86.format(bf16="avx512_vnni"), "A Processor"),
        (X86.format(bf16="avx512_vnni"), "AVX-512, no bf16"),
        (ARM, "bf16 (bf16)"),
        ("", "unknown flags"),
    ],
)
def test_a_table_names_the_processor_and_whether_it_computes_in_bfloat16(
    cpuinfo: str, said: str, measure: ModuleType, own_folder: Path
) -> None:
    (own_folder / "cpuinfo").write_text(cpuinfo)
    assert said in measure.processor(own_folder / "cpuinfo")


def records(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_gpu_stage_that_fails_or_takes_too_long_does_not_stop_the_next_and_all_is_kept(
    gpu: ModuleType, own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = own_folder / "out"
    keep = f'open({str(out / "results.jsonl")!r}, \'a\').write(\'{{"measured": "WHAT", "seconds": 1}}\\n\')'
    stages = [
        gpu.Stage("fails", 9, ["-c", f"{keep.replace('WHAT', 'one')}; print('before'); raise SystemExit(3)"]),
        gpu.Stage("waits", 0.5, ["-c", f"{keep.replace('WHAT', 'two')}; import time; time.sleep(60)"]),
        gpu.Stage("works", 9, ["-c", keep.replace("WHAT", "three")]),
    ]
    monkeypatch.setattr(gpu, "stages", lambda out: stages)
    assert gpu.run_all(out, 100) == 1
    ended = records(out / "stages.jsonl")
    assert [one["outcome"] for one in ended] == ["exit status 3", "too long", "ok"]
    assert ended[0]["said_last"] == "before"
    assert [one["measured"] for one in records(out / "results.jsonl")] == ["one", "two", "three"]
    summary = (out / "summary.md").read_text()
    assert "| two | seconds 1 |" in summary
    assert "| waits | too long |" in summary
    assert "before" in (out / "log.txt").read_text()


def test_when_the_time_is_over_no_gpu_stage_begins(gpu: ModuleType, own_folder: Path) -> None:
    assert gpu.run_all(own_folder / "out", 0) == 1
    assert {one["outcome"] for one in records(own_folder / "out" / "stages.jsonl")} == {"no time left"}


def test_without_a_gpu_the_first_stage_says_so_and_is_the_last(
    gpu: ModuleType, own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = gpu.Stage("machine", 9, ["-c", "raise SystemExit('no CUDA device')"])
    monkeypatch.setattr(gpu, "stages", lambda out: [machine, gpu.Stage("fit", 9, ["-c", ""])])
    assert gpu.run_all(own_folder / "out", 100) == 1
    (only,) = records(own_folder / "out" / "stages.jsonl")
    assert only["said_last"] == "no CUDA device"


@pytest.mark.slow
def test_the_gpu_stages_run_at_tiny_size_wherever_they_are(own_folder: Path) -> None:
    for names in (["machine", "steps", "epoch", "time_to_99", "profile", "modes"], ["out_of_memory"]):
        done = subprocess.run(
            [sys.executable, str(FOLDER / "gpu.py"), "--stage", str(own_folder), *names],
            env=os.environ | {"BENCH_SMALL": "1"}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
    found = {str(one.pop("measured")): one for one in records(own_folder / "results.jsonl")}
    assert {name: one["error"] for name, one in found.items() if "error" in one} == {}
    assert "cores" in str(found["machine"]["machine"])
    assert float(str(found["CNN: a step of a population of 2"]["operations"])) > 50
    assert "Lower data.batch_size" in str(found["600 MB for a fit with a huge batch"]["message"])
    assert found["deterministic: a population of 2 CNNs"] == {"outcome": "trained"}
