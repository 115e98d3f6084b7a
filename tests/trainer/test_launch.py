"""Process 1 of a training node: waiting for node 0, telling reason from echo, exit codes."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pretrain_stage.errors import PEER_LEFT, UserError
from pretrain_stage.events import Events
from pretrain_stage.process import Stopped
from pretrain_trainer.config.sections import Training
from pretrain_trainer.environment import cpu_threads
from pretrain_trainer.launch import Node, RankFailed, check_compiler, explain, node_of, wait_for_name

from tests.trainer.conftest import Site, Trained
from tests.trainer.jobs import descendants, start

TRAINING = Training.model_validate({"tokens": 64, "globalBatchTokens": 64, "sequenceLength": 8, "processesPerNode": 2})


def test_the_place_is_read_from_torchruns_variables() -> None:
    env = {
        "PET_NNODES": "4",
        "PET_NPROC_PER_NODE": "8",
        "PET_NODE_RANK": "3",
        "PET_MASTER_ADDR": "job-worker-0",
        "PET_MASTER_PORT": "29500",
    }
    assert node_of(env, TRAINING) == Node(4, 8, 3, "job-worker-0", 29500)
    assert node_of(env, TRAINING).world_size == 32


def test_without_them_the_job_says_how_many_processes() -> None:
    node = node_of({}, TRAINING)
    assert (node.nodes, node.processes, node.rank, node.master_address) == (1, 2, 0, "127.0.0.1")


def test_a_variable_that_is_no_number_is_refused() -> None:
    with pytest.raises(UserError, match=r"PET_\* variables: .*'auto'"):
        node_of({"PET_NPROC_PER_NODE": "auto"}, TRAINING)


def test_a_node_waits_until_node_0_listens() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    opened: list[socket.socket] = []
    timer = threading.Timer(1.0, lambda: opened.append(socket.create_server(("127.0.0.1", port))))
    timer.start()
    began = time.monotonic()
    wait_for_name(Node(2, 1, 1, "127.0.0.1", port), 20)
    assert 0.9 < time.monotonic() - began < 5
    timer.join()
    opened[0].close()


def test_a_node_0_that_never_comes_is_named() -> None:
    with pytest.raises(RankFailed, match=r"node 0 of the training group \(worker-0.invalid:29500\) did not answer") as error:
        wait_for_name(Node(2, 1, 0, "worker-0.invalid", 29500), 0.2)
    assert error.value.exit_code == 75


def failure(exitcode: int, message: Any, timestamp: int) -> Any:
    return SimpleNamespace(exitcode=exitcode, message=message, timestamp=timestamp, signal_name=lambda: "SIGKILL")


def test_the_reason_is_told_from_its_echo() -> None:
    root = failure(65, {"message": "spec.model: no", "extraInfo": {}}, timestamp=20)
    echo = failure(75, f"{PEER_LEFT}: Connection closed by peer", timestamp=10)
    error = explain({0: echo, 1: root})
    assert isinstance(error, RankFailed)
    assert (str(error), error.exit_code) == ("rank 1: spec.model: no", 65)


def test_a_signal_is_a_reason() -> None:
    error = explain({0: failure(75, f"{PEER_LEFT}: x", 1), 3: failure(-9, "", 5)})
    assert isinstance(error, RankFailed)
    assert str(error).startswith("rank 3: killed by SIGKILL; if nobody did that by hand, the node was out of memory")
    assert error.exit_code == 137


def test_of_two_reasons_the_first_counts() -> None:
    error = explain({0: failure(1, "second", 30), 1: failure(1, "first", 20)})
    assert str(error) == "rank 1: first"


def test_echoes_alone_are_told_as_what_they_are() -> None:
    error = explain({0: failure(75, f"{PEER_LEFT}: Connection reset by peer", 1)})
    assert isinstance(error, RankFailed)
    assert error.exit_code == 75


def test_where_a_rank_failed_reaches_the_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pretrain_trainer import rank, train
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

    def fault(*arguments: object) -> None:
        raise KeyError("ours")

    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    monkeypatch.setattr(rank, "prepare_environment", lambda training, processes: None)
    monkeypatch.setattr(train, "train", fault)
    job: Any = SimpleNamespace(spec=SimpleNamespace(training=TRAINING))
    with pytest.raises(KeyError):
        rank.run_rank(job, Events({}, io.StringIO()), None)
    error = explain({1: ProcessFailure(1, 4711, 1, str(tmp_path / "error.json"))})
    assert isinstance(error, RankFailed)
    assert str(error) == "rank 1: KeyError: 'ours'"
    assert 'raise KeyError("ours")' in error.traceback


def test_ranks_that_were_asked_to_stop_did_not_fail() -> None:
    assert isinstance(explain({0: failure(143, "", 1), 1: failure(143, "", 2)}), Stopped)


@pytest.mark.parametrize(
    ("cpu", "processes", "threads"), [("1", 1, 1), ("8", 2, 4), ("7", 2, 3), ("500m", 1, 1), ("3500m", 1, 3)]
)
def test_threads_follow_from_the_jobs_cpus(cpu: str, processes: int, threads: int) -> None:
    training = TRAINING.model_copy(update={"resources": TRAINING.resources.model_copy(update={"cpu": cpu})})
    assert cpu_threads(training, processes) == threads


def test_compiling_without_a_compiler_is_refused() -> None:
    compiled = TRAINING.model_copy(update={"compile": True})
    check_compiler(TRAINING, {"CXX": "/nowhere/g++"})
    check_compiler(compiled, {"CXX": sys.executable})
    with pytest.raises(
        UserError, match=r"spec.training.compile: true, but there is no C\+\+ compiler here \(/nowhere/g\+\+\)"
    ):
        check_compiler(compiled, {"CXX": "/nowhere/g++"})


@pytest.mark.slow
def test_two_nodes_find_each_other_and_say_why_they_failed(site: Site, trained: Trained) -> None:
    """Node 1 comes first. Its rank is killed: node 1 says so and exits with 137, node 0 says that it lost a peer. Started
    again, they end as one process did.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    file = site.write(nodes=2)

    def begin(rank: int) -> Any:
        place = {"PET_NNODES": "2", "PET_NPROC_PER_NODE": "1", "PET_NODE_RANK": str(rank)}
        return start("launch", file, **place, PET_MASTER_ADDR="localhost", PET_MASTER_PORT=str(port))

    other, first = begin(1), begin(0)
    first.until("step")
    (rank,) = descendants(other.process.pid)
    os.kill(rank, signal.SIGKILL)
    assert other.ended() == 137
    assert other.errors[-1].startswith("rank 1: killed by SIGKILL")
    assert first.ended() == 75
    assert first.errors[-1].startswith(f"rank 0: {PEER_LEFT}")

    other, first = begin(1), begin(0)
    assert first.result["final_loss"] == pytest.approx(trained.facts["final_loss"], rel=1e-6)
    assert other.ended() == 0


@pytest.mark.slow
def test_a_node_that_waits_for_another_ends_when_it_is_asked_to(site: Site) -> None:
    """It has nothing to save; torchrun would not hear of it before the other node has come."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    place = {"PET_NNODES": "2", "PET_NPROC_PER_NODE": "1", "PET_NODE_RANK": "0"}
    node = start("launch", site.write(nodes=2), **place, PET_MASTER_ADDR="localhost", PET_MASTER_PORT=str(port))
    wait_for_name(Node(2, 1, 1, "localhost", port), 120)
    time.sleep(3)  # from listening to waiting
    assert not descendants(node.process.pid)
    begun = time.monotonic()
    assert node.stop() == 143
    assert time.monotonic() - begun < 20


@pytest.mark.slow
def test_a_process_that_hangs_is_noticed(site: Site) -> None:
    probe = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    probe += [str(Path(__file__).with_name("hang_probe.py")), str(site.write(processesPerNode=2))]
    done = subprocess.run(probe, capture_output=True, text=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"})
    (waited,) = (line for line in done.stdout.splitlines() if line.startswith("WAITED"))
    assert 3 < float(waited.split()[1]) < 20
    assert "at step 2" in waited
