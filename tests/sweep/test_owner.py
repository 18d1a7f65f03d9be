"""A process that is gone is known to be gone, also when its number is used again."""

import subprocess
import sys

import psutil

from losslab.sweep.owner import is_dead, this_process


def test_this_process_lives() -> None:
    assert not is_dead(this_process())


def test_an_ended_process_is_dead() -> None:
    child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])
    owner = this_process() | {"pid": child.pid, "started": psutil.Process(child.pid).create_time()}
    assert not is_dead(owner)
    child.kill()
    child.wait()
    assert is_dead(owner)


def test_another_process_with_the_same_number_is_not_the_owner() -> None:
    assert is_dead(this_process() | {"started": this_process()["started"] - 100})
    assert is_dead(this_process() | {"boot": "another boot"})


def test_a_process_on_another_host_counts_as_alive_and_a_missing_mark_as_dead() -> None:
    assert not is_dead(this_process() | {"host": "elsewhere", "pid": 1})
    assert is_dead(None)
