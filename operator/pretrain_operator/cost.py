"""What a job has cost, and whether that is within its budget. Pure.

Counted are the GPUs that its pods have held, from when a pod got its node until it ended. CPU time costs nothing here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from pretrain_operator.api import PretrainJob
from pretrain_operator.conditions import moment, timestamp
from pretrain_operator.facts import Pod
from pretrain_operator.stages import EVALUATE, FINETUNE, PREDICT, TRAINING
from pretrain_operator.status import Spent

HOUR = 3600.0


def gpus_of(spec: Mapping[str, Any]) -> dict[str, int]:
    """GPUs that each pod of a stage holds (stages.py), by the name of the stage: of a spec as the API server has it."""
    trained = (spec.get("training") or {}).get("gpusPerNode") or 0
    tasks = {task["name"]: task.get("gpus") or 0 for task in spec.get("finetune") or ()}
    asked = {one["name"]: tasks.get(one["task"], 0) if one.get("task") else trained for one in spec.get("predict") or ()}
    return {
        TRAINING: trained,
        EVALUATE: min(1, trained),
        **{f"{FINETUNE}-{name}": gpus for name, gpus in tasks.items()},
        **{f"{EVALUATE}-{name}": min(1, gpus) for name, gpus in tasks.items()},
        **{f"{PREDICT}-{name}": min(1, gpus) for name, gpus in asked.items()},
    }


def spent(
    before: Spent | None,
    created: datetime,
    pods: Iterable[Pod],
    gpus: Mapping[str, int],
    price: float | None,
    now: datetime,
) -> Spent | None:
    """What the job has cost until now; None for a job that holds no GPUs.

    before: what the status says. gpus: of each pod of a stage. price: of a GPU for an hour.
    """
    now = now.replace(microsecond=0)  # as times are kept
    since = (moment(before.since) if before is not None else None) or created
    held = sum(gpus.get(one.stage, 0) * _held(one, since, now) for one in pods)
    seconds = (before.gpu_seconds if before is not None else 0.0) + held
    if not any(gpus.values()) and not seconds:
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


def seconds_left(job: PretrainJob, cost: Spent | None, pods: Iterable[Pod], gpus: Mapping[str, int]) -> float | None:
    """In how many seconds the budget is spent if its pods hold on to their GPUs; None if it never is."""
    budget, price = job.spec.cost.budget, job.spec.cost.price_per_gpu_hour
    held = sum(gpus.get(one.stage, 0) for one in pods if _holds(one))
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
