"""What runs training in a cluster: one module a backend, and the only place that knows the resource it makes.

pytorch_job    Kubeflow's PyTorchJob
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, Protocol

from pretrain_operator.api import PretrainJob
from pretrain_operator.backends import pytorch_job
from pretrain_operator.stages import Stage


class Backend(Protocol):
    """What a module in this package offers."""

    KIND: Literal["PyTorchJob"]
    """Kind of the resource."""

    def master_address(self, job: PretrainJob) -> str:
        """The name by which all nodes of the group find the first."""
        ...

    def training_group(self, job: PretrainJob, stage: Stage, attempt: int) -> dict[str, Any]:
        """The resource that runs the group: `stage.tasks` nodes, all or none, none of them restarted.

        attempt: which start of the group this is, from 1; it is a label of the pods and a variable in them.
        """
        ...

    def succeeded(self, group: Mapping[str, Any]) -> bool:
        """Whether all pods of the group have ended well."""
        ...

    def failure(self, group: Mapping[str, Any]) -> str | None:
        """What the resource says of a group that its controller has given up; None if it has not."""
        ...

    def suspended(self, group: Mapping[str, Any]) -> bool:
        """Whether the group waits to be admitted: it has no pods then."""
        ...


BACKENDS: MappingProxyType[str, Backend] = MappingProxyType({"PyTorchJob": pytorch_job})
"""By the value of spec.training.backend."""
