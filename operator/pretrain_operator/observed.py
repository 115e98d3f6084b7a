"""What a decision about a PretrainJob is made from, and what it comes to: the types between input/output and plan.

The cluster side (cluster/) fills Observed from its stores and carries a Plan out; plan.py, which is pure, turns the one into
the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from pretrain_operator.stages import Images

Body = Mapping[str, Any]
"""An object of the API server, as it sent it. Never changed in place."""

Kind = Literal["ConfigMap", "Job", "PyTorchJob", "Pod", "PretrainJob"]


@dataclass(frozen=True)
class Settings:
    """What the operator's own administrator has set."""

    images: Images = field(default_factory=Images)
    unschedulable_seconds: float = 300.0
    """How long a training pod may wait to be scheduled or started before the others of its group are let go."""


@dataclass(frozen=True)
class Progress:
    """What rank 0 of a training group last said of itself."""

    pod: str
    """Uid of the pod that said it."""
    at: datetime
    step: int
    steps: int
    tokens: int
    """Tokens trained on since training began, over all attempts."""
    loss: float | None = None
    """In nats per token."""
    validation_loss: float | None = None
    tokens_per_second: float | None = None
    checkpoint_step: int | None = None
    """Step of the newest committed checkpoint."""
    eta_seconds: float | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Its own account: seconds of its life by state of the ledger. Empty if it tells none."""


@dataclass(frozen=True)
class Fault:
    """Why the last plan for this job could not be carried out."""

    reason: str
    """One word, from reasons.py."""
    message: str
    """What was refused, by whom, and what to do."""


@dataclass(frozen=True)
class Observed:
    """What the operator's stores hold of one job, besides the job itself."""

    workloads: tuple[Body, ...] = ()
    """Jobs and PyTorchJobs in the job's namespace that have its label."""
    pods: tuple[Body, ...] = ()
    """Pods in the job's namespace that have its label."""
    config_maps: tuple[Body, ...] = ()
    """ConfigMaps in the job's namespace that have its label; metadata is enough."""
    rivals: tuple[Body, ...] = ()
    """All other PretrainJobs that keep their files in the same bucket, of whatever namespace."""
    progress: Progress | None = None
    fault: Fault | None = None


@dataclass(frozen=True)
class Apply:
    """Server-side-apply this object, without force: what another manager owns is a fault, not ours to take."""

    body: Body


@dataclass(frozen=True)
class Patch:
    """Merge this patch into an object that exists. For the few fields of a running workload that may change."""

    kind: Kind
    name: str
    uid: str
    """Of the object that was meant: another one of the same name is left alone."""
    patch: Body


@dataclass(frozen=True)
class Delete:
    """Delete this object, if it is still the same."""

    kind: Kind
    name: str
    uid: str
    propagation: Literal["Foreground", "Background"] = "Foreground"
    grace_seconds: int | None = None
    """In place of the pod's own grace period; 0 removes a pod whose node cannot say that it has ended."""


Action = Apply | Patch | Delete


@dataclass(frozen=True)
class Plan:
    """What is to be done about a job now."""

    actions: tuple[Action, ...] = ()
    """In this order. The first that fails ends the reconcile, and is tried again."""
    status: Body | None = None
    """The job's whole new status, to be written last; None leaves it alone."""
    urgent: bool = False
    """Whether the status must be written now; otherwise progress may wait until 15 s after the last time."""
    again_seconds: float | None = None
    """When to look again though nothing has changed."""
    read_progress: Body | None = None
    """The pod whose metrics tell how far training is; None where nothing trains."""
