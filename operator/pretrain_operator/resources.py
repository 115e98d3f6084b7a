"""The kinds of objects that the operator and the commands read and write, and where the API server keeps them."""

from __future__ import annotations

from dataclasses import dataclass

from pretrain_operator.api import GROUP, KIND, VERSION
from pretrain_operator.names import JOB_LABEL


@dataclass(frozen=True)
class Resource:
    """A kind of objects, in the words of the API server."""

    group: str
    """Empty for the core group."""
    version: str
    plural: str
    kind: str
    label_selector: str = ""
    """Which of these objects are ours; empty for all."""

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
        """Where objects of this kind are: all of them (namespace None), those of a namespace, or one."""
        parts = ["/apis", self.group, self.version] if self.group else ["/api", self.version]
        parts += [] if namespace is None else ["namespaces", namespace]
        parts += [self.plural, name or "", subresource or ""]
        return "/".join(part for part in parts if part)


PRETRAIN_JOBS = Resource(GROUP, VERSION, "pretrainjobs", KIND)
JOBS = Resource("batch", "v1", "jobs", "Job", JOB_LABEL)
PYTORCH_JOBS = Resource("kubeflow.org", "v1", "pytorchjobs", "PyTorchJob", JOB_LABEL)
PODS = Resource("", "v1", "pods", "Pod", JOB_LABEL)
CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap", JOB_LABEL)
EVENTS = Resource("", "v1", "events", "Event")
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease")
NAMESPACES = Resource("", "v1", "namespaces", "Namespace")

STORED = (CONFIG_MAPS, JOBS, PYTORCH_JOBS, PODS, PRETRAIN_JOBS)
"""What the stores hold, in the order in which it is listed: children first, so that no job is seen without them."""

BY_KIND = {resource.kind: resource for resource in (*STORED, EVENTS, LEASES)}
