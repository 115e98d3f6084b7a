"""PretrainJobs as the operator keeps them, each with what its metrics shall tell."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.operator.jobs import job

NAMESPACE = "tests"
VERSIONS = itertools.count(1)
"""Each object that is made is newer than those before it."""

Body = dict[str, Any]


def kept(name: str, *, cost: Body | None = None, **status: Any) -> Body:
    """A job that trains and is well, but for what `status` says. cost: spec.cost; a GPU then has been held for long."""
    spec = {"storage.uri": f"s3://models/{name}", "training.gpusPerNode": 1}
    metadata = {
        "name": name,
        "namespace": NAMESPACE,
        "uid": f"uid-{name}",
        "generation": 1,
        "resourceVersion": str(next(VERSIONS)),
        "creationTimestamp": ago(600),
    }
    return job(spec | ({"cost": cost} if cost else {})) | {"metadata": metadata, "status": _well() | status}


def ago(seconds: float) -> str:
    """A time in the past, as Kubernetes writes it."""
    return (datetime.now(UTC) - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def ledger(state: str, *, since: float = 0.0, pod: str | None = None) -> Body:
    """A goodput ledger in whose open state `since` seconds have passed. pod: who tells of its own time."""
    group = {"group": {"pod": pod, "attempt": 1, "seconds": {}}} if pod else {}
    booked = {"productive": 500.0, "initializing": 100.0 - since}
    return {"state": state, "since": ago(since), "seconds": booked, "ratio": 0.8, **group}


def condition(type_: str, status: str, reason: str) -> Body:
    return {"type": type_, "status": status, "reason": reason, "message": "", "lastTransitionTime": ago(60)}


def stage(name: str, state: str, tasks: int, **counts: int) -> Body:
    return {"name": name, "state": state, "tasks": tasks, "startTime": ago(500), **counts}


def _well() -> Body:
    return {
        "phase": "Training",
        "conditions": [condition("Failed", "False", "NotFinished"), condition("Progressing", "True", "StageRunning")],
        "stages": [stage("clean", "Succeeded", 2, succeeded=2), stage("train", "Pending", 1)],
        "restartsByReason": {"Infrastructure": 1, "Disruption": 2},
        # A state that nothing but time is needed for; no first step has been done yet.
        "goodput": {"state": "queued", "since": ago(0), "seconds": {"queued": 600.0}},
        "cost": {"since": ago(0), "gpuSeconds": 3420.0},
    }
