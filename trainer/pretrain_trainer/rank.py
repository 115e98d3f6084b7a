"""The frame around one rank of training: how its end becomes a sentence that the launcher reads. Imports nothing heavy.

When one rank fails, the others fail too, moments later, in whatever collective they are in. What those say is an echo; it
is marked as such here, so that the launcher, and whoever reads its message, sees the reason first.
"""

from __future__ import annotations

import json
import os
import re
import time
import traceback
from pathlib import Path

from pretrain_stage.config import Job
from pretrain_stage.errors import EXIT_TEMPORARY, PEER_LEFT, UserError
from pretrain_stage.events import Events
from pretrain_stage.libraries import adopt

from pretrain_trainer.account import Account
from pretrain_trainer.config.sections import TrainerSpec
from pretrain_trainer.environment import prepare_environment
from pretrain_trainer.finetune.section import training_of
from pretrain_trainer.uncompiled import leave_compiler_out
from pretrain_trainer.watch.memory import out_of_memory, ran_out
from pretrain_trainer.watch.stacks import stacks, stacks_on_signal
from pretrain_trainer.watch.watch import LEAVES_SECONDS, watched

_PEER_ERRORS = re.compile(
    r"Connection (closed|reset|refused)|connectFullMesh|Timed out|Broken pipe|NCCL|remote process exited", re.IGNORECASE
)


def scratch_name(node: int) -> str:
    """What the folder of local disk is called that the processes of a training node share."""
    return f"train-{node}"


class PeerLost(UserError):
    """Another process of the group left, or hangs. The reason is said there."""

    exit_code = EXIT_TEMPORARY


def run_rank(job: Job[TrainerSpec], events: Events, record_samples: Path | None, task: str | None = None) -> None:
    """Trains; whatever ends it is also left where torchrun looks for it. Rank 0 says at its end where its time went."""
    training = training_of(job, task)
    account = Account(step_limit=training.faults.step_limit_seconds)
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    prepare_environment(training, processes)
    try:
        if not training.compile:
            leave_compiler_out()
        from pretrain_trainer.train import train

        account.reached("imports")
        adopt()
        stacks_on_signal()
        with watched(account, lambda why: _end_group(why, account, events)):
            train(job, events, account, record_samples, task)
    except Exception as error:
        if _is_echo(error):
            echo = PeerLost(f"{PEER_LEFT}: {_first_line(error)}")
            _leave_for_torchrun(str(echo))
            raise echo from None
        if ran_out(error):
            full = out_of_memory(error, training, int(os.environ.get("WORLD_SIZE", 1)), account.phase.step, account.steps)
            _leave_for_torchrun(str(full))
            raise full from None
        if isinstance(error, UserError):
            _leave_for_torchrun(str(error))
        else:
            _leave_for_torchrun(f"{type(error).__name__}: {error}", traceback.format_exc())
        raise
    finally:
        if os.environ.get("RANK", "0") == "0":
            _say(account, events)


def _end_group(why: str, account: Account, events: Events) -> None:
    """Ends this process, whose main thread may be blocked for ever, as one that had better be started again; says where it stands."""
    _leave_for_torchrun(why)
    events.error(why, exit_code=EXIT_TEMPORARY, traceback=stacks())
    if os.environ.get("RANK", "0") == "0":
        _say(account, events)
    time.sleep(LEAVES_SECONDS)
    os._exit(EXIT_TEMPORARY)


def _say(account: Account, events: Events) -> None:
    """The account as an event, its largest parts in words."""
    seconds = account.rounded()
    most = sorted(((taken, state) for state, taken in seconds.items() if taken >= 1), reverse=True)[:3]
    parts = ", ".join(f"{taken:.0f} s {state}" for taken, state in most)
    events.say("account", f"{sum(seconds.values()):.0f} s in all{': ' if parts else ''}{parts}", seconds=seconds)


def _is_echo(error: Exception) -> bool:
    """Whether torch says so of a group that fell apart. A UserError or OSError is this rank's own."""
    return isinstance(error, RuntimeError) and _PEER_ERRORS.search(str(error)) is not None


def _leave_for_torchrun(message: str, trace: str = "") -> None:
    """Writes the error file of torch's elastic agent: the first to write one of a rank is the one it reads."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path:
        data = {"message": {"message": message, "extraInfo": {"timestamp": str(int(time.time())), "py_callstack": trace}}}
        try:
            Path(path).write_text(json.dumps(data))
        except OSError:
            # The disk is full, which was said as an event; torchrun cannot read half a file, but can do without one.
            Path(path).unlink(missing_ok=True)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0][:300]
