"""What to do about the training group: start it, watch it, end it as a whole, start it again. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from pretrain_operator import reasons
from pretrain_operator.conditions import shortened, timestamp
from pretrain_operator.facts import Pod, Workload, of_stage
from pretrain_operator.observed import Action, Delete
from pretrain_operator.stages import Stage
from pretrain_operator.status import Restart
from pretrain_operator.training_group import (
    DELETED_BY_NAME_SECONDS,
    HURRIED_GRACE_SECONDS,
    Verdict,
    Wait,
    forced,
    hurried,
    lost,
    not_before,
    verdict,
)
from pretrain_operator.view import Step, View, create, delete, halted, hindered, queued, stale

LONGEST_RESTART_MESSAGE = 1_000


def training_step(view: View, stage: Stage) -> Step:
    group, pods = view.workloads.get(stage.name), of_stage(view.pods, stage.name)
    if group is None or group.attempt != view.attempt or group.deleted:
        return _between_attempts(view, stage, group, pods)
    if view.halt is not None:
        return replace(halted(view.halt), ended=_ended(view, "Suspended", view.halt.cause))
    if stale(view, stage, group):
        return Step(ended=_ended(view, "Edited", "spec was edited"), message="training goes on with the edited spec")
    if view.backend.suspended(group.body):
        return Step(progressing=False, reason=reasons.QUEUED, message=queued(view, stage))
    mine = [one for one in pods if one.attempt == view.attempt]
    found = verdict(
        mine,
        stage.tasks,
        group_failed=view.backend.failure(group.body),
        now=view.now,
        patience=view.settings.unschedulable_seconds,
    )
    if isinstance(found, Verdict):
        return _after(view, found)
    return _training_running(view, mine, found)


def _between_attempts(view: View, stage: Stage, group: Workload | None, pods: list[Pod]) -> Step:
    """No attempt begins before every pod of the one before is gone: two groups would write the same checkpoints."""
    actions = (*_forced(view, pods), *_hurried(view, pods))
    again = DELETED_BY_NAME_SECONDS if any(lost(one, view.now) for one in pods) else 10.0
    waiting = Step(reason=reasons.RESTARTING, message=_restarting(view), again_seconds=again)
    if group is not None:
        # Pods first: a kubelet that was given a pod's whole grace period does not shorten it any more.
        removed = () if group.deleted else (delete(group),)
        return _halted_or(view, replace(waiting, actions=(*actions, *removed)))
    if pods:
        return _halted_or(view, replace(waiting, actions=actions))
    if view.halt is not None:
        return halted(view.halt)
    begin = not_before(view.before.restarts)
    if begin is not None and view.now < begin:
        message = f"{_restarting(view)}; the next one begins at {timestamp(begin)}"
        left = (begin - view.now).total_seconds()
        return Step(progressing=False, reason=reasons.RESTARTING, message=message, again_seconds=left)
    message = f"training is started, attempt {view.attempt}"
    return Step(actions=(create(view, stage),), reason=reasons.STARTING, message=message)


def _forced(view: View, pods: list[Pod]) -> tuple[Action, ...]:
    """Removes pods of lost nodes, which nothing else would."""
    return tuple(Delete("Pod", one.name, one.uid, "Background", grace_seconds=0) for one in pods if forced(one, view.now))


def _hurried(view: View, pods: list[Pod]) -> tuple[Action, ...]:
    """Shortens the grace period of the others when a pod was lost, or never came: they wait for it and cannot save."""
    broken = bool(view.before.restarts) and view.before.restarts[-1].reason in ("Infrastructure", "Unschedulable")
    if not broken and not any(lost(one, view.now) for one in pods):
        return ()
    others = [one for one in pods if not lost(one, view.now) and hurried(one, view.now)]
    return tuple(Delete("Pod", one.name, one.uid, "Background", grace_seconds=HURRIED_GRACE_SECONDS) for one in others)


def _halted_or(view: View, step: Step) -> Step:
    """The step, but with a halted job's own words."""
    if view.halt is None:
        return step
    return replace(halted(view.halt), actions=step.actions, again_seconds=step.again_seconds)


def _after(view: View, found: Verdict) -> Step:
    """The attempt is over: the job fails with it, or another one follows."""
    if found.reason == "UserError":
        return Step(failure=(reasons.USER_ERROR, f"training: {found.message}"))
    budget = view.job.spec.training.max_restarts
    if found.reason == "Infrastructure" and view.before.restart_count >= budget:
        message = f"training: {found.message}; spec.training.maxRestarts: {budget} restarts are used up"
        return Step(failure=(reasons.RESTARTS_EXHAUSTED, message))
    unscheduled = found.reason == "Unschedulable"
    return Step(
        ended=_ended(view, found.reason, found.message),
        progressing=not unscheduled,
        reason=reasons.UNSCHEDULABLE if unscheduled else reasons.RESTARTING,
        message=f"attempt {view.attempt} ended: {found.message}",
    )


def _training_running(view: View, pods: list[Pod], found: Wait | None) -> Step:
    first = next((one for one in pods if one.index == 0 and one.address and one.phase == "Running"), None)
    again = found.seconds if found is not None else None
    for one in pods:
        if one.hindrance is not None and one.phase == "Pending":
            message = f"training, pod {one.index}: {hindered(view, one)}"
            return Step(progressing=False, reason=one.hindrance.kind, message=message, again_seconds=again)
    return Step(message="training runs", again_seconds=again, read_progress=first.body if first is not None else None)


def _ended(
    view: View, reason: Literal["Infrastructure", "Disruption", "Unschedulable", "Edited", "Suspended"], message: str
) -> Restart:
    training = view.before.training
    return Restart(
        attempt=view.attempt,
        time=timestamp(view.now),
        reason=reason,
        message=shortened(message, LONGEST_RESTART_MESSAGE),
        checkpointStep=training.checkpoint_step if training is not None else None,
        step=_furthest(view),
    )


def _furthest(view: View) -> int | None:
    """The highest step heard of in the attempt that ends; None if it was not heard."""
    training, group = view.before.training, view.before.goodput.group if view.before.goodput is not None else None
    heard, mine = view.observed.progress, {one.uid for one in view.pods if one.attempt == view.attempt}
    told = training.step if training is not None and group is not None and group.attempt == view.attempt else None
    last = heard.step if heard is not None and heard.pod in mine else None
    return max((step for step in (told, last) if step is not None), default=None)


def _restarting(view: View) -> str:
    if not view.before.restarts:
        return "training begins again: its workload was deleted"
    last = view.before.restarts[-1]
    return f"attempt {last.attempt} ended: {last.message}"
