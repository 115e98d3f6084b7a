"""Process 1 of each training node: torchrun, in this process, around the node's ranks.

It reads torchrun's own PET_* variables, which the training operator and the local engine set alike. Before it imports
anything heavy it looks whether the training is finished, and waits for the name of rank 0's node: torch's own retries back
off so far that they find it 20 s late. Afterwards it says which rank failed first and why, and exits with its code, where
torchrun would exit with 1 whatever happened.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pretrain_stage.config import Job
from pretrain_stage.errors import EXIT_STOPPED, EXIT_TEMPORARY, PEER_LEFT, UserError
from pretrain_stage.events import Events
from pretrain_stage.libraries import adopt
from pretrain_stage.manifest import finished
from pretrain_stage.process import Stopped, leave_result
from pretrain_stage.scratch import scratch
from pretrain_stage.storage import open_storage

from pretrain_trainer.account import left_account
from pretrain_trainer.config.sections import TrainerSpec, Training
from pretrain_trainer.environment import prepare_environment
from pretrain_trainer.finetune.plan import make_finetune_plan, task_storage
from pretrain_trainer.finetune.section import training_of
from pretrain_trainer.plan import RunPlan, make_plan
from pretrain_trainer.rank import scratch_name
from pretrain_trainer.tokens import token_cache
from pretrain_trainer.watch.memory import used
from pretrain_trainer.watch.warden import guarded

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

LOG_LEVEL_VARIABLE = "TORCH_CPP_LOG_LEVEL"
NAME_SECONDS = 900.0
NAME_POLL_SECONDS = 0.5
SHUTDOWN_SECONDS = "300"
"""How long ranks may save after SIGTERM where nobody says otherwise; torchrun's default of 30 s can end them before."""


class RankFailed(UserError):
    """A rank of this node failed. Exits with the rank's code."""

    def __init__(self, message: str, exit_code: int, traceback: str = "") -> None:
        super().__init__(message)
        self.exit_code, self.traceback = exit_code, traceback


@dataclass(frozen=True)
class Node:
    """This node's place in the training group, as torchrun's environment says."""

    nodes: int
    processes: int
    rank: int
    master_address: str
    master_port: int

    @property
    def world_size(self) -> int:
        return self.nodes * self.processes


def launch(
    job: Job[TrainerSpec], job_file: Path, events: Events, record_samples: Path | None = None, task: str | None = None
) -> None:
    """Runs this node's share of the job's training, or of fine-tuning for a task, unless it is finished.

    Raises UserError with the sentence and the exit code of the rank that failed first; Stopped if it was asked to stop and
    the ranks have saved.
    """
    training = training_of(job, task)
    node = node_of(os.environ, training)
    storage = open_storage(job.spec.storage)
    plan: RunPlan = (
        make_plan(job, storage, node.world_size) if task is None else make_finetune_plan(job, task, storage, node.world_size)
    )
    done = finished(storage, plan.stage, plan.stage_identity)
    if done is not None:
        events.say("result", f"training is finished: {done.facts['steps']} steps", unchanged=True, **done.facts)
        leave_result(done.facts)
        return
    wait_for_name(node, NAME_SECONDS)
    prepare_environment(training, node.processes)
    own = storage if task is None else task_storage(job.spec.storage, task)
    with scratch(own, scratch_name(node.rank)) as folder:
        _run_ranks(node, training, job_file, record_samples, task)
        account = left_account(folder)
    shutil.rmtree(token_cache(storage, node.rank), ignore_errors=True)
    done = finished(storage, plan.stage, plan.stage_identity)
    if done is not None:
        leave_result(done.facts | ({"seconds": account} if account else {}))


def node_of(env: Mapping[str, str], training: Training) -> Node:
    """The place that PET_* variables give this node; without them, the only node of a group of its own.

    Raises UserError for a variable that is no number.
    """
    try:
        return Node(
            nodes=int(env.get("PET_NNODES", 1)),
            processes=int(env.get("PET_NPROC_PER_NODE", training.processes)),
            rank=int(env.get("PET_NODE_RANK", 0)),
            master_address=env.get("PET_MASTER_ADDR", "127.0.0.1"),
            master_port=int(env["PET_MASTER_PORT"]) if "PET_MASTER_PORT" in env else _free_port(),
        )
    except ValueError as error:
        raise UserError(
            f"PET_* variables: {error}; they must be whole numbers, as the training operator sets them"
        ) from None


