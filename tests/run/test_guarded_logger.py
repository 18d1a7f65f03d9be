"""A tracker that raises or hangs is told once; the training goes on, and its records are whole."""

import logging
import time
from pathlib import Path

import pytest

import losslab.run.guarded_logger as guarded_logger
from losslab.cli import main
from losslab.run.run_folder import RunFolder

BAD_LOGGER = """\
import time
from pathlib import Path
from lightning.pytorch.loggers import Logger

class BadLogger(Logger):
    '''Fails as told at the named call, from the second one of that name on.'''

    def __init__(self, call: str, hang: bool = False):
        super().__init__()
        self.call, self.hang, self.count = call, hang, 0

    def note(self, call):
        with Path('calls').open('a') as file:
            file.write(call + chr(10))
        if call == self.call:
            if self.hang:
                time.sleep(1000)
            raise ConnectionError('the server is gone')

    name = version = 'bad'

    @property
    def experiment(self):
        self.note('experiment')
        return object()

    def log_metrics(self, metrics, step=None):
        self.note('log_metrics')

    def log_hyperparams(self, params, *args, **kwargs):
        pass

    def save(self):
        self.note('save')

    def finalize(self, status):
        self.note('finalize')
"""


@pytest.fixture
def bad_logger(own_folder: Path) -> None:
    (own_folder / "bad_logger.py").write_text(BAD_LOGGER)


def files(name: str) -> dict[str, bytes]:
    (run,) = Path("runs", name).iterdir()
    folder = RunFolder(run)
    assert folder.manifest()["status"] == "finished"
    assert folder.checkpoint("last").is_file()
    return {file.name: file.read_bytes() for file in (folder.metrics_file, folder.predictions_file)}


@pytest.mark.usefixtures("bad_logger")
@pytest.mark.parametrize("call", ["experiment", "log_metrics", "save", "finalize"])
@pytest.mark.parametrize("hang", [False, True])
def test_the_training_goes_on(
    tiny_mlp: list[str],
    call: str,
    hang: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(guarded_logger, "PATIENCE", 0.3)
    assert main(["fit", *tiny_mlp, "--name", "undisturbed"]) == 0
    logger = ["--trainer.logger", "bad_logger.BadLogger", "--trainer.logger.call", call]
    began = time.monotonic()
    with caplog.at_level(logging.WARNING, logger="losslab"):
        assert main(["fit", *tiny_mlp, "--name", "bad", *logger, "--trainer.logger.hang", str(hang).lower()]) == 0
    assert time.monotonic() - began < 20
    told = [record.getMessage() for record in caplog.records if "BadLogger" in record.getMessage()]
    reason = "no answer for 0 s" if hang else "ConnectionError: the server is gone"
    assert told == [f"NOTICE: BadLogger failed ({reason}). The training goes on without it; its records are whole."]
    assert files("bad") == files("undisturbed")
    calls = Path("calls").read_text().split()
    assert calls[-1] == call  # the last one: then it is left alone
    assert calls.count(call) == 1


@pytest.mark.usefixtures("bad_logger")
def test_a_tracker_that_works_hears_everything(tiny_mlp: list[str], caplog: pytest.LogCaptureFixture) -> None:
    assert main(["fit", *tiny_mlp, "--trainer.logger", "bad_logger.BadLogger", "--trainer.logger.call", "none"]) == 0
    calls = Path("calls").read_text().split()
    assert calls.count("log_metrics") >= 2
    assert calls[-1] == "finalize"
    assert "failed" not in caplog.text
