"""Checkpoints that are made while training goes on."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from pretrain_stage.config import Storage as StorageSection
from pretrain_stage.storage import Storage, open_folder, open_storage
from pretrain_trainer import checkpoint

from tests.faults.proxy import FaultyProxy
from tests.faults.schedule import Moment, Weather
from tests.seaweedfs import SeaweedFS
from tests.trainer.conftest import Site, Trained
from tests.trainer.jobs import SAMPLES, SEQUENCE, Run, descendants, job, probed, start, write_job
from tests.trainer.proxy import HoldingProxy
from tests.trainer.saver_probe import SAVED, STEPS

ZERO_0, ZERO_3 = {"deepspeed": {"zeroStage": 0}}, {"deepspeed": {"zeroStage": 3}}
BF16 = {"precision": "bf16"}
CASES: dict[str, dict[str, Any]] = {
    "fp32": ZERO_0,
    "bf16": ZERO_0 | BF16,
    "fp32 ZeRO 1": {"deepspeed": {"zeroStage": 1}},
    "bf16 ZeRO 2": BF16,
    "fp32 ZeRO 3": ZERO_3,
    "bf16 ZeRO 3": ZERO_3 | BF16,
    "muon": ZERO_0 | {"optimizer": {"name": "muon", "learningRate": 3e-3}},
}
"""Fields of spec.training: each is another way of DeepSpeed's to keep its state."""


