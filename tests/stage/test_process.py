"""How a stage program ends: exit codes, and what it leaves for Kubernetes to show."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pretrain_stage import process
from pretrain_stage.errors import StorageError, UserError
from pretrain_stage.events import Events, read_event
from pretrain_stage.process import Stopped, run_stage


def raising(error: BaseException) -> Callable[[], None]:
    def main() -> None:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UserError("corpus.tasks: 0; give 1 or more"), 65, "corpus.tasks: 0; give 1 or more"),
        (StorageError("storage: away", temporary=True), 75, "storage: away"),
        (OSError("disk full"), 75, "OSError: disk full; what is finished is kept: mend it and start again"),
        (Stopped(), 143, "stopped; start again to continue"),
        (KeyError("ours"), 1, "KeyError: 'ours'"),
    ],
)
def test_the_end_of_a_program_is_said_once_for_people_and_once_for_kubernetes(
    error: BaseException, code: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, stream = tmp_path / "termination-log", io.StringIO()
    log.touch()
    monkeypatch.setattr(process, "TERMINATION_LOG", log)
    monkeypatch.setattr(process, "leave_with_parent", lambda: None)
    monkeypatch.setattr(process, "stop_on_sigterm", lambda: None)
    assert run_stage(Events({"stage": "clean"}, stream), raising(error)) == code
    assert log.read_text().partition(process.TRACEBACK_BELOW)[0] == message
    (said,) = [event for line in stream.getvalue().splitlines() if (event := read_event(line)) is not None]
    assert said["message"] == message


def test_a_message_is_cut_where_a_character_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "termination-log"
    log.touch()
    monkeypatch.setattr(process, "TERMINATION_LOG", log)
    process.leave_result({"text": "文" * 5000})
    assert len(log.read_bytes()) <= process.TERMINATION_BYTES
    assert log.read_text()


ENDED_AT_ITS_FIRST_HEAVY_IMPORT = """
import os, runpy, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name in ("pydantic", "torch"):
            os.kill(os.getpid(), signal.SIGTERM)

sys.meta_path.insert(0, Finder())
program = sys.argv.pop(1)
runpy.run_module(program, run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("program", ["pretrain_preprocess", "pretrain_trainer"])
def test_a_program_hears_that_it_should_end_before_it_imports_anything_heavy(program: str) -> None:
    """As process 1 of a container it would not be ended by SIGTERM without a handler, but only after its grace period."""
    command = [sys.executable, "-c", ENDED_AT_ITS_FIRST_HEAVY_IMPORT, program, "--help"]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, timeout=60)
    assert done.returncode == 128 + signal.SIGTERM, "without a handler the signal itself would have ended it"


def test_libraries_that_try_what_may_be_missing_do_not_swallow_the_wish_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "leave_with_parent", lambda: None)
    monkeypatch.setattr(process, "stop_on_sigterm", lambda: None)

    def main() -> None:
        try:
            raise Stopped
        except Exception:
            pass

    assert run_stage(Events({}, io.StringIO()), main) == 143
