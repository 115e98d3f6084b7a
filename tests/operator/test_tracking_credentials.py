"""Credentials of experiment trackers: in the training pods alone, each by its key, from the job's own namespace."""

from __future__ import annotations

from typing import Any

import pytest
from pretrain_operator.api import parse_job
from pretrain_operator.backends import pytorch_job
from pretrain_operator.indexed_job import indexed_job
from pretrain_operator.stages import Site, stages

from tests.operator.jobs import job

WANDB = {"project": "small", "apiKeySecretRef": {"name": "wandb"}}
MLFLOW = {
    "trackingURI": "https://mlflow.example/base",
    "experiment": "small ones",
    "credentialsSecretRef": {"name": "mlflow"},
}


def from_secrets(pod: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The variables of a pod's container that come from Secrets of trackers."""
    found = {}
    for entry in pod["spec"]["containers"][0]["env"]:
        reference = entry.get("valueFrom", {}).get("secretKeyRef")
        if reference and reference["name"] in ("wandb", "mlflow"):
            found[entry["name"]] = reference
    return found


@pytest.mark.parametrize(
    ("tracking", "variables"),
    [
        (None, {}),
        ({"wandb": {"project": "small", "mode": "offline"}}, {}),
        ({"mlflow": {**MLFLOW, "credentialsSecretRef": None}}, {}),
        ({"wandb": WANDB}, {"WANDB_API_KEY": {"name": "wandb", "key": "WANDB_API_KEY"}}),
        (
            {"wandb": WANDB, "mlflow": MLFLOW},
            {
                "WANDB_API_KEY": {"name": "wandb", "key": "WANDB_API_KEY"},
                **{
                    key: {"name": "mlflow", "key": key, "optional": True}
                    for key in ("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
                },
            },
        ),
    ],
)
def test_training_pods_and_no_others_get_the_keys(tracking: dict[str, Any] | None, variables: dict[str, Any]) -> None:
    parsed = parse_job(job({"training.tracking": tracking}), "job.yaml")
    for stage in stages(parsed, Site("/etc/pretrain/job.json")):
        if stage.kind == "training":
            group = pytorch_job.training_group(parsed, stage, 1)
            pod = group["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]
            assert from_secrets(pod) == variables
        else:
            assert from_secrets(indexed_job(parsed, stage)["spec"]["template"]) == {}