@pytest.fixture(scope="module")
def said_of_cases(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, Any]]]:
    """What the probe says of each case, on two processes; and the folder with the cases' folders."""
    folder = tmp_path_factory.mktemp("saver")
    files = []
    for number, (name, training) in enumerate(CASES.items()):
        own = folder / f"case-{number}"
        own.mkdir()
        shutil.copytree(prepared, own / "storage")
        spec = Site(own, open_folder(own / "storage")).job(**{"tokens": STEPS * SAMPLES * SEQUENCE, **training})
        files.append(write_job(own, spec).rename(own / f"{name}.json"))
    return folder, probed("tests.trainer.saver_probe", folder, files, 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_state_of_its_step_is_saved_while_the_next_is_computed(
    said_of_cases: tuple[Path, dict[str, dict[str, Any]]], name: str
) -> None:
    """File by file what DeepSpeed saves itself; and a run that goes on from it computes the same, to the last bit."""
    folder, said = said_of_cases[0] / f"case-{list(CASES).index(name)}", said_of_cases[1][name]
    theirs = sorted((folder / f"{name}-deepspeed" / "files").glob("*.pt"))
    (ours,) = (folder / "storage" / "checkpoints").glob(f"step-{SAVED:08d}-*")
    assert theirs
    for file in theirs:
        left, right = (torch.load(path, weights_only=False) for path in (ours / file.name, file))
        assert differences(left, right) == []
        assert abs((ours / file.name).stat().st_size - file.stat().st_size) < 20_000, "no storage is written twice"
    assert said["resumed"] == said["losses"][SAVED:]
    assert said["held"], "the update of the next step had come before the copy was made"


def losses(facts: dict[str, Any]) -> tuple[float, float]:
    """What must be the same to the last bit."""
    return facts["final_loss"], facts["validation_loss"]


@pytest.fixture
def stored(trained: Trained, seaweedfs: SeaweedFS, s3_uri: str) -> Storage:
    """Tokenizer and tokens of the trained job, on S3."""
    storage = open_storage(StorageSection(uri=s3_uri, endpointURL=seaweedfs.endpoint))
    for path in sorted(Path(trained.site.storage.uri).rglob("*")):
        name = path.relative_to(trained.site.storage.uri).as_posix()
        if path.is_file() and not name.startswith(("checkpoints/", "reports/", "stages/train")):
            storage.upload(path, name)
    return storage


def write(folder: Path, storage: Storage, endpoint: str, **training: Any) -> Path:
    spec: dict[str, Any] = job(storage.uri, **training)
    spec["spec"]["storage"]["endpointURL"] = endpoint
    return write_job(folder, spec)


@pytest.mark.slow
def test_training_waits_for_slow_storage_and_sigterm_for_the_commit(
    tmp_path: Path, trained: Trained, seaweedfs: SeaweedFS, stored: Storage
) -> None:
    """Each request takes longer than four steps do. SIGTERM comes while a checkpoint is on its way, and one more follows it."""
    every = {"checkpoints": {"everySteps": 4, "keepLast": 3}}
    with FaultyProxy(seaweedfs.endpoint) as proxy:
        run = start("launch", write(tmp_path, stored, proxy.endpoint, **every))
        run.until("step", step=1)
        proxy.begin(Weather(Moment(1, "step", 0.0), seconds=600.0, latency=1.0))
        waited = run.until("warning", step=8)["waited_seconds"]
        assert waited > 0.5
        assert checkpoint.committed_steps(stored) == [4], "one at a time"
        assert run.stop() == 143
    said = run.of("checkpoint")
    assert [one["step"] for one in said[:2]] == [4, 8]
    assert said[0]["seconds"] < 0.5 < said[0]["commit_seconds"], "it was made behind the steps"
    assert said[1]["seconds"] >= waited, "which is time that training stood still"
    newest = checkpoint.committed_steps(stored)[0]
    assert newest == said[-1]["step"] >= 8
    done = start("launch", write(tmp_path, stored, seaweedfs.endpoint))
    assert losses(done.result) == losses(trained.facts)
    assert next(one for one in done.of("info") if "first_step" in one)["first_step"] == newest + 1


@pytest.mark.slow
def test_a_checkpoint_that_fails_does_not_end_training_but_three_do(site: Site, trained: Trained) -> None:
    """There is a file where the checkpoint's folder should be."""
    checkpoints = site.path("checkpoints")
    checkpoints.mkdir()
    blocked = [checkpoints / f"step-{step:08d}-attempt-1" for step in (16, 32)]
    for path in blocked:
        path.touch()
    run = start("launch", site.write())
    assert losses(run.result) == losses(trained.facts)
    assert checkpoint.committed_steps(site.storage) == [48]
    warnings = [one for one in run.of("warning") if "tries_left" in one]
    assert [(one["step"], one["tries_left"]) for one in warnings] == [(16, 2), (32, 1)]
    assert "step-00000016-attempt-1" in warnings[0]["message"]

    shutil.rmtree(checkpoints)
    shutil.rmtree(site.path("stages/train"))
    site.path("stages/train.json").unlink()
    checkpoints.mkdir()
    for path in (*blocked, checkpoints / "step-00000048-attempt-1"):
        path.touch()
    run = start("launch", site.write())
    assert run.ended() == 75
    assert run.errors[-1].startswith("rank 0: storage: cannot write")
    assert "step-00000048-attempt-1" in run.errors[-1]
    assert checkpoint.committed_steps(site.storage) == []


@pytest.mark.slow
def test_a_process_that_dies_while_the_others_wait_for_its_files_ends_all(
    tmp_path: Path, seaweedfs: SeaweedFS, stored: Storage
) -> None:
    """Process 1 is killed in its upload. Process 0 has uploaded, and waits for it behind the steps."""
    with HoldingProxy(seaweedfs.endpoint) as proxy:
        proxy.hold = b"zero_pp_rank_1_mp_rank_00_optim_states.pt"
        every = {"checkpoints": {"everySteps": 2, "keepLast": 3}}
        run = start("launch", write(tmp_path, stored, proxy.endpoint, processesPerNode=2, **every))
        assert proxy.held.wait(400), run.errors
        while not any(
            entry.path.endswith("zero_pp_rank_0_mp_rank_00_optim_states.pt") for entry in stored.entries("checkpoints")
        ):
            time.sleep(0.1)
        began = time.monotonic()
        os.kill(rank(run, 1), signal.SIGKILL)
        assert run.ended() == 137
        assert time.monotonic() - began < 40, "torchrun gives the others 30 s"
    assert "rank 1: killed by SIGKILL" in run.errors[-1]
    assert checkpoint.committed_steps(stored) == []


def rank(run: Run, number: int) -> int:
    """The process of that rank."""
    for pid in descendants(run.process.pid):
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        if f"RANK={number}".encode() in variables:
            return pid
    raise AssertionError(f"no rank {number}")


def differences(left: Any, right: Any, where: str = "") -> list[str]:
    """Where two nested states differ. Tensors must agree in every bit, and in their type."""
    if type(left) is not type(right):
        return [f"{where}: {type(left)}, {type(right)}"]
    if isinstance(left, torch.Tensor):
        same = (left.dtype, left.shape, left.requires_grad) == (right.dtype, right.shape, right.requires_grad)
        return [] if same and torch.equal(left, right) else [where]
    if isinstance(left, dict):
        if list(left) != list(right):
            return [f"{where}: {list(left)}, {list(right)}"]
        return [found for key in left for found in differences(left[key], right[key], f"{where}.{key}")]
    if isinstance(left, (list, tuple)):
        if len(left) != len(right):
            return [f"{where}: {len(left)}, {len(right)}"]
        pairs = enumerate(zip(left, right, strict=True))
        return [found for number, (ours, theirs) in pairs for found in differences(ours, theirs, f"{where}[{number}]")]
    if hasattr(left, "__dict__") and not isinstance(left, type):
        return differences(vars(left), vars(right), where)
    return [] if left == right else [where]
