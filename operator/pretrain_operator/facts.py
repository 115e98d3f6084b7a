"""What objects of the API server say about a job's workloads and pods, as facts that a decision needs. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from pretrain_stage.process import TRACEBACK_BELOW

from pretrain_operator.conditions import is_true, moment
from pretrain_operator.digest import DIGEST, GENERATION
from pretrain_operator.names import ATTEMPT_LABEL, STAGE_LABEL
from pretrain_operator.observed import Body, Kind

LOST_NODE = "DeletionByTaintManager"
"""Reason of a pod's DisruptionTarget condition when its node did not answer for as long as the pod tolerates."""
IMAGE_REASONS = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"})
CONFIG_REASONS = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
INDEX_LABELS = ("batch.kubernetes.io/job-completion-index", "training.kubeflow.org/replica-index")


@dataclass(frozen=True)
class Hindrance:
    """Why a pod cannot start."""

    kind: Literal["Unschedulable", "ImagePull", "ContainerConfig"]
    message: str
    since: datetime


@dataclass(frozen=True)
class Pod:
    """A pod of a stage."""

    name: str
    uid: str
    stage: str
    index: int
    """Task of the stage, or node of the training group."""
    attempt: int
    """Of a training group; 0 for pods of other stages."""
    phase: str
    node: str | None
    address: str | None
    exit_code: int | None
    """Of its container, once that has ended."""
    message: str
    """The container's last words, or why Kubernetes ended it."""
    ended: datetime | None
    hindrance: Hindrance | None
    disruption: str | None
    """Why Kubernetes took it away, if it did."""
    deleted: datetime | None
    """When its grace period ends or ended, if it was deleted."""
    created: datetime
    scheduled: datetime | None
    """When it got its node."""
    started: datetime | None
    """When its container began to run."""
    gone: datetime | None
    """When it ended, or was given up with its node."""
    body: Body

    @property
    def failed(self) -> bool:
        return self.phase == "Failed" or self.exit_code not in (None, 0)

    @property
    def over(self) -> bool:
        """Whether it has ended. One that was deleted before any node had it has nothing that could end."""
        ended = self.phase in ("Succeeded", "Failed") or self.exit_code is not None
        return ended or (self.deleted is not None and self.node is None)


@dataclass(frozen=True)
class Workload:
    """The Job or PyTorchJob of a stage."""

    kind: Kind
    name: str
    uid: str
    stage: str
    attempt: int
    """Of a training group; 0 for others."""
    generation: int
    """Generation of the PretrainJob that it was made for."""
    digest: str | None
    created: datetime
    deleted: bool
    body: Body

    @property
    def completed(self) -> datetime | None:
        """When it succeeded, as itself says."""
        return self._since("Complete") or self._since("Succeeded")

    @property
    def halted(self) -> datetime | None:
        """Since when it is suspended, as itself says."""
        return self._since("Suspended")

    @property
    def spec(self) -> Mapping[str, Any]:
        spec: Mapping[str, Any] = self.body.get("spec") or {}
        return spec

    @property
    def status(self) -> Mapping[str, Any]:
        status: Mapping[str, Any] = self.body.get("status") or {}
        return status

    def is_true(self, condition: str) -> bool:
        return is_true(self.status.get("conditions") or [], condition)

    def message_of(self, condition: str) -> str:
        found = [one for one in self.status.get("conditions") or [] if one.get("type") == condition]
        return str(found[0].get("message") or "") if found else ""

    def _since(self, condition: str) -> datetime | None:
        return _turned(self.status, condition)


def workload(body: Body) -> Workload:
    """The facts of a Job or PyTorchJob."""
    metadata = body["metadata"]
    labels, notes = metadata.get("labels") or {}, metadata.get("annotations") or {}
    return Workload(
        kind=body["kind"],
        name=metadata["name"],
        uid=metadata["uid"],
        stage=labels.get(STAGE_LABEL, ""),
        attempt=_number(labels.get(ATTEMPT_LABEL)),
        generation=_number(notes.get(GENERATION)),
        digest=notes.get(DIGEST),
        created=_known(metadata.get("creationTimestamp")),
        deleted=metadata.get("deletionTimestamp") is not None,
        body=body,
    )


