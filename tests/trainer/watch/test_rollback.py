"""Back to an earlier checkpoint after a spike: which, without which samples, and for every start that follows."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pretrain_stage.errors import UserError
from pretrain_stage.storage import Storage, open_folder
from pretrain_trainer import checkpoint, commit_log
from pretrain_trainer.checkpoint import CheckpointManifest
from pretrain_trainer.commit_log import Attempt
from pretrain_trainer.watch.rollback import MOST_ROLLBACKS, RolledBack, losses_before, past, roll_back

from tests.trainer.conftest import Site
from tests.trainer.jobs import SAMPLES, STEPS, samples_taken, start
from tests.trainer.watch.faults import start_faulty

GROUP: Any = SimpleNamespace(from_first=lambda decide: decide())


def plan(checkpoints: int = 1) -> Any:
    spike = SimpleNamespace(rollback_checkpoints=checkpoints)
    training = SimpleNamespace(faults=SimpleNamespace(loss_spike=spike))
    return SimpleNamespace(job=SimpleNamespace(spec=SimpleNamespace(training=training)), batch=SimpleNamespace(samples=10))


def committed(storage: Storage, attempt: Attempt, *steps: int) -> None:
    """Checkpoints without files."""
    for step in steps:
        fields: dict[str, Any] = {
            "step": step,
            "attempt": attempt.number,
            "start": attempt.start,
            "world_size": 1,
            "seed": 0,
        }
        fields |= {
            "tokens": 0,
            "next_sample": 0,
            "zero_stage": 0,
            "identity": {},
            "measures": {},
            "segments": (),
            "files": (),
        }
        checkpoint.commit(storage, attempt, CheckpointManifest(**fields))


def test_what_stands_at_an_index_when_windows_are_left_out() -> None:
    assert [past([], index) for index in (0, 7)] == [0, 7]
    assert [past([(4, 5)], index) for index in (3, 4, 5)] == [3, 6, 7]
    assert [past([(8, 9), (2, 3)], index) for index in range(8)] == [0, 1, 4, 5, 6, 7, 10, 11], (
        "the second is found past the first"
    )
    assert past([(4, 5), (6, 7)], 4) == 8, "one right behind the other"


def test_what_every_start_afterwards_knows(tmp_path: Path) -> None:
    storage = open_folder(tmp_path)
    first = checkpoint.begin(storage, None)
    assert first.skipped == ()
    committed(storage, first, 2, 4, 6)
    back = roll_back(storage, plan(), GROUP, first, (6, 7))
    assert isinstance(back, RolledBack)
    assert (back.exit_code, str(back)) == (
        75,
        "the loss spiked from step 6 to 7: training goes back to checkpoints/step-00000004-attempt-1 and leaves out samples 40 to 69; "
        "start again to go on",
    )
    with pytest.raises(commit_log.Superseded):
        committed(storage, first, 8)

    second = checkpoint.begin(storage, None)
    assert second.skipped == ((40, 69),)
    assert checkpoint.committed_steps(storage) == [4, 2], "that of the spike counts no more"
    third = checkpoint.begin(storage, None)
    assert third.skipped == second.skipped, "killed before it committed anything"
    committed(storage, third, 6)
    assert checkpoint.begin(storage, None).skipped == second.skipped

    fourth = checkpoint.begin(storage, None)
    assert isinstance(roll_back(storage, plan(2), GROUP, fourth, (8, 8)), RolledBack)
    fifth = checkpoint.begin(storage, None)
    assert fifth.skipped == ((40, 69), (70, 109)), "steps 5 to 8, of which step 5 begins behind the first window"
    assert past(fifth.skipped, 40) == 110
    assert checkpoint.committed_steps(storage) == [4, 2]


def test_the_oldest_is_far_enough_back_if_there_are_few(tmp_path: Path) -> None:
    storage = open_folder(tmp_path)
    attempt = checkpoint.begin(storage, None)
    committed(storage, attempt, 2, 4)
    assert "goes back to checkpoints/step-00000002-attempt-1" in str(roll_back(storage, plan(9), GROUP, attempt, (6, 6)))


def test_without_a_checkpoint_there_is_no_way_back(tmp_path: Path) -> None:
    storage = open_folder(tmp_path)
    attempt = checkpoint.begin(storage, None)
    assert roll_back(storage, plan(), GROUP, attempt, (5, 5)) is None
    committed(storage, attempt, 5)
    assert roll_back(storage, plan(), GROUP, attempt, (5, 5)) is None, "that one has the spike in it"


def test_it_ends_somewhere(tmp_path: Path) -> None:
    storage = open_folder(tmp_path)
    committed(storage, checkpoint.begin(storage, None), 2)
    for _ in range(MOST_ROLLBACKS):
        assert roll_back(storage, plan(), GROUP, checkpoint.begin(storage, None), (5, 5)) is not None
    with pytest.raises(UserError, match=r"spiked at step 5 after 3 windows of samples had been left out; look at") as error:
        roll_back(storage, plan(), GROUP, checkpoint.begin(storage, None), (5, 5))
    assert error.value.exit_code == 65


def test_losses_of_the_steps_before_are_read_from_the_record(tmp_path: Path) -> None:
    storage = open_folder(tmp_path)
    assert losses_before(storage, 8) == []
    lines = [{"kind": "attempt", "step": 0}]
    lines += [{"kind": kind, "step": step, "loss": 10 - step} for step in range(10) for kind in ("step", "validation")]
    storage.write("reports/training.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode() + b'{"kind": "st')
    assert losses_before(storage, 0) == []
    assert losses_before(storage, 3) == [10, 9, 8, 7]


@pytest.mark.slow
def test_a_poisoned_run_goes_back_and_on_without_the_samples(site: Site) -> None:
    job = site.write(faults={"lossSpike": {"action": "rollback"}}, processesPerNode=2)
    run = start_faulty(job, processes=2, poisoned=[44, 45])
    run.ended()
    (warning,) = [said for said in run.of("warning") if "level" in said]
    assert warning["step"] == 44
    assert warning["loss"] > warning["level"] + 1
    assert "the loss spiked from step 44 to 45: training goes back to checkpoints/step-00000032-attempt-1" in run.errors[0]
    assert checkpoint.committed_steps(site.storage) == [32, 16]

    again = start("launch", job, "--record-samples", str(site.folder / "samples"))
    facts = again.result
    assert facts["steps"] == STEPS
    first, last = 32 * SAMPLES, 45 * SAMPLES - 1
    assert samples_taken(site.folder / "samples") == list(range(last + 1, last + 1 + 16 * SAMPLES))
    (newest, *_) = checkpoint.committed(site.storage)
    manifest = checkpoint.read_checkpoint(site.storage, newest)
    assert manifest.skipped == ((first, last),)
    assert manifest.next_sample == past(manifest.skipped, STEPS * SAMPLES)
