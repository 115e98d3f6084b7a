"""PretrainJobs and pods as an API server would send them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from tests.operator.jobs import job

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


def ago(seconds: float) -> str:
    return (NOW - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def resource(name: str = "demo", status: dict[str, Any] | None = None, **metadata: Any) -> dict[str, Any]:
    """A stored PretrainJob, ten minutes old."""
    made = job()
    made["metadata"] = {
        "name": name, "namespace": "team", "uid": f"uid-of-{name}", "generation": 1, "resourceVersion": "7",
        "creationTimestamp": ago(600), "managedFields": [{"manager": "x"}],
    } | metadata  # fmt: skip
    return made | ({"status": status} if status is not None else {})


def condition(kind: str, status: str, reason: str, message: str) -> dict[str, Any]:
    return {
        "type": kind, "status": status, "reason": reason, "message": message,
        "observedGeneration": 1, "lastTransitionTime": ago(60),
    }  # fmt: skip


def conditions(**changed: tuple[str, str, str]) -> list[dict[str, Any]]:
    """All five, as they are while all is well, some of them otherwise."""
    normal = {
        "Accepted": ("True", "Valid", "The job is valid."),
        "Progressing": ("True", "StageRunning", "A stage runs."),
        "Suspended": ("False", "NotSuspended", "It is not suspended."),
        "Succeeded": ("False", "NotFinished", "It has not finished."),
        "Failed": ("False", "NotFinished", "It has not finished."),
    }
    return [condition(kind, *said) for kind, said in (normal | changed).items()]


def stage(name: str, state: str, tasks: int = 1, **fields: Any) -> dict[str, Any]:
    return {"name": name, "state": state, "tasks": tasks, **fields}


TRAINING = {
    "observedGeneration": 1,
    "phase": "Training",
    "stage": "train",
    "progress": "30%",
    "startTime": ago(590),
    "conditions": conditions(),
    "stages": [
        stage("preflight", "Succeeded", succeeded=1, startTime=ago(590), completionTime=ago(580)),
        stage("clean", "Succeeded", 4, succeeded=4, startTime=ago(580), completionTime=ago(300)),
        stage("train", "Running", 2, active=2, startTime=ago(125)),
        stage("report", "Pending"),
    ],
    "training": {
        "attempt": 2, "step": 120, "steps": 400, "tokens": 491_520, "loss": 3.2141, "validationLoss": 3.3,
        "tokensPerSecond": 12_346, "eta": "4m10s", "checkpointStep": 100,
    },
    "restartCount": 1,
    "restarts": [
        {"attempt": 1, "time": ago(200), "reason": "Infrastructure", "message": "rank 1: killed", "checkpointStep": 50}
    ],
}  # fmt: skip


def pod(
    stage: str = "train",
    index: int = 0,
    *,
    attempt: int | None = None,
    state: dict[str, Any] | None = None,
    created: float = 60,
    containers: tuple[str, ...] = (),
    **status: Any,
) -> dict[str, Any]:
    """A pod of the job `demo`; `state` is that of its container."""
    training = stage == "train"
    label = "training.kubeflow.org/replica-index" if training else "batch.kubernetes.io/job-completion-index"
    labels = {"pretrain.dev/job": "demo", "pretrain.dev/stage": stage, label: str(index)}
    labels |= {} if attempt is None else {"pretrain.dev/attempt": str(attempt)}
    names = containers or ("pytorch" if training else "stage",)
    states = [{"name": names[-1], "state": state}] if state is not None else []
    uid = f"{stage}-{index}-{attempt}-{created}"
    return {
        "metadata": {"name": uid, "namespace": "team", "uid": uid, "labels": labels, "creationTimestamp": ago(created)},
        "spec": {"containers": [{"name": name} for name in names]},
        "status": {"phase": "Running", "containerStatuses": states} | status,
    }
