"""What a PretrainJob becomes in a cluster: a ConfigMap, an Indexed Job for each stage, and a training group. Pure."""

from __future__ import annotations

from typing import Any

from pretrain_operator.api import PretrainJob
from pretrain_operator.backends import BACKENDS
from pretrain_operator.config_map import KEY, config_map
from pretrain_operator.digest import marks
from pretrain_operator.indexed_job import indexed_job
from pretrain_operator.pod import JOB_FOLDER
from pretrain_operator.stages import Images, Site, Stage, stages


def cluster_site(job: PretrainJob, images: Images) -> Site:
    """Where the job's stages run in a cluster."""
    return Site(
        job_file=f"{JOB_FOLDER}/{KEY}",
        images=images,
        master_address=BACKENDS[job.spec.training.backend].master_address(job),
        preprocess_metrics_port=Site.metrics_port,
    )


def children(job: PretrainJob, images: Images) -> list[dict[str, Any]]:
    """All objects of a job, in the order in which they are applied."""
    return [config_map(job), *(child(job, stage) for stage in stages(job, cluster_site(job, images)))]


def child(job: PretrainJob, stage: Stage, attempt: int = 1, generation: int | None = None) -> dict[str, Any]:
    """The object that runs a stage.

    attempt: for training, which start of the group this is. generation: that of the job in the cluster.
    """
    match stage.kind:
        case "indexed":
            made = indexed_job(job, stage)
        case "training":
            made = BACKENDS[job.spec.training.backend].training_group(job, stage, attempt)
    made["metadata"]["annotations"] = marks(job, stage, generation)
    return made
