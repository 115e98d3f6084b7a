"""Jobs on which no work is done: of another controller, refused, or finished. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta

from pretrain_operator import reasons
from pretrain_operator.api import GROUP
from pretrain_operator.conditions import Finding, conditions, moment
from pretrain_operator.facts import pod, workload
from pretrain_operator.observed import Action, Body, Delete, Observed, Plan
from pretrain_operator.status import PretrainJobStatus
from pretrain_operator.tell import UNFINISHED, faulty, has, urgent, written
from pretrain_operator.view import delete

CONTROLLER = f"{GROUP}/pretrain-operator"
"""What spec.managedBy may say to mean this operator."""
RIVAL_SECONDS = 30.0
"""How often a job looks whether its storage has become free."""


def not_ours(body: Body) -> bool:
    manager = (body.get("spec") or {}).get("managedBy")
    return body["metadata"].get("deletionTimestamp") is not None or manager not in (None, CONTROLLER)


def in_use(body: Body, rival: Body) -> str:
    """Says who holds the storage; of another namespace no more than that."""
    mine, other = body["metadata"], rival["metadata"]
    who = f"PretrainJob {other['name']}" if other["namespace"] == mine["namespace"] else "a PretrainJob of another namespace"
    uri = body["spec"]["storage"]["uri"]
    return f"spec.storage.uri: {uri} is in use by {who}, which is older; wait for it to finish, or choose another uri"


def refused(body: Body, before: PretrainJobStatus, observed: Observed, reason: str, message: str, now: datetime) -> Plan:
    """A job that cannot be worked on as it stands. Children that it already has are left as they are."""
    findings = [
        Finding("Accepted", False, reason, message),
        Finding("Progressing", False, reason, message) if observed.fault is None else faulty(observed),
        Finding("Suspended", False, reasons.NOT_SUSPENDED, "the job is not suspended"),
        Finding("Succeeded", False, reasons.NOT_FINISHED, UNFINISHED),
        Finding("Failed", False, reasons.NOT_FINISHED, UNFINISHED),
    ]
    generation = int(body["metadata"].get("generation") or 0)
    status = before.model_copy(
        update={
            "observed_generation": generation,
            "phase": before.phase or "Pending",
            "conditions": conditions(before.conditions, findings, generation, now),
        }
    )
    again = RIVAL_SECONDS if reason == reasons.STORAGE_IN_USE else None
    return Plan(status=written(status), urgent=urgent(before, status), again_seconds=again)


def after_the_end(body: Body, before: PretrainJobStatus, observed: Observed, now: datetime) -> Plan:
    """A finished job stays as it is: what still runs is taken away, and the job itself when its time is over."""
    spec, metadata = body.get("spec") or {}, body["metadata"]
    ttl, finished = spec.get("ttlSecondsAfterFinished"), moment(before.completion_time)
    left = None
    if ttl is not None and finished is not None:
        left = (finished + timedelta(seconds=ttl) - now).total_seconds()
        if left <= 0:
            return Plan(actions=(Delete("PretrainJob", metadata["name"], metadata["uid"], propagation="Background"),))
    leftovers = _still_running(observed) if has(before, "Failed") else ()
    generation = int(metadata.get("generation") or 0)
    if before.observed_generation == generation:
        return Plan(actions=leftovers, status=written(before), again_seconds=left)
    status = before.model_copy(update={"observed_generation": generation})
    return Plan(actions=leftovers, status=written(status), urgent=True, again_seconds=left)


def _still_running(observed: Observed) -> tuple[Action, ...]:
    """What of a failed job still holds resources. Pods that have ended stay, for their logs."""
    ended: set[str] = set()
    actions: list[Action] = []
    for made in map(workload, observed.workloads):
        if any(made.is_true(kind) for kind in ("Complete", "Succeeded", "Failed")):
            ended.add(made.stage)
        elif not made.deleted:
            actions.append(delete(made))
    idle = [one for one in map(pod, observed.pods) if one.stage in ended and not one.over and one.deleted is None]
    return (*actions, *(Delete("Pod", one.name, one.uid, propagation="Background") for one in idle))
