"""A job with all that is known about it, and the step that follows for one of its stages. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta

from pydantic import ValidationError

from pretrain_operator import reasons
from pretrain_operator.api import PretrainJob
from pretrain_operator.backends import BACKENDS, Backend
from pretrain_operator.children import child, cluster_site
from pretrain_operator.conditions import moment
from pretrain_operator.cost import exceeded, gpus_of, spent
from pretrain_operator.digest import changed, spec_digest
from pretrain_operator.facts import Pod, Workload, pod, workload
from pretrain_operator.ledger import Scene, account, scene
from pretrain_operator.metadata import QUEUE_LABEL
from pretrain_operator.observed import Action, Apply, Body, Delete, Observed, Settings
from pretrain_operator.stages import (
    FURTHEST_STEP_VARIABLE,
    LEDGER_VARIABLE,
    REPORT,
    TRAINING,
    Stage,
    stages,
    with_environment,
)
from pretrain_operator.status import PretrainJobStatus, Restart, Spent, StageStatus

HALTED = "spec.suspend is true; set it to false to continue where it stopped"


@dataclass(frozen=True)
class Halt:
    """Why a job may run nothing now, though it is not finished."""

    reason: str
    message: str
    cause: str
    """In the words of a restart."""


@dataclass(frozen=True)
class View:
    """A job with all that is known about it."""

    job: PretrainJob
    before: PretrainJobStatus
    generation: int
    observed: Observed
    settings: Settings
    now: datetime
    stages: tuple[Stage, ...]
    workloads: dict[str, Workload]
    """By stage."""
    pods: tuple[Pod, ...]
    deadline: datetime | None
    created: datetime
    gpus: dict[str, int]
    """GPUs that each pod of a stage holds, by stage."""
    cost: Spent | None
    """What the job has cost until now."""
    halt: Halt | None

    @property
    def backend(self) -> Backend:
        return BACKENDS[self.job.spec.training.backend]

    @property
    def attempt(self) -> int:
        """Which start of the training group there is, or will be next."""
        return self.before.training.attempt if self.before.training is not None else 1

    def earlier(self, stage: Stage) -> StageStatus | None:
        """What the status said of the stage."""
        return next((one for one in self.before.stages if one.name == stage.name), None)


@dataclass(frozen=True)
class Step:
    """What to do about the stage that is next, and what to say of it."""

    actions: tuple[Action, ...] = ()
    progressing: bool = True
    reason: str = reasons.STAGE_RUNNING
    message: str = ""
    failure: tuple[str, str] | None = None
    """Reason and message, if the job has failed with it."""
    ended: Restart | None = None
    """The attempt to train that is over; the next one follows."""
    again_seconds: float | None = None
    read_progress: Body | None = None


def view_of(
    job: PretrainJob, body: Body, before: PretrainJobStatus, observed: Observed, settings: Settings, now: datetime
) -> View:
    """All that is known about a job, in one piece."""
    deadline = None
    started = moment(before.start_time)
    if started is not None and job.spec.active_deadline_seconds is not None:
        deadline = started + timedelta(seconds=job.spec.active_deadline_seconds)
    created, pods = moment(body["metadata"].get("creationTimestamp")) or now, tuple(map(pod, observed.pods))
    price, gpus = job.spec.cost.price_per_gpu_hour, gpus_of(body["spec"])
    cost = spent(before.cost, created, pods, gpus, price, now)
    return View(
        job=job,
        before=before,
        generation=int(body["metadata"].get("generation") or 0),
        observed=observed,
        settings=settings,
        now=now,
        stages=tuple(stages(job, cluster_site(job, settings.images))),
        workloads={made.stage: made for made in map(workload, observed.workloads)},
        pods=pods,
        deadline=deadline,
        created=created,
        gpus=gpus,
        cost=cost,
        halt=_halt(job, cost),
    )


def read_status(body: Body) -> PretrainJobStatus:
    """The job's status; of one that a newer operator wrote, the fields that can be understood."""
    written = body.get("status") or {}
    try:
        return PretrainJobStatus.model_validate(written)
    except ValidationError as error:
        unknown = {place["loc"][0] for place in error.errors()}
        return PretrainJobStatus.model_validate({name: value for name, value in written.items() if name not in unknown})


