"""Which listeners a run has."""

from __future__ import annotations

from pathlib import Path

from pretrain_stage.events import Events
from pretrain_stage.storage import Storage

from pretrain_trainer.account import Account
from pretrain_trainer.listeners.listener import Listener
from pretrain_trainer.listeners.prometheus import Beginning, Prometheus
from pretrain_trainer.listeners.record import Record
from pretrain_trainer.listeners.spoken import SpokenEvents
from pretrain_trainer.listeners.tracking import trackers
from pretrain_trainer.peak import full_speed
from pretrain_trainer.plan import RunPlan
from pretrain_trainer.ranks import Group
from pretrain_trainer.snapshot import Resume


def listeners_of(
    storage: Storage, plan: RunPlan, group: Group, scratch: Path, resume: Resume | None, account: Account, events: Events
) -> list[Listener]:
    """Those that are told what a run measures, which begins or goes on from `resume`; process 0 alone has any."""
    if not group.place.first:
        return []
    done = resume.manifest.step if resume else 0
    beginning = Beginning(
        steps=plan.batch.steps,
        checkpoint_steps=plan.job.spec.training.checkpoints.every_steps,
        done=done,
        done_tokens=done * plan.batch.tokens,
        checkpoint_bytes=resume.manifest.size if resume else 0,
        verified={"ok": 1, "corrupt": len(resume.refused)} if resume else {},
        full_speed=full_speed(plan, group.device),
    )
    return [
        # First, so that what an event says is served already.
        Prometheus(plan.job.metadata, beginning, account, events),
        SpokenEvents(events, plan.batch.steps, done, account),
        Record(storage, scratch, done, account),
        *trackers(storage, plan, scratch, done, events),
    ]
