"""What the operator tells Prometheus of the jobs that it looks after: worked out when it is asked, from what is in the stores.

So a series is there exactly as long as its job is, and only a leading replica serves them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, get_args

from pretrain_stage.ledger import STALL_SECONDS
from pretrain_stage.metric import Metric
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector

from pretrain_operator import catalogue
from pretrain_operator.books import OF_THE_TRAINER
from pretrain_operator.cluster.stores import Key, Stores
from pretrain_operator.conditions import moment
from pretrain_operator.cost import gpus_of, spent
from pretrain_operator.facts import pod, workload
from pretrain_operator.ledger import account, scene
from pretrain_operator.observed import Body, Progress
from pretrain_operator.status import Goodput, Phase, PretrainJobStatus, Restart, Spent, StageStatus
from pretrain_operator.unworked import not_ours
from pretrain_operator.view import read_status

PHASES: tuple[str, ...] = get_args(Phase)
CLASSES: tuple[str, ...] = get_args(Restart.model_fields["reason"].annotation)
OF_JOBS = [metric for metric in catalogue.METRICS if metric.name.startswith("pretrain_job_")]


@dataclass(frozen=True)
class Account:
    """What a job's time has come to until now."""

    goodput: Goodput | None
    cost: Spent | None


class JobMetrics(Collector):
    """The metrics of all jobs in the stores."""

    def __init__(
        self,
        stores: Stores,
        progress: Callable[[Key], Progress | None],
        leading: Callable[[], bool],
        now: Callable[[], datetime],
    ) -> None:
        self._stores, self._progress, self._leading, self._now = stores, progress, leading, now
        self._served: dict[tuple[str, str], float] = {}
        """Counters as they were last served, by uid and what is counted: what happened a moment before it was heard of may
        take a second from one state for another, and a counter that falls counts as begun anew."""

    def collect(self) -> Iterator[Family]:
        """The families, with the series of each job."""
        families = {metric.name: metric.family() for metric in OF_JOBS}
        served: dict[tuple[str, str], float] = {}
        for key in sorted(self._stores.jobs()) if self._leading() else ():
            job = self._stores.job(key)
            if job is None or (not_ours(job) and job["metadata"].get("deletionTimestamp") is None):
                continue
            status = read_status(job)
            for metric, labels, value in _gauges(job, status):
                families[metric.name].add_metric([*key, *labels], value)
            for metric, labels, value in _counters(status, self._until_now(key, job, status)):
                name = (job["metadata"]["uid"], " ".join((metric.name, *labels)))
                served[name] = max(value, self._served.get(name, 0.0)) if metric.kind == "counter" else value
                families[metric.name].add_metric([*key, *labels], served[name])
        self._served = served
        yield from families.values()

    def _until_now(self, key: Key, job: Body, status: PretrainJobStatus) -> Account:
        """The ledger and the cost until now; of a finished job as they were closed."""
        created = moment(job["metadata"].get("creationTimestamp"))
        if status.completion_time is not None or created is None:
            return Account(status.goodput, status.cost)
        training, now = _section(job, "training"), self._now()
        workloads, bodies = self._stores.children(job)
        pods = [pod(body) for body in bodies]
        heard = self._progress(key)
        seen = scene(created, training.get("nodes") or 1, status, list(map(workload, workloads)), pods, heard)
        gpus, price = gpus_of(job.get("spec") or {}), _section(job, "cost").get("pricePerGPUHour")
        return Account(
            _with_silence(account(status.goodput, seen, now), heard, now),
            spent(status.cost, created, pods, gpus, price, now),
        )


def _with_silence(goodput: Goodput, heard: Progress | None, now: datetime) -> Goodput:
    """The ledger with a stall where a training pod that was heard says no more: what it was is told when it is heard again, but
    somebody has to look after it now.
    """
    since, group = moment(goodput.since), goodput.group
    if heard is None or since is None or group is None or heard.pod != group.pod or goodput.state not in OF_THE_TRAINER:
        return goodput
    silent = (now - since).total_seconds() - STALL_SECONDS
    if silent <= 0:
        return goodput
    seconds = dict(goodput.seconds)
    for state, more in ((goodput.state, STALL_SECONDS), ("stalled", silent)):
        seconds[state] = seconds.get(state, 0.0) + more
    return goodput.model_copy(update={"seconds": seconds})


Sample = tuple[Metric, tuple[str, ...], float]


def _gauges(job: Body, status: PretrainJobStatus) -> Iterator[Sample]:
    """What a job is now."""
    for phase in PHASES:
        yield catalogue.JOB_PHASE, (phase,), float(phase == status.phase)
    for one in status.conditions:
        yield catalogue.JOB_CONDITION, (one.type, one.reason), float(one.status == "True")
    for stage in status.stages:
        for state, tasks in _tasks(stage):
            yield catalogue.JOB_STAGE_TASKS, (stage.name, state), tasks
    budget = _section(job, "cost").get("budget")
    if budget is not None:
        yield catalogue.JOB_BUDGET, (), budget


def _counters(status: PretrainJobStatus, until_now: Account) -> Iterator[Sample]:
    """What a job has come to."""
    for reason in CLASSES:
        yield catalogue.JOB_RESTARTS, (reason,), (status.restarts_by_reason or {}).get(reason, 0)
    if until_now.goodput is not None:
        for state, seconds in until_now.goodput.seconds.items():
            yield catalogue.JOB_SECONDS, (state,), seconds
        if until_now.goodput.ratio is not None:
            yield catalogue.JOB_GOODPUT, (), until_now.goodput.ratio
    if until_now.cost is not None:
        yield catalogue.JOB_GPU_SECONDS, (), until_now.cost.gpu_seconds
        if until_now.cost.spent is not None:
            yield catalogue.JOB_COST, (), until_now.cost.spent


def _tasks(stage: StageStatus) -> Iterator[tuple[str, int]]:
    """Tasks by state; of a stage that has not begun, or is finished, only the state that all of them are in."""
    begun = stage.state in ("Running", "Failed")
    if begun or stage.state == "Pending":
        yield "pending", max(0, stage.tasks - stage.succeeded - stage.active - stage.failed)
    if begun:
        yield "active", stage.active
        yield "failed", stage.failed
    if begun or stage.state == "Succeeded":
        yield "succeeded", stage.succeeded


def _section(job: Body, name: str) -> Mapping[str, Any]:
    return (job.get("spec") or {}).get(name) or {}
