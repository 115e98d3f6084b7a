"""Training as a PyTorchJob of the Kubeflow training operator (v1.9): equal workers, and nothing left to its controller.

Workers only, without a Master: with one, success is said while workers still run, and workers get an init container that
restricted Pod Security refuses. `restartPolicy: Never`, because a group must be restarted as a whole, by our operator.
The training operator adds PET_NNODES and PET_NPROC_PER_NODE, and a headless Service for each pod.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pretrain_stage.process import ATTEMPT_VARIABLE
from torchx import specs

from pretrain_operator.api import PretrainJob
from pretrain_operator.metadata import suspension, workload_metadata
from pretrain_operator.names import ATTEMPT_LABEL, JOB_LABEL, STAGE_LABEL, WORKER_SUFFIX, child_name, labels
from pretrain_operator.pod import LAUNCHER_GRACE_SECONDS, of_launchers, pod_template
from pretrain_operator.stages import TRAINING, Stage

KIND: Literal["PyTorchJob"] = "PyTorchJob"
CONTAINER = "pytorch"
"""The training operator looks for a container of this name."""
INDEX_LABEL = "training.kubeflow.org/replica-index"
ADDED_BY_THE_TRAINING_OPERATOR = ("PET_NNODES", "PET_NPROC_PER_NODE")


def master_address(job: PretrainJob) -> str:
    """The Service of the first worker."""
    return f"{_name(job)}-worker-0"


def training_group(job: PretrainJob, stage: Stage, attempt: int) -> dict[str, Any]:
    """The PyTorchJob (kubeflow.org/v1) of the training stage."""
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": KIND,
        "metadata": workload_metadata(job, _name(job), stage.name, attempt),
        "spec": {
            "nprocPerNode": stage.role.env["PET_NPROC_PER_NODE"],
            # Pods stay until the operator has read why they ended.
            "runPolicy": {"cleanPodPolicy": "None", **suspension(job)},
            "pytorchReplicaSpecs": {
                "Worker": {
                    "replicas": stage.tasks,
                    "restartPolicy": "Never",
                    "template": pod_template(
                        job,
                        stage,
                        container=CONTAINER,
                        replica="$(PET_NODE_RANK)",
                        environment=_environment(stage, attempt),
                        grace_seconds=LAUNCHER_GRACE_SECONDS,
                        attempt=attempt,
                        affinity=_same_topology(job, stage, attempt),
                        ports=[{"name": "metrics", "containerPort": int(stage.role.env["PRETRAIN_METRICS_PORT"])}],
                        shared_memory=True,
                    ),
                }
            },
        },
    }


def succeeded(group: Mapping[str, Any]) -> bool:
    """Whether all pods of the group have ended well."""
    return _says(group, "Succeeded") is not None


def failure(group: Mapping[str, Any]) -> str | None:
    """What the training operator says of a group that it has given up; None if it has not."""
    return _says(group, "Failed")


def suspended(group: Mapping[str, Any]) -> bool:
    """Whether the group waits to be admitted: it has no pods then."""
    return bool((group["spec"].get("runPolicy") or {}).get("suspend"))


def _says(group: Mapping[str, Any], condition: str) -> str | None:
    for one in (group.get("status") or {}).get("conditions") or []:
        if one.get("type") == condition and one.get("status") == "True":
            return str(one.get("message") or condition)
    return None


def _name(job: PretrainJob) -> str:
    return child_name(job.metadata.name, TRAINING, WORKER_SUFFIX)


def _environment(stage: Stage, attempt: int) -> list[dict[str, Any]]:
    """The stage's variables; the number of the node is known to its pod alone."""
    made: list[dict[str, Any]] = []
    for name, value in stage.role.env.items():
        if name in ADDED_BY_THE_TRAINING_OPERATOR:
            continue
        if value == specs.macros.replica_id:
            made.append({"name": name, "valueFrom": {"fieldRef": {"fieldPath": f"metadata.labels['{INDEX_LABEL}']"}}})
        else:
            made.append({"name": name, "value": value})
    return [
        *made,
        *of_launchers(),
        {"name": ATTEMPT_VARIABLE, "value": str(attempt)},
    ]


def _same_topology(job: PretrainJob, stage: Stage, attempt: int) -> dict[str, Any] | None:
    """All pods of this attempt in one topology domain. Pods of an earlier attempt that still end must not be followed."""
    key = job.spec.scheduling.topology_key
    if key is None:
        return None
    mine = labels(job.metadata.name, stage.name, attempt)
    selector = {"matchLabels": {name: mine[name] for name in (JOB_LABEL, STAGE_LABEL, ATTEMPT_LABEL)}}
    return {
        "podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": key, "labelSelector": selector}]}
    }
