"""Which Events a change of a job's status is worth: changes of state, never progress. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pretrain_operator import reasons
from pretrain_operator.observed import Body
from pretrain_operator.status import Condition, PretrainJobStatus
from pretrain_operator.view import read_status


@dataclass(frozen=True)
class Announcement:
    """An Event on a PretrainJob."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


def events(before: Body, after: Body) -> list[Announcement]:
    """The Events between two statuses of a job."""
    old, new = read_status({"status": before}), read_status({"status": after})
    return [
        *_accepted(old, new),
        *_stages(old, new),
        *_restarts(old, new),
        *_halts(old, new),
        *_hindrances(old, new),
        *_end(old, new),
    ]


def _accepted(old: PretrainJobStatus, new: PretrainJobStatus) -> Iterator[Announcement]:
    was, now = _condition(old, "Accepted"), _condition(new, "Accepted")
    if now is None or _same(was, now):
        return
    if now.status == "True":
        yield Announcement("Normal", reasons.ACCEPTED, f"{len(new.stages)} stages, from {new.stages[0].name}")
    else:
        yield Announcement("Warning", now.reason, now.message)


def _stages(old: PretrainJobStatus, new: PretrainJobStatus) -> Iterator[Announcement]:
    was = {stage.name: stage.state for stage in old.stages}
    for stage in new.stages:
        if stage.state == "Succeeded" and was.get(stage.name) != "Succeeded":
            yield Announcement("Normal", reasons.STAGE_SUCCEEDED, f"stage {stage.name}: {stage.succeeded}/{stage.tasks}")


def _restarts(old: PretrainJobStatus, new: PretrainJobStatus) -> Iterator[Announcement]:
    known = {restart.attempt for restart in old.restarts}
    for restart in new.restarts:
        if restart.attempt not in known and restart.reason != "Suspended":
            kind: Literal["Normal", "Warning"] = "Normal" if restart.reason == "Edited" else "Warning"
            message = f"attempt {restart.attempt} ended ({restart.reason}): {restart.message}"
            yield Announcement(kind, reasons.GROUP_RESTARTED, message)


def _halts(old: PretrainJobStatus, new: PretrainJobStatus) -> Iterator[Announcement]:
    was, now = _condition(old, "Suspended"), _condition(new, "Suspended")
    if now is None or _same(was, now) or (was is None and now.status == "False"):
        return
    if now.status == "True":
        yield Announcement("Normal", reasons.SUSPENDED, now.message)
    elif not _finished(new):
        yield Announcement("Normal", reasons.RESUMED, "the job goes on")


def _hindrances(old: PretrainJobStatus, new: PretrainJobStatus) -> Iterator[Announcement]:
    """What keeps a job from going on, and when that is over."""
    was, now = _condition(old, "Progressing"), _condition(new, "Progressing")
    if now is None or _finished(new):
        return
    before, after = _hindrance(was), _hindrance(now)
    if after is not None and after != before:
        yield Announcement("Warning", after, now.message)
    elif after is None and before is not None and now.status == "True" and now.reason != reasons.RESTARTING:
        yield Announcement("Normal", reasons.RECOVERED, now.message)


def _end(old: PretrainJobStatus, new: PretrainJobStatus) -> Iterator[Announcement]:
    for kind, level in (("Succeeded", "Normal"), ("Failed", "Warning")):
        was, now = _condition(old, kind), _condition(new, kind)
        if now is not None and now.status == "True" and not _same(was, now):
            yield Announcement("Normal" if level == "Normal" else "Warning", now.reason, now.message)
    if _finished(old) and old.observed_generation != new.observed_generation:
        message = "the job is finished, so an edit changes nothing but when it is deleted; create another PretrainJob"
        yield Announcement("Warning", reasons.ALREADY_FINISHED, message)


_EXPECTED = (reasons.SUSPENDED, reasons.RESTARTING, reasons.INVALID, reasons.STORAGE_IN_USE, reasons.QUEUED)
"""Reasons for not progressing that are announced otherwise, or are no trouble."""


def _hindrance(condition: Condition | None) -> str | None:
    if condition is None or condition.status == "True" or condition.reason in _EXPECTED:
        return None
    return condition.reason


def _finished(status: PretrainJobStatus) -> bool:
    return any(one.type in ("Succeeded", "Failed") and one.status == "True" for one in status.conditions)


def _condition(status: PretrainJobStatus, kind: str) -> Condition | None:
    return next((one for one in status.conditions if one.type == kind), None)


def _same(was: Condition | None, now: Condition) -> bool:
    return was is not None and was.status == now.status and (now.status == "True" or was.reason == now.reason)
