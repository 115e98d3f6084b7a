"""What should be done about a PretrainJob now: the whole of the operator's decisions, pure.

`plan` is a list of guard clauses. Everything follows from the job, what is observed of its children, and the time; nothing
depends on having seen an event. What must survive the operator's own death is in the job's status: an attempt to train is
ended by writing the next attempt's number there, first; the group that carries an older number is taken away afterwards.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from pretrain_stage.errors import UserError

from pretrain_operator import reasons
from pretrain_operator.api import PretrainJob, check_in_cluster, parse_job
from pretrain_operator.check import Surroundings, arithmetic, faults
from pretrain_operator.config_map import config_map, config_map_name
from pretrain_operator.digest import content_changed, spec_digest
from pretrain_operator.indexed_step import indexed_step
from pretrain_operator.observed import Action, Apply, Body, Delete, Observed, Plan, Settings
from pretrain_operator.stages import Stage
from pretrain_operator.storage_claim import holder
from pretrain_operator.tell import has, told
from pretrain_operator.training_step import training_step
from pretrain_operator.unworked import after_the_end, in_use, not_ours, refused
from pretrain_operator.view import Step, View, delete, read_status, view_of


def plan(body: Body, observed: Observed, settings: Settings, now: datetime) -> Plan:
    """What to do about the job in `body`: never raises for anything that a user can write."""
    if not_ours(body):
        return Plan()
    before = read_status(body)
    if has(before, "Succeeded") or has(before, "Failed"):
        return after_the_end(body, before, observed, now)
    try:
        job = accepted(body)
    except UserError as error:
        return refused(body, before, observed, reasons.INVALID, str(error), now)
    rival = holder(body, observed.rivals)
    if rival is not None:
        return refused(body, before, observed, reasons.STORAGE_IN_USE, in_use(body, rival), now)
    view = view_of(job, body, before, observed, settings, now)
    done = _done_stages(view)
    if len(done) == len(view.stages):
        return told(view, Step(actions=(*_taken_out(view), *_unused_config_maps(view))), done, view.stages[-1])
    stage = _next_stage(view, done)
    if view.deadline is not None and now >= view.deadline:
        return told(view, _overdue(view), done, stage)
    return told(view, _next_step(view, stage), done, stage)


def accepted(body: Body) -> PretrainJob:
    """The job, if it can work. Raises UserError with everything that is wrong with it.

    The API server has checked it against the CRD; what remains is arithmetic over several fields.
    """
    job = parse_job({name: body[name] for name in ("apiVersion", "kind", "metadata", "spec")}, "PretrainJob")
    check_in_cluster(job)
    wrong = faults(arithmetic(job, Surroundings()))
    if wrong:
        raise UserError("; ".join(wrong))
    config_map(job)
    return job


def _next_stage(view: View, done: list[Stage]) -> Stage:
    """The first stage that is not done; but one that is at work comes before those that have no workload yet. A task that is
    added while the model is trained has a stage before training, and so may a newer operator: neither ends training.
    """
    names = {stage.name for stage in done}
    waiting = [stage for stage in view.stages if stage.name not in names]
    at_work = (stage for stage in waiting if stage.name in view.workloads and not _is_of_an_older_spec(view, stage))
    return next(at_work, waiting[0])


def _next_step(view: View, stage: Stage) -> Step:
    """What takes the stage further that is next."""
    after = view.stages[view.stages.index(stage) + 1 :]
    later = [view.workloads[one.name] for one in after if _is_of_an_older_spec(view, one)]
    if later:
        # The spec was edited in what this stage reads, so what came out of the later ones is of an older spec.
        gone = tuple(delete(one) for one in later if not one.deleted)
        return Step(actions=gone, message=f"stages after {stage.name} begin again: the spec was edited")
    step = training_step(view, stage) if stage.kind == "training" else indexed_step(view, stage)
    before = (*_taken_out(view), *_config_map(view, step))
    return replace(step, actions=(*before, *step.actions, *_unused_config_maps(view)))


def _overdue(view: View) -> Step:
    message = (
        f"spec.activeDeadlineSeconds: {view.job.spec.active_deadline_seconds} s are over; delete this PretrainJob and apply it "
        "with a longer time, or none: what is finished is kept and used"
    )
    return Step(failure=(reasons.DEADLINE_EXCEEDED, message))


def _done_stages(view: View) -> list[Stage]:
    """The stages that need nothing more. A digest covers what a stage continues from, so each can be judged by itself."""
    return [stage for stage in view.stages if _is_done(view, stage)]


def _is_done(view: View, stage: Stage) -> bool:
    made, wanted = view.workloads.get(stage.name), spec_digest(view.job, stage)
    if made is None:
        said = view.earlier(stage)
        return said is not None and said.state == "Succeeded" and not content_changed(said.spec_digest, wanted)
    if _is_of_an_older_spec(view, stage):
        return False
    return view.backend.succeeded(made.body) if stage.kind == "training" else made.is_true("Complete")


def _is_of_an_older_spec(view: View, stage: Stage) -> bool:
    """Whether a stage has a workload, and what its programs read was edited since."""
    made = view.workloads.get(stage.name)
    if made is None or made.generation == view.generation:
        return False
    return content_changed(made.digest, spec_digest(view.job, stage))


def _taken_out(view: View) -> tuple[Action, ...]:
    """Deletes the workloads of stages that the job has no more: their entry of finetune or predict was taken out."""
    names = {stage.name for stage in view.stages}
    return tuple(delete(made) for made in view.workloads.values() if made.stage not in names and not made.deleted)


def _config_map(view: View, step: Step) -> tuple[Action, ...]:
    """The ConfigMap that children to be made will mount, if it is missing."""
    if not any(isinstance(action, Apply) for action in step.actions):
        return ()
    there = {body["metadata"]["name"] for body in view.observed.config_maps}
    return () if config_map_name(view.job) in there else (Apply(config_map(view.job)),)


def _unused_config_maps(view: View) -> tuple[Action, ...]:
    """ConfigMaps of earlier specs that no workload mounts any more."""
    used = {config_map_name(view.job), *(name for made in view.workloads.values() for name in _mounted(made.body))}
    return tuple(
        Delete("ConfigMap", body["metadata"]["name"], body["metadata"]["uid"], propagation="Background")
        for body in view.observed.config_maps
        if body["metadata"]["name"] not in used and body["metadata"].get("deletionTimestamp") is None
    )


def _mounted(made: Body) -> list[str]:
    spec = made.get("spec") or {}
    replicas = (spec.get("pytorchReplicaSpecs") or {}).get("Worker") or {}
    template = spec.get("template") or replicas.get("template") or {}
    volumes = (template.get("spec") or {}).get("volumes") or []
    return [volume["configMap"]["name"] for volume in volumes if "configMap" in volume]