def wait_for_name(node: Node, seconds: float) -> None:
    """Waits until the name of rank 0's node can be resolved and, on the other nodes, its store answers.

    Raises UserError, as one that a retry may mend, after that many seconds.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            if node.rank == 0:
                socket.getaddrinfo(node.master_address, node.master_port)
            else:
                socket.create_connection((node.master_address, node.master_port), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise RankFailed(
                    f"node 0 of the training group ({node.master_address}:{node.master_port}) did not answer for "
                    f"{seconds:.0f} s ({error}); look at its pod",
                    EXIT_TEMPORARY,
                ) from None
            time.sleep(NAME_POLL_SECONDS)


def _run_ranks(node: Node, training: Training, job_file: Path, record_samples: Path | None, task: str | None) -> None:
    check_compiler(training, os.environ)
    with _agents_that_leave_quietly():
        import torch
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    adopt()
    if training.gpus_per_node and torch.cuda.device_count() < node.processes:
        raise UserError(
            f"{'spec.training.gpusPerNode' if task is None else f'gpus of {task} in spec.finetune'}: {training.gpus_per_node}, but this "
            f"machine has {torch.cuda.device_count()} CUDA devices; set it to 0 to train on CPU, or run where the GPUs are"
        )
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", SHUTDOWN_SECONDS)
    arguments = [f"--nnodes={node.nodes}", f"--nproc-per-node={node.processes}", f"--node-rank={node.rank}"]
    arguments += [f"--master-addr={node.master_address}", f"--master-port={node.master_port}", "--max-restarts=0"]
    arguments += ["-m", "pretrain_trainer", "train", "--job", str(job_file)]
    arguments += ["--record-samples", str(record_samples)] if record_samples else []
    arguments += ["--task", task] if task else []
    first = node.rank * node.processes
    with guarded(node.master_address, node.master_port, range(first, first + node.processes)) as verdict:
        try:
            with _ended_while_it_waits():
                run.run(run.parse_args(arguments))  # type: ignore[no-untyped-call]
        except SignalException:
            raise Stopped from None
        except ChildFailedError as error:
            raise (
                RankFailed(verdict.reason, EXIT_TEMPORARY) if verdict.reason else explain(error.failures, training)
            ) from None


def check_compiler(training: Training, env: Mapping[str, str]) -> None:
    """Raises UserError if layers are to be compiled where there is no C++ compiler: torch says so only at the first step."""
    compiler = env.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if training.compile and shutil.which(compiler) is None:
        raise UserError(
            f"spec.training.compile: true, but there is no C++ compiler here ({compiler}); set it to false, or use an image "
            "that has one (the trainer's, built with FLAVOUR=cuda)"
        )


@contextlib.contextmanager
def _agents_that_leave_quietly() -> Iterator[None]:
    """Keeps what torch is imported with from calling it an error that the nodes of a group leave one after the other.

    That is how each run ends: node 0 may close its store while others still ask whether all have come. Its C++ part takes
    its level from the environment when it is imported; the ranks shall have theirs.
    """
    api = logging.getLogger("torch.distributed.elastic.agent.server.api")
    api.addFilter(lambda record: "Error waiting on exit barrier" not in record.msg)
    if LOG_LEVEL_VARIABLE in os.environ:
        yield
        return
    os.environ[LOG_LEVEL_VARIABLE] = "ERROR"
    yield
    del os.environ[LOG_LEVEL_VARIABLE]


@contextlib.contextmanager
def _ended_while_it_waits() -> Iterator[None]:
    """Ends this process on SIGTERM for as long as it has no ranks: there is nothing to save before.

    torchrun waits for the other nodes outside of Python, where no handler runs until all have come. A thread can hear of the
    signal meanwhile; once there are ranks, it leaves them to torchrun's own handler.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def listen() -> None:
        while heard := os.read(reader, 1):
            if heard[0] == signal.SIGTERM and not _has_children():
                os._exit(EXIT_STOPPED)

    threading.Thread(target=listen, name="ended-while-it-waits", daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writer)


def _has_children() -> bool:
    """Whether this process has started others that it has not waited for. Where that cannot be asked, it may have."""
    if not hasattr(os, "waitid"):
        return True
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def explain(failures: Mapping[int, ProcessFailure], training: Training | None = None) -> BaseException:
    """What to say of a node whose ranks failed: the first that did so for a reason of its own, by rank and sentence.

    If all left because they were asked to, that is Stopped.
    """
    codes = {_exit_code(failure.exitcode) for failure in failures.values()}
    if codes == {EXIT_STOPPED}:
        return Stopped()
    own = {rank: failure for rank, failure in failures.items() if failure.exitcode < 0 or not _is_echo(failure)}
    rank, first = min((own or failures).items(), key=lambda item: (item[1].timestamp, item[0]))
    return RankFailed(f"rank {rank}: {_sentence(first, training)}", _exit_code(first.exitcode), _traceback(first))


def _is_echo(failure: ProcessFailure) -> bool:
    return _sentence(failure).startswith(PEER_LEFT)


def _sentence(failure: ProcessFailure, training: Training | None = None) -> str:
    if failure.exitcode < 0:
        return (
            f"killed by {failure.signal_name()}; if nobody did that by hand, the node was out of memory: raise "
            "training.resources.memory or lower training.microBatchSize"
            + (f", which is {used(training, training.world_size)}" if training else "")
        )
    message = failure.message
    return str(message["message"]) if isinstance(message, dict) else str(message)


def _traceback(failure: ProcessFailure) -> str:
    """What the rank left of a fault of ours (rank.py)."""
    message = failure.message
    return str(message.get("extraInfo", {}).get("py_callstack") or "") if isinstance(message, dict) else ""


def _exit_code(code: int) -> int:
    """The code by which a shell, and so Kubernetes, knows a process that ended with `code` (negative: by that signal)."""
    return 128 - code if code < 0 else code


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
