"""What is said of a job: the status that a step comes to. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from pretrain_operator import reasons
from pretrain_operator.conditions import Finding, conditions, timestamp
from pretrain_operator.cost import seconds_left
from pretrain_operator.facts import of_stage
from pretrain_operator.ledger import account
from pretrain_operator.observed import Observed, Plan
from pretrain_operator.stage_status import progress_text, stage_status, training_progress
from pretrain_operator.stages import TRAINING, Stage
from pretrain_operator.status import Phase, PretrainJobStatus, Restart
from pretrain_operator.view import Step, View, ledger_scene

REMEMBERED_RESTARTS = 20
UNFINISHED = "the job is not finished"


def told(view: View, step: Step, done: list[Stage], current: Stage) -> Plan:
    """The plan that a step of the current stage comes to, with the status that tells of it."""
    before, names = view.before, {stage.name for stage in done}
    succeeded = len(done) == len(view.stages) and step.failure is None
    told = [
        stage_status(
            stage,
            view.earlier(stage),
            view.workloads.get(stage.name),
            of_stage(view.pods, stage.name),
            done=stage.name in names,
            failed=step.failure is not None and stage is current,
        )
        for stage in view.stages
    ]
    attempt = view.attempt + (1 if step.ended is not None else 0)
    training = training_progress(
        view.job,
        before.training,
        view.observed.progress,
        of_stage(view.pods, TRAINING),
        attempt,
        ended=step.ended,
        done=TRAINING in names,
    )
    ended = [*before.restarts, *([step.ended] if step.ended is not None else [])][-REMEMBERED_RESTARTS:]
    finished = succeeded or step.failure is not None
    status = PretrainJobStatus(
        observedGeneration=view.generation,
        phase=_phase(view, current, step, succeeded=succeeded),
        stage=current.name,
        progress=progress_text(
            next(one for one in told if one.name == current.name),
            training,
            view.observed.progress,
            of_stage(view.pods, current.name),
        ),
        startTime=before.start_time or min((one.start_time for one in told if one.start_time is not None), default=None),
        completionTime=timestamp(view.now) if finished else None,
        conditions=conditions(before.conditions, _findings(view, step, succeeded=succeeded), view.generation, view.now),
        stages=told,
        training=training,
        restartCount=before.restart_count + (step.ended is not None and step.ended.reason == "Infrastructure"),
        restarts=ended,
        restartsByReason=_counted(before, step.ended),
    )
    waits = [
        step.again_seconds,
        (view.deadline - view.now).total_seconds() if view.deadline is not None else None,
        seconds_left(view.job, view.cost, view.pods, view.gpus) if view.halt is None else None,
    ]
    return Plan(
        actions=step.actions,
        status=written(_with_accounts(view, status)),
        urgent=urgent(before, status),
        again_seconds=min((wait for wait in waits if wait is not None), default=None),
        read_progress=step.read_progress,
    )


def _with_accounts(view: View, status: PretrainJobStatus) -> PretrainJobStatus:
    """The status with its accounts, brought up to date only if it says anything else that is new: time passes by itself.

    A fault changes nothing in them: what could not be written is tried again, and made from them (view.create).
    """
    before = view.before
    kept = {"goodput": before.goodput, "cost": before.cost}
    unchanged = status.model_copy(update=kept)
    if unchanged == before or view.observed.fault is not None:
        return unchanged
    goodput = account(before.goodput, ledger_scene(view, status), view.now)
    return status.model_copy(update={"goodput": goodput, "cost": view.cost})


def _counted(before: PretrainJobStatus, ended: Restart | None) -> Mapping[str, int] | None:
    """Ends of attempts by class. Of a status that an earlier operator wrote, those that it remembers."""
    if ended is None:
        return before.restarts_by_reason
    return Counter(before.restarts_by_reason or Counter(one.reason for one in before.restarts)) + Counter([ended.reason])


def _findings(view: View, step: Step, *, succeeded: bool) -> list[Finding]:
    """The five conditions, in the order of conditions.TYPES."""
    accepted = Finding("Accepted", True, reasons.VALID, "the job can work")
    unsuspended = Finding("Suspended", False, reasons.NOT_SUSPENDED, "the job is not suspended")
    if succeeded:
        return [
            accepted,
            Finding("Progressing", False, reasons.SUCCEEDED, "all stages are finished"),
            unsuspended,
            Finding("Succeeded", True, reasons.SUCCEEDED, _where(view)),
            Finding("Failed", False, reasons.SUCCEEDED, "the job has succeeded"),
        ]
    if step.failure is not None:
        reason, message = step.failure
        return [
            accepted,
            Finding("Progressing", False, reason, message),
            unsuspended,
            Finding("Succeeded", False, reason, "the job has failed"),
            Finding("Failed", True, reason, f"{message}{_how_on(reason)}"),
        ]
    going = Finding("Progressing", step.progressing, step.reason, step.message)
    return [
        accepted,
        going if view.observed.fault is None else faulty(view.observed),
        Finding("Suspended", True, view.halt.reason, view.halt.message) if view.halt is not None else unsuspended,
        Finding("Succeeded", False, reasons.NOT_FINISHED, UNFINISHED),
        Finding("Failed", False, reasons.NOT_FINISHED, UNFINISHED),
    ]


def faulty(observed: Observed) -> Finding:
    assert observed.fault is not None, "asked only where there is one"
    return Finding("Progressing", False, observed.fault.reason, observed.fault.message)


def _where(view: View) -> str:
    return f"the model is under {view.job.spec.storage.uri.rstrip('/')}/export/, the report under reports/"


def _how_on(reason: str) -> str:
    if reason == reasons.DEADLINE_EXCEEDED:
        return ""
    return "; when that is mended, delete this PretrainJob and apply it again: what is finished is kept and used"


def _phase(view: View, current: Stage, step: Step, *, succeeded: bool) -> Phase:
    if step.failure is not None:
        return "Failed"
    if succeeded:
        return "Succeeded"
    if view.halt is not None:
        return "Suspended"
    order = [stage.name for stage in view.stages]
    if current.name == TRAINING:
        return "Training"
    return "Preprocessing" if order.index(current.name) < order.index(TRAINING) else "Finishing"


def has(status: PretrainJobStatus, kind: str) -> bool:
    """Whether a condition of this type is true."""
    return any(condition.type == kind and condition.status == "True" for condition in status.conditions)


def urgent(before: PretrainJobStatus, after: PretrainJobStatus) -> bool:
    """Whether a change is one of state, not of progress."""
    return bool(_state(before) != _state(after))


def _state(status: PretrainJobStatus) -> Any:
    says = [(one.type, one.status, one.reason) for one in status.conditions if one.reason not in _COMING_AND_GOING]
    attempt = status.training.attempt if status.training is not None else 1
    return status.observed_generation, sorted(says), attempt


_COMING_AND_GOING = (reasons.STARTING, reasons.STAGE_RUNNING)
"""Reasons that change with every stage: news, but none that cannot wait a few seconds."""


def written(status: PretrainJobStatus) -> dict[str, Any]:
    return status.model_dump(mode="json", exclude_none=True, exclude_defaults=False)
