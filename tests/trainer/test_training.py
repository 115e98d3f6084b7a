"""Whole training runs: real torchrun, real DeepSpeed, one and two processes, killed and gone on with."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from pretrain_stage.manifest import read_manifest
from pretrain_stage.storage import Storage
from pretrain_trainer import checkpoint
from pretrain_trainer.checkpoint import CheckpointManifest

from tests.trainer.conftest import Site, Trained
from tests.trainer.jobs import SAMPLES, SEQUENCE, STEPS, samples_taken, start

pytestmark = pytest.mark.slow


def losses(result: dict[str, Any]) -> tuple[float, float]:
    """What must be the same to the last bit."""
    return result["final_loss"], result["validation_loss"]


def newest(storage: Storage) -> CheckpointManifest:
    return checkpoint.read_checkpoint(storage, checkpoint.committed(storage)[0])


def test_a_run_learns_and_leaves_what_it_should(trained: Trained) -> None:
    site, facts = trained.site, trained.facts
    assert facts["steps"] == STEPS
    assert facts["tokens"] == STEPS * SAMPLES * SEQUENCE
    assert facts["validation_loss"] < 5.2 < 6.1, "it starts at the logarithm of 448 rows"
    assert samples_taken(site.folder / "samples") == list(range(STEPS * SAMPLES))
    assert checkpoint.committed_steps(site.storage) == [48, 32, 16]
    manifest = read_manifest(site.storage, "train")
    assert manifest is not None
    assert {file.path.rpartition("/")[0] for file in manifest.outputs} == {"checkpoints/step-00000048-attempt-1"}
    assert manifest.place == "checkpoints/step-00000048-attempt-1"
    steps = [line for line in site.record() if line["kind"] == "step"]
    assert [line["step"] for line in steps] == list(range(1, STEPS + 1))
    assert steps[-1]["loss"] == facts["final_loss"]
    assert [line["step"] for line in site.record() if line["kind"] == "validation"] == [24, 48]
    assert [line["step"] for line in site.record() if line["kind"] == "checkpoint"] == [16, 32, 48]


def test_a_finished_training_is_not_run_again_on_other_machines_either(trained: Trained) -> None:
    other = trained.site.folder / "other.json"
    layout = {"processesPerNode": 2, "microBatchSize": 1, "deepspeed": {"zeroStage": 3}, "activationCheckpointing": True}
    other.write_text(json.dumps(trained.site.job(**layout)))
    for file in (trained.site.folder / "job.json", other):
        began = time.monotonic()
        run = start("launch", file)
        assert run.result["unchanged"] is True
        assert losses(run.result) == losses(trained.facts)
        assert len(run.events) == 1
        assert time.monotonic() - began < 4, "it must not import torch to see that"


def test_two_processes_take_over_from_one_and_hand_back(trained: Trained, tmp_path: Path) -> None:
    """ZeRO 2, converted twice; in between SIGTERM. Same samples, and the same loss but for the last bits: DeepSpeed adds up the
    gradient's norm by partitions, and clipping passes its rounding on.
    """
    site = trained.copy(tmp_path / "resized", steps=16)
    options = ("--record-samples", str(site.folder / "samples"))
    two = start("launch", site.write(processesPerNode=2), *options)
    begin = two.until("info", world_size=2)
    assert (begin["first_step"], begin["first_sample"]) == (17, 16 * SAMPLES)
    two.until("step", step=17)
    assert two.stop() == 143
    assert two.of("checkpoint"), "it saved before it left"
    stopped_at = checkpoint.committed_steps(site.storage)[0]
    assert 17 <= stopped_at < STEPS
    one = start("launch", site.write(), *options)
    assert losses(one.result) == pytest.approx(losses(trained.facts), rel=1e-6)
    assert samples_taken(site.folder / "samples") == list(range(STEPS * SAMPLES))
    segments = newest(site.storage).segments
    assert [(segment.first_step, segment.world_size) for segment in segments] == [(0, 1), (16, 2), (stopped_at, 1)]
    assert [line["step"] for line in site.record() if line["kind"] == "step"] == list(range(1, STEPS + 1))


def test_zero_3_may_change_its_processes_too(site: Site, trained_by_two: Trained) -> None:
    """1, 2 and 1 processes, with recomputed activations: the loss of 2 processes without, to the last bit."""
    options = ("--record-samples", str(site.folder / "samples"))
    settings: dict[str, Any] = {"deepspeed": {"zeroStage": 3}, "activationCheckpointing": True}
    for processes in (1, 2):
        run = start("launch", site.write(processesPerNode=processes, **settings), *options)
        run.until("step")
        assert run.stop() == 143
    assert losses(start("launch", site.write(**settings), *options).result) == losses(trained_by_two.facts)
    for folder in (site.folder, trained_by_two.site.folder):
        assert samples_taken(folder / "samples") == list(range(STEPS * SAMPLES))


def test_damaged_checkpoints_are_passed_over_and_named(trained: Trained, tmp_path: Path) -> None:
    """A flipped bit in the newest, a missing file in the one before, an unfinished one on top: it goes on from the third."""
    site = trained.copy(tmp_path / "damaged", steps=STEPS)
    shutil.rmtree(site.path("stages/train"))
    site.path("stages/train.json").unlink()
    flipped = site.path("checkpoints/step-00000048-attempt-1/zero_pp_rank_0_mp_rank_00_optim_states.pt")
    data = bytearray(flipped.read_bytes())
    data[len(data) // 2] ^= 1
    flipped.write_bytes(data)
    site.path("checkpoints/step-00000032-attempt-1/mp_rank_00_model_states.pt").unlink()
    site.path("checkpoints/step-00000064-attempt-1").mkdir()
    site.path("checkpoints/step-00000064-attempt-1/mp_rank_00_model_states.pt").write_bytes(b"half of")
    run = start("launch", site.write())
    assert losses(run.result) == losses(trained.facts)
    warnings = [said["message"] for said in run.of("warning")]
    assert len(warnings) == 3
    assert "step-00000064-attempt-1/COMMITTED: missing" in warnings[0]
    assert "step-00000048-attempt-1/zero_pp_rank_0_mp_rank_00_optim_states.pt: SHA-256" in warnings[1]
    assert "step-00000032-attempt-1/mp_rank_00_model_states.pt: missing" in warnings[2]
    assert next(said for said in run.of("info") if "first_step" in said)["first_step"] == 17
    assert checkpoint.committed_steps(site.storage) == [48, 32, 16]
    assert [str(place) for place in checkpoint.folders(site.storage)] == [
        "checkpoints/step-00000048-attempt-2", "checkpoints/step-00000032-attempt-2", "checkpoints/step-00000016-attempt-1",
    ]  # fmt: skip
    for place in checkpoint.folders(site.storage):
        manifest = checkpoint.read_checkpoint(site.storage, place)
        checkpoint.fetch_files(site.storage, manifest, manifest.files, tmp_path / str(place))
    parent = newest(site.storage).parent
    assert parent is not None
    assert parent.folder == "checkpoints/step-00000016-attempt-1"


def test_more_tokens_go_on_where_the_last_run_ended(trained: Trained, tmp_path: Path) -> None:
    site = trained.copy(tmp_path / "longer", steps=STEPS)
    run = start("launch", site.write(tokens=(STEPS + 8) * SAMPLES * SEQUENCE))
    assert run.result["steps"] == STEPS + 8
    assert next(said for said in run.of("info") if "first_step" in said)["first_step"] == STEPS + 1
    segments = newest(site.storage).segments
    assert [segment.first_step for segment in segments] == [0, STEPS]
    assert segments[1].settings["tokens"] == (STEPS + 8) * SAMPLES * SEQUENCE


def test_a_run_that_was_killed_after_its_last_checkpoint_takes_no_step(trained: Trained, tmp_path: Path) -> None:
    site = trained.copy(tmp_path / "late", steps=STEPS)
    shutil.rmtree(site.path("stages/train"))
    site.path("stages/train.json").unlink()
    run = start("launch", site.write())
    assert losses(run.result) == losses(trained.facts)
    assert not run.of("step")
    before, after = (read_manifest(where.storage, "train") for where in (trained.site, site))
    assert before is not None
    assert after is not None
    assert before.digest == after.digest, "the same lineage, so nothing that follows need run again"
