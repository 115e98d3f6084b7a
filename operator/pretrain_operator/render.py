"""A job on paper: its stages as a table, and everything the operator would create for it, without a cluster."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import yaml

from pretrain_operator.api import PretrainJob, check_in_cluster
from pretrain_operator.children import children
from pretrain_operator.stages import Images, Stage

HEADINGS = ("STAGE", "TASKS", "AT ONCE", "CPU", "MEMORY", "GPUS", "COMMAND")


def render(job: PretrainJob, images: Images) -> list[dict[str, Any]]:
    """The Kubernetes objects of a job, in the order in which they are applied.

    Raises UserError if the job can run on one machine but not in a cluster.
    """
    check_in_cluster(job)
    return children(job, images)


def describe(stages: Sequence[Stage]) -> str:
    """The stages as a table for people: what runs, how often, with what, and the command line of one task."""
    rows = [HEADINGS, *(_row(stage) for stage in stages)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    return "\n".join("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def as_yaml(objects: Sequence[dict[str, Any]]) -> str:
    """The objects as documents of one YAML file."""
    return "---\n".join(yaml.safe_dump(item, sort_keys=False, allow_unicode=True, width=120) for item in objects)


def as_json(objects: Sequence[dict[str, Any]]) -> str:
    """The objects as one List."""
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}, ensure_ascii=False, indent=2) + "\n"


def job_file_text(job: PretrainJob) -> str:
    """The job file: the job with every default written out."""
    return json.dumps(job.job_file(), ensure_ascii=False, indent=2) + "\n"


def _row(stage: Stage) -> tuple[str, ...]:
    resources, role = stage.resources, stage.role
    command = " ".join([role.entrypoint, *role.args]).replace("${replica_id}", "I")
    gpus = str(role.resource.gpu or "-")
    return stage.name, str(stage.tasks), str(stage.parallelism), resources.cpu, resources.memory, gpus, command
