"""The pod template of a stage: the same for all kinds of workload, and always within restricted Pod Security.

What a user wrote reaches a pod through the job file, which is mounted, and through an allow-list of scheduling fields. The
command is an argument list of ours: no shell, no text of a user's.
"""

from __future__ import annotations

from typing import Any

from pretrain_stage.config import SecretRef
from torchx import specs

from pretrain_operator.api import PretrainJob
from pretrain_operator.config_map import config_map_name
from pretrain_operator.names import labels
from pretrain_operator.stages import Stage

JOB_FOLDER = "/etc/pretrain"
SCRATCH = "/scratch"
TMP, SHARED_MEMORY = "/tmp", "/dev/shm"  # noqa: S108 - paths in a container, each an empty volume of the pod's own
GPU = "nvidia.com/gpu"
CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
WANDB_KEY = "WANDB_API_KEY"
MLFLOW_CREDENTIALS = ("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
USER = 1000
"""Any but root; files in volumes belong to its group."""

LAUNCHER_GRACE_SECONDS = 300
"""How long the processes of a launcher may take to save after SIGTERM."""
SHUTDOWN_MARGIN_SECONDS = 5
"""What torchrun leaves of that to the launcher; its own default would kill ranks after 30 s."""

LOST_NODE_SECONDS = 30
"""How long a pod stays bound to a node that does not answer, after the 50 s that pass until it is marked; default 300."""


def pod_template(
    job: PretrainJob,
    stage: Stage,
    *,
    container: str,
    replica: str,
    environment: list[dict[str, Any]],
    grace_seconds: int,
    attempt: int | None = None,
    affinity: dict[str, Any] | None = None,
    ports: list[dict[str, Any]] | None = None,
    shared_memory: bool = False,
) -> dict[str, Any]:
    """The template of the pods of a stage.

    container: name of the one container. replica: what stands for the replica's number in its arguments.
    environment: variables besides those of the stage. attempt: which start of a group this is, where groups are restarted.
    """
    volumes = _volumes(job, shared_memory)
    role = specs.macros.Values(img_root="", app_id=stage.name, replica_id=replica, rank0_env="").apply(stage.role)
    return {
        "metadata": {"labels": labels(job.metadata.name, stage.name, attempt)},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": grace_seconds,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": USER,
                "runAsGroup": USER,
                "fsGroup": USER,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            **_pull_secrets(stage),
            **_scheduling(job, affinity),
            "containers": [
                {
                    "name": container,
                    "image": role.image,
                    "imagePullPolicy": stage.images.pull_policy,
                    "command": [role.entrypoint, *role.args],
                    "env": [*environment, *_storage_credentials(job), *_tracking_credentials(job, stage), *_folders()],
                    **({"ports": ports} if ports else {}),
                    "resources": _resources(stage),
                    # A program that dies before it can say why (out of memory, a broken image) leaves its last lines.
                    "terminationMessagePolicy": "FallbackToLogsOnError",
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                    "volumeMounts": [mount for _, mount in volumes],
                }
            ],
            "volumes": [volume for volume, _ in volumes],
        },
    }


def _pull_secrets(stage: Stage) -> dict[str, Any]:
    secrets = [{"name": name} for name in stage.images.pull_secrets]
    return {"imagePullSecrets": secrets} if secrets else {}


def of_launchers() -> list[dict[str, Any]]:
    """Variables of a program that starts others, in all kinds of workload."""
    return [
        {"name": "PRETRAIN_METRICS_ADDRESS", "value": "0.0.0.0"},  # noqa: S104 - Prometheus scrapes the pod
        {"name": "TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "value": str(LAUNCHER_GRACE_SECONDS - SHUTDOWN_MARGIN_SECONDS)},
    ]


def _volumes(job: PretrainJob, shared_memory: bool) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Volumes with their mounts: the job file, and what may be written to."""
    made: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (
            {"name": "job", "configMap": {"name": config_map_name(job)}},
            {"name": "job", "mountPath": JOB_FOLDER, "readOnly": True},
        ),
        ({"name": "tmp", "emptyDir": {}}, {"name": "tmp", "mountPath": TMP}),
        ({"name": "scratch", "emptyDir": {}}, {"name": "scratch", "mountPath": SCRATCH}),
    ]
    if shared_memory:
        # The container's own /dev/shm has 64 MiB, too little for NCCL and for data loading. It counts as memory of the pod.
        made.append(({"name": "shm", "emptyDir": {"medium": "Memory"}}, {"name": "shm", "mountPath": SHARED_MEMORY}))
    return made


def _folders() -> list[dict[str, Any]]:
    """Where programs and libraries write: the root file system is read-only."""
    return [{"name": "HOME", "value": TMP}, {"name": "TMPDIR", "value": SCRATCH}]


def _storage_credentials(job: PretrainJob) -> list[dict[str, Any]]:
    """Exactly these two keys of the Secret: whatever else is in it stays out of the environment."""
    secret = job.spec.storage.credentials_secret_ref
    return [] if secret is None else [_from_secret(secret, key) for key in CREDENTIALS]


def _tracking_credentials(job: PretrainJob, stage: Stage) -> list[dict[str, Any]]:
    """The keys of experiment trackers, for training alone. Of MLflow's, those that the Secret has: a token, or user and
    password.
    """
    tracking = job.spec.training.tracking
    if stage.kind != "training" or tracking is None:
        return []
    made = []
    if tracking.wandb is not None and tracking.wandb.api_key_secret_ref is not None:
        made.append(_from_secret(tracking.wandb.api_key_secret_ref, WANDB_KEY))
    if tracking.mlflow is not None and tracking.mlflow.credentials_secret_ref is not None:
        made += [_from_secret(tracking.mlflow.credentials_secret_ref, key, optional=True) for key in MLFLOW_CREDENTIALS]
    return made


def _from_secret(secret: SecretRef, key: str, *, optional: bool = False) -> dict[str, Any]:
    """A variable from the key of its name in a Secret of the job's namespace."""
    reference = {"name": secret.name, "key": key, **({"optional": True} if optional else {})}
    return {"name": key, "valueFrom": {"secretKeyRef": reference}}


def _resources(stage: Stage) -> dict[str, Any]:
    """Requests as the user wrote them; memory and GPUs are limits too. CPU has no limit: throttling helps nobody."""
    gpus = {GPU: stage.role.resource.gpu} if stage.role.resource.gpu else {}
    memory = {"memory": stage.resources.memory}
    return {"requests": {"cpu": stage.resources.cpu, **memory, **gpus}, "limits": {**memory, **gpus}}


def _scheduling(job: PretrainJob, affinity: dict[str, Any] | None) -> dict[str, Any]:
    """The allow-list of what a user may say about where pods run."""
    wanted = job.spec.scheduling
    made: dict[str, Any] = {
        "tolerations": [
            *(toleration.model_dump(mode="json", exclude_none=True) for toleration in wanted.tolerations),
            *(
                {
                    "key": f"node.kubernetes.io/{fault}",
                    "operator": "Exists",
                    "effect": "NoExecute",
                    "tolerationSeconds": LOST_NODE_SECONDS,
                }
                for fault in ("not-ready", "unreachable")
            ),
        ]
    }
    if wanted.node_selector:
        made["nodeSelector"] = dict(wanted.node_selector)
    if wanted.priority_class_name is not None:
        made["priorityClassName"] = wanted.priority_class_name
    if affinity is not None:
        made["affinity"] = affinity
    return made
