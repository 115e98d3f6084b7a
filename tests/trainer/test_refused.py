"""What ends a run with a sentence: in the checkpoints, in the numbers, in the machine."""

from __future__ import annotations

import io
import json
import re
import socket
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from pretrain_stage.config import Metadata, read_job
from pretrain_stage.errors import UserError
from pretrain_stage.events import Events
from pretrain_trainer import checkpoint, snapshot
from pretrain_trainer.account import Account
from pretrain_trainer.checkpoint import Folder
from pretrain_trainer.config.sections import TrainerSpec
from pretrain_trainer.listeners.prometheus import Beginning, Prometheus
from pretrain_trainer.plan import make_plan
from pretrain_trainer.ranks import Group, Place

from tests.trainer.conftest import Site, Trained
from tests.trainer.jobs import SAMPLES, SEQUENCE, Run, start

OTHERS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "seed": (
        {},
        {"seed": 7},
        "spec.training.seed: 7, but the checkpoint .*step-00000048-attempt-1 was trained with 42; set it back",
    ),
    "sequence": ({}, {"sequenceLength": 16}, "spec.training.sequenceLength: 16, but .* with 32"),
    "shape": ({"layers": 3}, {}, "spec.model.layers: 3, but .* with 2; set it back, give another storage.uri, or delete"),
    "precision": ({}, {"precision": "bf16"}, "spec.training.precision: bf16, but .* with fp32"),
    "ZeRO stage": (
        {},
        {"deepspeed": {"zeroStage": 3}},
        "spec.training.deepspeed.zeroStage: 3, but .* with 2, and DeepSpeed can convert between stages 1 and 2 alone; set it to 1 or 2",
    ),
    "fewer tokens": (
        {},
        {"tokens": 20 * SAMPLES * SEQUENCE},
        "spec.training.tokens: 5120 are 20 steps, but the checkpoint .*step-00000048-attempt-1 is further; raise tokens to at least 12288",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_checkpoint_of_another_training_is_refused(trained: Trained, tmp_path: Path, name: str) -> None:
    model, training, sentence = OTHERS[name]
    site = trained.site
    spec = site.job(**training)
    spec["spec"]["model"] |= model
    path = tmp_path / "job.json"
    path.write_text(json.dumps(spec))
    plan = make_plan(read_job(path, TrainerSpec), site.storage, 1)
    manifest = checkpoint.read_checkpoint(site.storage, Folder(48, 1))
    with pytest.raises(UserError, match=sentence):
        snapshot._refuse_others(site.storage, manifest, plan)


def resume(site: Site, scratch: Path, stream: io.StringIO, **training: Any) -> snapshot.Resume | None:
    """What the only process of a run finds to go on from; it speaks to `stream`."""
    scratch.mkdir(exist_ok=True)
    path = scratch / "job.json"
    path.write_text(json.dumps(site.job(**training)))
    plan = make_plan(read_job(path, TrainerSpec), site.storage, 1)
    alone = SimpleNamespace(
        place=Place(0, 1, 0, 1, 0), gather=lambda value: [value], from_first=lambda decide: decide(), wait=lambda: None
    )
    return snapshot.find_resume(site.storage, plan, cast(Group, alone), scratch, Events({}, stream))


def spoken(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_the_newest_checkpoint_that_verifies_is_taken(trained: Trained, tmp_path: Path) -> None:
    stream = io.StringIO()
    found = resume(trained.site, tmp_path, stream)
    assert found is not None
    assert (found.manifest.step, found.universal, spoken(stream)) == (48, False, [])
    assert {path.name for path in found.folder.iterdir()} == {file.name for file in found.manifest.files}


def test_without_checkpoints_training_begins(site: Site, tmp_path: Path) -> None:
    stream = io.StringIO()
    assert resume(site, tmp_path, stream) is None
    assert spoken(stream) == []


def test_an_unfinished_checkpoint_alone_is_a_beginning_too(trained: Trained, tmp_path: Path) -> None:
    site = trained.copy(tmp_path / "unfinished", steps=16)
    site.path("checkpoints/step-00000016-attempt-1/COMMITTED").unlink()
    stream = io.StringIO()
    assert resume(site, tmp_path, stream) is None
    (warning,) = spoken(stream)
    assert "checkpoints/step-00000016-attempt-1/COMMITTED: missing; this checkpoint was not finished" in warning["message"]


def test_others_are_refused_and_left_as_they_are(trained: Trained, tmp_path: Path) -> None:
    site = trained.copy(tmp_path / "other", steps=48)
    before = {path: path.read_bytes() for path in site.path("checkpoints").rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"spec.training.seed: 7, but the checkpoint"):
        resume(site, tmp_path, io.StringIO(), seed=7)
    assert before == {path: path.read_bytes() for path in site.path("checkpoints").rglob("*") if path.is_file()}


def test_if_no_checkpoint_verifies_it_does_not_begin_again_by_itself(trained: Trained, tmp_path: Path) -> None:
    site = trained.copy(tmp_path / "damaged", steps=32)
    for step in (16, 32):
        site.path(f"checkpoints/step-000000{step}-attempt-1/mp_rank_00_model_states.pt").write_bytes(b"")
    stream = io.StringIO()
    with pytest.raises(UserError, match="none of its 2 committed checkpoints verifies; restore one, or delete the folder"):
        resume(site, tmp_path, stream)
    assert [said["step"] for said in spoken(stream)] == [32, 16]


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_checkpoint(trained: Trained, tmp_path: Path) -> None:
    site = trained.copy(tmp_path / "diverged", steps=16)
    run = start("launch", site.write(optimizer={"learningRate": 10, "gradientClipping": 0, "beta2": 0.0, "eps": 1e-30}))
    code = run.ended()
    assert code == 65, run.events
    assert "so training cannot go on; checkpoints/step-00000016-attempt-1 is the last good checkpoint" in run.errors[-1]
    assert re.search(
        r"spec.training.optimizer.learningRate: [\d.]+ at step \d+: (loss|the gradient's norm) is (nan|inf)", run.errors[-1]
    )
    assert checkpoint.committed_steps(site.storage)[0] == 16


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_gpus_that_are_not_there_are_asked_for_in_vain(site: Site, trained: Trained) -> None:
    run = start("launch", site.write(gpusPerNode=2, nodes=1))
    assert run.ended() == 65
    assert "spec.training.gpusPerNode: 2, but this machine has 0 CUDA devices; set it to 0" in run.errors[-1]
    file = trained.site.folder / "gpu.json"
    file.write_text(json.dumps(trained.site.job(gpusPerNode=1)))
    evaluation = start("evaluate", file)
    assert evaluation.ended() == 65
    assert "spec.training.gpusPerNode: 1, but this machine has no CUDA device" in evaluation.errors[-1]


def test_a_busy_metrics_port_is_no_reason_to_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        monkeypatch.setenv("PRETRAIN_METRICS_PORT", str(port))
        Prometheus(Metadata(name="little"), Beginning(1, 1), Account(), Events({}, stream)).close()
    warning, said = (json.loads(line) for line in stream.getvalue().splitlines())
    assert f"metrics: port {port} cannot be used" in warning["message"]
    assert said["metrics_port"] != port


SMALL_STORAGE = """
mount -t tmpfs -o size=20m tmpfs {disk} && cp -r {prepared}/. {disk} && "$@"
mount -o remount,size=200m {disk} && "$@"; code=$?; cp -r {disk}/. {after}; exit $code
"""
SMALL_SCRATCH = """
mount -t tmpfs -o size=9m tmpfs {disk} && "$@"
"""


def may_mount() -> bool:
    """Whether this user may mount a file system in a namespace of its own."""
    probe = ["unshare", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    try:
        return subprocess.run(probe, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def on_small_disk(script: str, file: Path, disk: Path, **places: Path) -> Run:
    """Runs launch once or twice with a disk of its own, as `script` says. The disk is gone afterwards."""
    disk.mkdir()
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", script.format(disk=disk, **places), "sh"]
    return start("launch", file, command=command, **({} if places else {"TMPDIR": str(disk)}))


@pytest.mark.slow
@pytest.mark.skipif(not may_mount(), reason="may not mount a small disk")
def test_a_full_storage_commits_nothing_and_is_gone_on_from(site: Site, trained: Trained, tmp_path: Path) -> None:
    """The disk holds one checkpoint of 15 MB but not two; then it is made larger."""
    spec = site.job()
    spec["spec"]["storage"]["uri"] = str(tmp_path / "disk")
    file = site.folder / "job.json"
    file.write_text(json.dumps(spec))
    after = tmp_path / "after"
    after.mkdir()
    run = on_small_disk(SMALL_STORAGE, file, tmp_path / "disk", prepared=Path(site.storage.uri), after=after)
    assert run.ended() == 0
    (sentence,) = (message for message in run.errors if message.startswith("rank 0: "))
    assert "No space left" in sentence
    assert "free some space" in sentence
    assert [said["first_step"] for said in run.of("info") if "first_step" in said] == [1, 17]
    assert json.loads((after / "stages/train.json").read_text())["facts"]["final_loss"] == trained.facts["final_loss"]


@pytest.mark.slow
@pytest.mark.skipif(not may_mount(), reason="may not mount a small disk")
def test_a_full_local_disk_is_told_from_a_full_storage(site: Site, tmp_path: Path) -> None:
    run = on_small_disk(SMALL_SCRATCH, site.write(), tmp_path / "disk")
    assert run.ended() == 75
    assert re.match(
        r"rank 0: cannot write the checkpoint of step 48 to local disk /\S+ \(.+\); free some space there or set TMPDIR",
        run.errors[-1],
    )
    assert [said["tries_left"] for said in run.of("warning") if "tries_left" in said] == [2, 1], "steps 16 and 32"
    assert checkpoint.committed_steps(site.storage) == []
