"""What a status says of each stage and of training, derived from the facts about its workload and pods. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

from pretrain_trainer.config.batch import batch_of

from pretrain_operator.api import PretrainJob
from pretrain_operator.conditions import timestamp
from pretrain_operator.facts import Pod, Workload
from pretrain_operator.observed import Progress
from pretrain_operator.stages import TRAINING, Stage
from pretrain_operator.status import Restart, StageStatus, TrainingProgress


def stage_status(
    stage: Stage, before: StageStatus | None, workload: Workload | None, pods: Sequence[Pod], *, done: bool, failed: bool
) -> StageStatus:
    """How far a stage is. What its workload no longer says, because it is gone, stays as it was said."""
    if workload is None and done and before is not None:
        return before
    state: Literal["Pending", "Running", "Succeeded", "Failed"]
    state = "Succeeded" if done else "Failed" if failed else "Pending" if workload is None else "Running"
    started = before.start_time if before is not None and before.start_time is not None else None
    return StageStatus(
        name=stage.name,
        state=state,
        tasks=stage.tasks,
        succeeded=stage.tasks if done else _succeeded(stage, workload, pods),
        active=0 if done else sum(1 for pod in pods if pod.phase == "Running" and not pod.over),
        failed=_failed(stage, workload, pods),
        startTime=started if workload is None else started or timestamp(workload.created),
        completionTime=_completed(workload) if done or failed else None,
        specDigest=workload.digest if done and workload is not None else None,
    )


def progress_text(stage: StageStatus, training: TrainingProgress | None, heard: Progress | None, pods: Sequence[Pod]) -> str:
    """How far the stage is, in a few characters. heard: what a program that trains last said. pods: those of the stage."""
    if stage.name == TRAINING and training is not None and training.steps:
        return f"{100 * training.step // training.steps}%"
    if heard is not None and heard.steps and any(pod.uid == heard.pod for pod in pods) and not stage.succeeded:
        return f"{100 * heard.step // heard.steps}%"
    return f"{stage.succeeded}/{stage.tasks}"


def training_progress(
    job: PretrainJob,
    before: TrainingProgress | None,
    heard: Progress | None,
    pods: Sequence[Pod],
    attempt: int,
    *,
    ended: Restart | None,
    done: bool,
) -> TrainingProgress | None:
    """How far training is; None before it has begun.

    heard: what rank 0 last said, which counts if it is a pod of this attempt. pods: those of the training group. ended: the
    attempt that is over since now.
    """
    if before is None and not pods and attempt == 1:
        return None
    now = before or TrainingProgress()
    batch = batch_of(job.spec.training)
    said = next((pod for pod in pods if heard is not None and pod.uid == heard.pod and pod.attempt == attempt), None)
    if heard is not None and said is not None:
        now = now.model_copy(
            update={
                "step": heard.step,
                "tokens": heard.tokens,
                "loss": _rounded(heard.loss),
                "validation_loss": _rounded(heard.validation_loss) or now.validation_loss,
                "tokens_per_second": None if heard.tokens_per_second is None else round(heard.tokens_per_second),
                "eta": None if heard.eta_seconds is None else duration(heard.eta_seconds),
                "checkpoint_step": max(heard.checkpoint_step or 0, now.checkpoint_step or 0) or None,
            }
        )
    if done:
        now = now.model_copy(
            update={
                "step": batch.steps,
                "tokens": batch.steps * batch.tokens,
                "checkpoint_step": batch.steps,
                "eta": None,
                **_last_result(pods),
            }
        )
    furthest = max(now.furthest_step or 0, (ended.step if ended is not None else None) or 0) or None
    return now.model_copy(update={"attempt": attempt, "steps": batch.steps, "furthest_step": furthest})


def duration(seconds: float) -> str:
    """A time for people, of its two largest units: 3d4h, 5m10s."""
    left, parts = max(0, round(seconds)), list[str]()
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        count, left = divmod(left, length)
        if count or (unit == "s" and not parts):
            parts.append(f"{count}{unit}")
        elif parts:
            break
    return "".join(parts[:2])


def _last_result(pods: Sequence[Pod]) -> dict[str, float]:
    """Losses in the message that the first pod of a finished group leaves (launch.py), if it is still there."""
    for pod in pods:
        if pod.index == 0 and pod.exit_code == 0:
            try:
                facts = json.loads(pod.message)
                found: dict[str, Any] = {"loss": facts["final_loss"], "validation_loss": facts["validation_loss"]}
                return {name: round(float(value), 4) for name, value in found.items()}
            except (ValueError, KeyError, TypeError):
                return {}
    return {}


def _rounded(loss: float | None) -> float | None:
    return None if loss is None else round(loss, 4)


def _succeeded(stage: Stage, workload: Workload | None, pods: Sequence[Pod]) -> int:
    if workload is None:
        return 0
    if stage.kind == "training":
        return sum(1 for pod in pods if pod.exit_code == 0)
    return int(workload.status.get("succeeded") or 0)


def _failed(stage: Stage, workload: Workload | None, pods: Sequence[Pod]) -> int:
    if workload is None:
        return 0
    if stage.kind == "training":
        return sum(1 for pod in pods if pod.failed)
    indices = str(workload.status.get("failedIndexes") or "")
    spans = [span.split("-") for span in indices.split(",") if span]
    return sum(int(span[-1]) - int(span[0]) + 1 for span in spans)


def _completed(workload: Workload | None) -> str | None:
    """When a workload ended, as itself says."""
    if workload is None:
        return None
    status = workload.status
    times = [one.get("lastTransitionTime") for one in status.get("conditions") or [] if one.get("status") == "True"]
    ended = [one for one in (status.get("completionTime"), *times) if one]
    return str(ended[0]) if status.get("completionTime") else max(map(str, ended), default=None)
