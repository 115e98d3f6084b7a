"""The pods of a job, as far as their logs are concerned: whose they are, which are wanted, which can be read. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pretrain_operator.backends import pytorch_job
from pretrain_operator.indexed_job import CONTAINER
from pretrain_operator.kubectl.plain import plain
from pretrain_operator.names import ATTEMPT_LABEL, STAGE_LABEL

CONTAINERS = (CONTAINER, pytorch_job.CONTAINER)
INDEX_LABELS = (pytorch_job.INDEX_LABEL, "batch.kubernetes.io/job-completion-index")


@dataclass(frozen=True)
class SeenPod:
    """One pod: a task of a preprocessing stage, or a node of a training group."""

    uid: str
    name: str
    namespace: str
    stage: str
    index: int
    attempt: int
    """Which start of the training group it belongs to, from 1; 1 in other stages."""
    created: str
    container: str
    begun: bool
    """Whether its container has started, so that there may be something to read."""
    ended: bool
    trouble: str
    """Why its container cannot start, or the pod not be scheduled; empty if nothing is wrong."""

    @property
    def label(self) -> str:
        return f"{self.stage}/{self.index}"


@dataclass(frozen=True)
class Choice:
    """Which pods of a job are wanted."""

    stage: str | None = None
    indices: tuple[int, ...] = ()
    """None given: all."""
    previous: bool = False
    """Those of earlier attempts, in the place of the latest."""


def seen_pod(body: Mapping[str, Any]) -> SeenPod | None:
    """The pod in an object of the API server, or None if it is not of a stage."""
    metadata = body["metadata"]
    labels = metadata.get("labels") or {}
    index = next((labels[label] for label in INDEX_LABELS if label in labels), "")
    if STAGE_LABEL not in labels or not str(index).isdigit():
        return None
    status = body.get("status") or {}
    names = [str(container["name"]) for container in body["spec"]["containers"]]
    container = next((name for name in names if name in CONTAINERS), names[0])
    state = next((s.get("state") or {} for s in status.get("containerStatuses") or () if s.get("name") == container), {})
    attempt = str(labels.get(ATTEMPT_LABEL, ""))
    return SeenPod(
        uid=str(metadata["uid"]),
        name=str(metadata["name"]),
        namespace=str(metadata["namespace"]),
        stage=plain(str(labels[STAGE_LABEL])),
        index=int(index),
        attempt=int(attempt) if attempt.isdigit() else 1,
        created=str(metadata.get("creationTimestamp", "")),
        container=container,
        begun="running" in state or "terminated" in state,
        ended="terminated" in state or status.get("phase") in ("Succeeded", "Failed"),
        trouble=_trouble(status, state),
    )


def chosen(pods: Sequence[SeenPod], choice: Choice) -> list[SeenPod]:
    """The wanted pods, in the order in which they were made, tasks and ranks by number.

    Of each stage and index the newest pod of the latest attempt counts; with `previous`, all others.
    """
    wanted = [
        pod
        for pod in pods
        if (choice.stage is None or pod.stage == choice.stage) and (not choice.indices or pod.index in choice.indices)
    ]
    latest = latest_attempts(pods)
    newest: dict[tuple[str, int], SeenPod] = {}
    for pod in sorted(wanted, key=lambda pod: (pod.attempt, pod.created, pod.name)):
        if pod.attempt == latest[pod.stage]:
            newest[pod.stage, pod.index] = pod
    current = {pod.uid for pod in newest.values()}
    began: dict[str, str] = {}
    for pod in pods:
        began[pod.stage] = min(pod.created, began.get(pod.stage, pod.created))
    return sorted(
        (pod for pod in wanted if (pod.uid in current) != choice.previous),
        key=lambda pod: (began[pod.stage], pod.stage, pod.attempt, pod.index, pod.created),
    )


def latest_attempts(pods: Iterable[SeenPod]) -> dict[str, int]:
    """The latest attempt of each stage."""
    latest: dict[str, int] = {}
    for pod in pods:
        latest[pod.stage] = max(pod.attempt, latest.get(pod.stage, 0))
    return latest


def _trouble(status: Mapping[str, Any], state: Mapping[str, Any]) -> str:
    waiting = state.get("waiting") or {}
    if waiting and waiting.get("reason") not in ("ContainerCreating", "PodInitializing", None):
        return plain(f"{waiting['reason']}: {waiting.get('message', '')}".rstrip(": "))
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return plain(f"{condition.get('reason', 'Unschedulable')}: {condition.get('message', '')}".rstrip(": "))
    return ""
