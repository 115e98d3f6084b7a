"""Back to an earlier checkpoint after a spike of the loss, without the samples that led there.

The decision is an entry of the commit log: what is newer than the checkpoint counts no more, and every attempt from then on leaves
the window of samples out, which its checkpoints record as `skipped`. So a run that is killed and goes on decides nothing anew.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection
from typing import TYPE_CHECKING

from pretrain_stage.errors import EXIT_TEMPORARY, UserError
from pretrain_stage.storage import Storage

from pretrain_trainer import checkpoint, commit_log
from pretrain_trainer.commit_log import Attempt
from pretrain_trainer.listeners.record import RECORD
from pretrain_trainer.watch.spikes import NEAR, WINDOW

if TYPE_CHECKING:
    from pretrain_trainer.plan import RunPlan
    from pretrain_trainer.ranks import Group

MOST_ROLLBACKS = 3

LOG = logging.getLogger(__name__)


class RolledBack(UserError):
    """The run ends, to go on from an earlier checkpoint at its next start."""

    exit_code = EXIT_TEMPORARY


def past(skipped: Collection[tuple[int, int]], index: int) -> int:
    """The sample that stands at an index when windows are left out, each by its first and last sample."""
    for first, last in sorted(skipped):
        if first <= index:
            index += last - first + 1
    return index


def losses_before(storage: Storage, step: int) -> list[float]:
    """The losses of the last steps up to `step`, as far as they are recorded: what the next ones are compared with."""
    record = (storage.read(RECORD) or b"") if step else b""
    losses = []
    for line in record.splitlines()[::-1]:
        try:
            said = json.loads(line)
        except ValueError:
            continue  # torn, which who writes the record drops
        if said["kind"] == "step" and said["step"] <= step:
            losses.append(float(said["loss"]))
        if len(losses) == WINDOW + NEAR:
            break
    return losses[::-1]


def roll_back(
    storage: Storage, plan: RunPlan, group: Group, attempt: Attempt, spike: tuple[int, int] | None
) -> RolledBack | None:
    """Decides, durably, to go on from before a spike; returns what the run ends with, or None if there is no checkpoint before it.

    spike: its first and last step. All processes call this. Raises UserError if the run has been rolled back too often already.
    """
    assert spike is not None, "there was one"
    first_step, last_step = spike
    faults, samples = plan.job.spec.training.faults, plan.batch.samples

    def decide() -> RolledBack | None:
        places = [place for place in checkpoint.committed(storage) if place.step < first_step]
        if not places:
            LOG.warning(
                "the loss spiked at step %d, but there is no checkpoint before it to go back to; going on", first_step
            )
            return None
        if len(attempt.skipped) >= MOST_ROLLBACKS:
            raise UserError(
                f"spec.training.faults.lossSpike.action: rollback, but the loss spiked at step {first_step} after {MOST_ROLLBACKS} windows "
                f"of samples had been left out; look at the data and the learning rate, or set it to alert. {places[0]} is the newest "
                "checkpoint before it"
            )
        place = places[min(faults.loss_spike.rollback_checkpoints, len(places)) - 1]
        window = past(attempt.skipped, place.step * samples), past(attempt.skipped, last_step * samples - 1)
        manifest = checkpoint.read_checkpoint(storage, place)
        sha256 = checkpoint.reference(storage, manifest).manifest_sha256
        commit_log.restore(storage, place.step, str(place), sha256, (window,), attempt)
        return RolledBack(
            f"the loss spiked from step {first_step} to {last_step}: training goes back to {place} and leaves out samples {window[0]} to "
            f"{window[1]}; start again to go on"
        )

    return group.from_first(decide)
