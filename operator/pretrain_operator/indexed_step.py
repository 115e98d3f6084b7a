"""What to do about a stage that runs as an Indexed Job. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pretrain_stage.errors import EXIT_USER_ERROR

from pretrain_operator import reasons
from pretrain_operator.facts import Workload, of_stage
from pretrain_operator.observed import Action, Delete, Patch
from pretrain_operator.stages import Stage
from pretrain_operator.training_group import lost
from pretrain_operator.view import Step, View, create, delete, halted, hindered, in_queue, queued, stale

REPLACED_SECONDS = 20.0
"""Within which a Job replaces a pod that was deleted; it takes about ten."""


def indexed_step(view: View, stage: Stage) -> Step:
    made = view.workloads.get(stage.name)
    if made is None and view.halt is not None:
        return halted(view.halt)
    if made is None:
        return Step(actions=(create(view, stage),), reason=reasons.STARTING, message=f"stage {stage.name} is started")
    if made.deleted:
        return Step(reason=reasons.STARTING, message=f"stage {stage.name} begins again when its former pods have ended")
    if stale(view, stage, made):
        return Step(actions=(delete(made),), reason=reasons.STARTING, message=f"stage {stage.name} begins again: edited")
    if made.is_true("Failed") or made.is_true("FailureTarget"):
        return Step(failure=_why_failed(view, stage, made))
    if view.halt is not None:
        return replace(halted(view.halt), actions=_halt_indexed(view, made))
    if _forsaken(view, stage):
        # Kubernetes deletes the pods of a namespace first and waits for them; the Job keeps each until it can replace it,
        # which it cannot there. Without the Job they go, and elsewhere the stage begins again.
        gone = Delete(made.kind, made.name, made.uid, propagation="Background")
        return Step(actions=(gone,), reason=reasons.STARTING, message=f"stage {stage.name}: its pods were deleted")
    actions = _adjust(view, stage, made)
    if made.spec.get("suspend") and not actions:
        return Step(progressing=False, reason=reasons.QUEUED, message=queued(view, stage))
    return replace(_indexed_running(view, stage, made), actions=actions, again_seconds=_look_again(view, stage))


def _indexed_running(view: View, stage: Stage, made: Workload) -> Step:
    """What hinders a stage that runs, if anything does. Its other tasks go on meanwhile."""
    pods = of_stage(view.pods, stage.name)
    for one in pods:
        if one.hindrance is not None and one.phase == "Pending":
            message = f"stage {stage.name}, task {one.index}: {hindered(view, one)}"
            return Step(progressing=False, reason=one.hindrance.kind, message=message)
    for one in pods:
        if lost(one, view.now):
            message = (
                f"stage {stage.name}, task {one.index}: node {one.node} does not answer; the task is run again when the node is "
                "back, is deleted, or is tainted node.kubernetes.io/out-of-service"
            )
            return Step(progressing=False, reason=reasons.NODE_LOST, message=message)
    failed = [one for one in pods if one.failed and one.disruption is None]
    if failed:
        last = max(failed, key=lambda one: one.ended or made.created)
        message = f"stage {stage.name} runs; task {last.index} has failed and is tried again: {last.message}"
        return Step(message=message)
    trains = next((one.body for one in pods if one.address and one.phase == "Running"), None) if stage.processes else None
    return Step(message=f"stage {stage.name} runs", read_progress=trains)


def _forsaken(view: View, stage: Stage) -> bool:
    """Whether all pods of the stage were deleted by somebody, and not replaced since."""
    pods = [one for one in of_stage(view.pods, stage.name) if one.phase != "Succeeded"]
    ends = [min(one.deleted, one.ended or one.deleted) for one in pods if one.deleted is not None and one.over]
    if not ends or any(one.deleted is None or one.disruption is not None for one in pods):
        return False
    return all((view.now - end).total_seconds() > REPLACED_SECONDS for end in ends)


def _look_again(view: View, stage: Stage) -> float | None:
    """When to see whether deleted pods were replaced."""
    deleted = any(one.deleted is not None and one.over for one in of_stage(view.pods, stage.name))
    return REPLACED_SECONDS if deleted else None


def _why_failed(view: View, stage: Stage, made: Workload) -> tuple[str, str]:
    """Reason and message of a failed stage: the words of the pod that made the Job fail."""
    failed = [one for one in of_stage(view.pods, stage.name) if one.failed and one.disruption is None]
    mistakes = [one for one in failed if one.exit_code == EXIT_USER_ERROR]
    said = mistakes or failed
    if not said:
        condition = made.message_of("Failed") or made.message_of("FailureTarget")
        return reasons.STAGE_FAILED, f"stage {stage.name}: {condition}"
    first = min(said, key=lambda one: (one.ended or made.created, one.index))
    reason = reasons.USER_ERROR if mistakes else reasons.STAGE_FAILED
    task = f", task {first.index}" if stage.tasks > 1 else ""
    return reason, f"stage {stage.name}{task}: {first.message or f'ended with {first.exit_code}'}"


def _adjust(view: View, stage: Stage, made: Workload) -> tuple[Action, ...]:
    """Fields of a running Job that may change; `suspend` belongs to Kueue where there is a queue."""
    patch: dict[str, Any] = {}
    if made.spec.get("parallelism") != stage.parallelism:
        patch["parallelism"] = stage.parallelism
    if made.spec.get("suspend") and not in_queue(made):
        patch["suspend"] = False
    return (Patch("Job", made.name, made.uid, {"spec": patch}),) if patch else ()


def _halt_indexed(view: View, made: Workload) -> tuple[Action, ...]:
    if in_queue(made):
        return (delete(made),)
    return () if made.spec.get("suspend") else (Patch("Job", made.name, made.uid, {"spec": {"suspend": True}}),)