def pod(body: Body) -> Pod:
    """The facts of a pod."""
    metadata, status = body["metadata"], body.get("status") or {}
    labels = metadata.get("labels") or {}
    container: Mapping[str, Any] = next(iter(status.get("containerStatuses") or []), {})
    state: Mapping[str, Any] = container.get("state") or {}
    ended: Mapping[str, Any] = state.get("terminated") or {}
    phase, created = status.get("phase") or "Pending", _known(metadata.get("creationTimestamp"))
    node, deleted = (body.get("spec") or {}).get("nodeName"), moment(metadata.get("deletionTimestamp"))
    started = moment((state.get("running") or ended).get("startedAt"))
    return Pod(
        name=metadata["name"],
        uid=metadata["uid"],
        stage=labels.get(STAGE_LABEL, ""),
        index=_number(next((labels[name] for name in INDEX_LABELS if name in labels), None)),
        attempt=_number(labels.get(ATTEMPT_LABEL)),
        phase=phase,
        node=node,
        address=status.get("podIP"),
        exit_code=ended.get("exitCode"),
        message=_last_words(status, ended),
        ended=moment(ended.get("finishedAt")),
        hindrance=_hindrance(body, container),
        disruption=_disruption(status),
        deleted=deleted,
        created=created,
        scheduled=None if node is None else _turned(status, "PodScheduled") or created,
        started=started or (created if phase != "Pending" else None),
        gone=_gone(status, ended, phase, created) or (deleted if node is None else None),
        body=body,
    )


def of_stage(pods: Iterable[Pod], stage: str) -> list[Pod]:
    """The pods of a stage, in the order of their indices."""
    return sorted((one for one in pods if one.stage == stage), key=lambda one: (one.index, one.name))


def _last_words(status: Mapping[str, Any], ended: Mapping[str, Any]) -> str:
    if ended.get("reason") == "OOMKilled":
        return "out of memory (OOMKilled); raise the memory in resources, or give each process less to do"
    said = str(ended.get("message") or "").partition(TRACEBACK_BELOW)[0].strip()
    if said:
        return said
    return str(status.get("message") or ended.get("reason") or "")


def _hindrance(body: Body, container: Mapping[str, Any]) -> Hindrance | None:
    """What keeps a pending pod from starting, as the scheduler or the kubelet says it."""
    status, created = body.get("status") or {}, _known(body["metadata"].get("creationTimestamp"))
    waiting: Mapping[str, Any] = (container.get("state") or {}).get("waiting") or {}
    reason = waiting.get("reason")
    if reason in IMAGE_REASONS:
        return Hindrance("ImagePull", f"{reason}: {waiting.get('message') or container.get('image')}", created)
    if reason in CONFIG_REASONS:
        return Hindrance("ContainerConfig", f"{reason}: {waiting.get('message') or ''}".rstrip(": "), created)
    for condition in status.get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("reason") == "Unschedulable":
            return Hindrance("Unschedulable", str(condition.get("message") or ""), created)
    return None


def _disruption(status: Mapping[str, Any]) -> str | None:
    for condition in status.get("conditions") or []:
        if condition.get("type") == "DisruptionTarget" and condition.get("status") == "True":
            return str(condition.get("reason") or "DisruptionTarget")
    return None


def _gone(status: Mapping[str, Any], ended: Mapping[str, Any], phase: str, created: datetime) -> datetime | None:
    """When a pod ended; of one whose containers say no time, when anything was last said of it."""
    if ended or phase in ("Succeeded", "Failed"):
        said = [moment(one.get("lastTransitionTime")) for one in status.get("conditions") or []]
        return moment(ended.get("finishedAt")) or max((one for one in said if one is not None), default=created)
    return (_turned(status, "DisruptionTarget") or created) if _disruption(status) == LOST_NODE else None


def _turned(status: Mapping[str, Any], condition: str) -> datetime | None:
    """Since when a condition is true."""
    for one in status.get("conditions") or []:
        if one.get("type") == condition and one.get("status") == "True":
            return moment(one.get("lastTransitionTime"))
    return None


def _number(text: str | None) -> int:
    """A whole number that a label or an annotation holds; 0 for none."""
    return int(text) if text is not None and text.isdecimal() else 0


def _known(text: str | None) -> datetime:
    time = moment(text)
    assert time is not None, "the API server sets creationTimestamp"
    return time