def create(view: View, stage: Stage) -> Apply:
    """Makes the child of a stage."""
    return Apply(child(view.job, with_environment(stage, _known(view, stage)), view.attempt, view.generation))


def _known(view: View, stage: Stage) -> dict[str, str]:
    """What the status knows and a stage's program wants to. From what is written alone: a write that is repeated must be the
    same, or the API server refuses it, as templates are immutable.
    """
    if stage.name == TRAINING and view.before.training is not None and view.before.training.furthest_step:
        return {FURTHEST_STEP_VARIABLE: str(view.before.training.furthest_step)}
    if stage.name == REPORT:
        goodput = account(view.before.goodput, ledger_scene(view, view.before), _end_of_the_stage_before(view, stage))
        return {LEDGER_VARIABLE: json.dumps(goodput.seconds)}
    return {}


def ledger_scene(view: View, status: PretrainJobStatus) -> Scene:
    """What is seen of the job for its ledger, where this is said of it."""
    nodes, workloads = view.job.spec.training.nodes, tuple(view.workloads.values())
    return scene(view.created, nodes, status, workloads, view.pods, view.observed.progress)


def _end_of_the_stage_before(view: View, stage: Stage) -> datetime:
    names = [one.name for one in view.stages]
    earlier = view.stages[names.index(stage.name) - 1]
    made, said = view.workloads.get(earlier.name), view.earlier(earlier)
    return (made.completed if made is not None else None) or moment(said.completion_time if said else None) or view.now


def delete(made: Workload) -> Delete:
    """Deletes a workload and its pods; it is there until they have ended."""
    return Delete(made.kind, made.name, made.uid)


def stale(view: View, stage: Stage, made: Workload) -> bool:
    """Whether the job was edited in something that the workload was made from."""
    return made.generation != view.generation and changed(made.digest, spec_digest(view.job, stage))


def in_queue(made: Workload) -> bool:
    """Whether Kueue decides when the workload runs: `suspend` is then its field alone."""
    return QUEUE_LABEL in (made.body["metadata"].get("labels") or {})


def queued(view: View, stage: Stage) -> str:
    """That a workload waits to be admitted, and by whom."""
    queue = view.job.spec.scheduling.queue_name
    return f"stage {stage.name} waits to be admitted{f' by the queue {queue}' if queue else ''}"


def hindered(view: View, one: Pod) -> str:
    """Why a pod cannot start, and what mends it."""
    assert one.hindrance is not None, "asked only of hindered pods"
    said = one.hindrance.message
    match one.hindrance.kind:
        case "ImagePull":
            return (
                f"the image cannot be pulled ({said}); the operator's administrator sets the images and their pull secrets"
            )
        case "ContainerConfig":
            secret = view.job.spec.storage.credentials_secret_ref
            named = f"Secret {secret.name} (spec.storage.credentialsSecretRef)" if secret else "what the pod refers to"
            return f"the container cannot be made ({said}); look at {named}, which must exist here and have its two keys"
        case "Unschedulable":
            return f"no node can take the pod ({said}); lower resources, change spec.scheduling, or add nodes"


def halted(halt: Halt) -> Step:
    """Nothing is to be done, because the job is halted."""
    return Step(progressing=False, reason=halt.reason, message=halt.message)


def _halt(job: PretrainJob, cost: Spent | None) -> Halt | None:
    if job.spec.suspend:
        return Halt(reasons.SUSPENDED, HALTED, "spec.suspend was set")
    over = exceeded(job, cost)
    return None if over is None else Halt(reasons.BUDGET_EXCEEDED, over, over)
