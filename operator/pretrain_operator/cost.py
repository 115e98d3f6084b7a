"""What a job has cost, and whether that is within its budget. Pure.

Counted are the GPUs that its pods have held, from when a pod got its node until it ended. CPU time costs nothing here.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from pretrain_operator.api import PretrainJob
from pretrain_operator.conditions import moment, timestamp
from pretrain_operator.facts import Pod
from pretrain_operator.stages import TRAINING
from pretrain_operator.status import Spent

HOUR = 3600.0


def gpus_of(stage: str, gpus_per_node: int) -> int:
    """GPUs that each pod of a stage holds (stages.py)."""
    return {TRAINING: gpus_per_node, "evaluate": min(1, gpus_per_node)}.get(stage, 0)


def spent(
    before: Spent | None, created: datetime, pods: Iterable[Pod], gpus_per_node: int, price: float | None, now: datetime
) -> Spent | None:
    """What the job has cost until now; None for a job that holds no GPUs.

    before: what the status says. price: of a GPU for an hour.
    """
    now = now.replace(microsecond=0)  # as times are kept
    since = (moment(before.since) if before is not None else None) or created
    held = sum(gpus_of(one.stage, gpus_per_node) * _held(one, since, now) for one in pods)
    seconds = (before.gpu_seconds if before is not None else 0.0) + held
    if not gpus_per_node and not seconds:
        return None
    cost = None if price is None else round(seconds / HOUR * price, 4)
    return Spent(since=timestamp(max(since, now)), gpuSeconds=seconds, spent=cost)


def exceeded(job: PretrainJob, cost: Spent | None) -> str | None:
    """Why the job may hold no more GPUs: its budget is spent, and what to do; None while it is not."""
    budget, price = job.spec.cost.budget, job.spec.cost.price_per_gpu_hour
    if budget is None or cost is None or cost.spent is None or cost.spent < budget:
        return None
    return (
        f"spec.cost.budget: {budget:g} is spent ({cost.gpu_seconds / HOUR:,.2f} GPU hours x {price:g} = {cost.spent:,.2f}); the newest "
        "checkpoint is kept, raise the budget to go on from it"
    )


def seconds_left(job: PretrainJob, cost: Spent | None, pods: Iterable[Pod]) -> float | None:
    """In how many seconds the budget is spent if its pods hold on to their GPUs; None if it never is."""
    budget, price = job.spec.cost.budget, job.spec.cost.price_per_gpu_hour
    held = sum(gpus_of(one.stage, job.spec.training.gpus_per_node) for one in pods if _holds(one))
    if budget is None or not price or not held or cost is None or cost.spent is None or cost.spent >= budget:
        return None
    return (budget - cost.spent) * HOUR / price / held + 1.0  # times have whole seconds


def _holds(pod: Pod) -> bool:
    return pod.scheduled is not None and pod.gone is None


def _held(pod: Pod, since: datetime, now: datetime) -> float:
    """Seconds between these times in which a pod had its node."""
    if pod.scheduled is None:
        return 0.0
    begin, end = max(since, pod.scheduled), now if pod.gone is None else min(now, pod.gone)
    return max(0.0, (end - begin).total_seconds())
