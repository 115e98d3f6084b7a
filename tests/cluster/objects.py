"""Objects as an API server would send them."""

from __future__ import annotations

from typing import Any

from tests.operator.jobs import job

NAMESPACE = "team"


def pretrain_job(name: str = "small", version: int = 1, uid: str | None = None, **extra: Any) -> dict[str, Any]:
    """A PretrainJob."""
    body = job({"storage.uri": f"s3://{extra.pop('bucket', 'models')}/{name}"})
    metadata = {"name": name, "namespace": NAMESPACE, "uid": uid or f"uid-{name}", "resourceVersion": str(version)}
    return body | {"metadata": metadata | {"generation": 1, "creationTimestamp": "2026-01-02T03:04:05Z"}} | extra


def child(kind: str, name: str, version: int = 1, owner: str | None = "uid-small", **extra: Any) -> dict[str, Any]:
    """A child of the job `small`, controlled by the object with the uid `owner`."""
    api_version = {"Job": "batch/v1", "PyTorchJob": "kubeflow.org/v1"}.get(kind, "v1")
    metadata: dict[str, Any] = {
        "name": name,
        "namespace": NAMESPACE,
        "uid": extra.pop("uid", f"uid-{name}"),
        "resourceVersion": str(version),
        "labels": {"pretrain.dev/job": extra.pop("job", "small")},
        "managedFields": [{"manager": "somebody"}],
    }
    if owner is not None:
        kind_of_owner = extra.pop("owner_kind", "PretrainJob")
        metadata["ownerReferences"] = [
            {"apiVersion": "x/v1", "kind": kind_of_owner, "name": "small", "uid": owner, "controller": True}
        ]
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata} | extra


def finished(body: dict[str, Any], version: int) -> dict[str, Any]:
    """The job, having succeeded."""
    metadata = body["metadata"] | {"resourceVersion": str(version)}
    return body | {"metadata": metadata, "status": {"conditions": [{"type": "Succeeded", "status": "True"}]}}
