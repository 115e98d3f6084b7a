"""The job file as a ConfigMap: what every pod of a job mounts.

Its name carries a digest of its content, and it is immutable: a pod template names exactly the job file that its pods read.
Were one ConfigMap changed in place, the nodes of a training group could start with different files, since each kubelet
refreshes its copy in its own time (docs/decisions/job-file-in-a-config-map.md).
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pretrain_stage.errors import UserError

from pretrain_operator.api import PretrainJob
from pretrain_operator.metadata import child_metadata
from pretrain_operator.names import child_name

KEY = "job.json"
MOST_BYTES = 1024 * 1024
"""What a ConfigMap may hold."""

FOR_ENGINES = (
    "suspend",
    "managedBy",
    "activeDeadlineSeconds",
    "ttlSecondsAfterFinished",
    "scheduling",
    "cost",
    "corpus.parallelism",
    "corpus.resources",
    "training.maxRestarts",
)
"""Fields that no stage program reads: changing them makes no new job file, and so no new ConfigMap."""


def config_map(job: PretrainJob) -> dict[str, Any]:
    """The ConfigMap with the job file. Raises UserError if the job is too large for one."""
    content = _content(job)
    size = len(content.encode())
    if size > MOST_BYTES:
        raise UserError(
            f"spec: {size} bytes as a job file, a ConfigMap holds {MOST_BYTES}; shorten evaluation.prompts or corpus.sources"
        )
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": child_metadata(job, config_map_name(job)),
        "immutable": True,
        "data": {KEY: content},
    }


def config_map_name(job: PretrainJob) -> str:
    """The name of the job's ConfigMap: another one for every content."""
    return child_name(job.metadata.name, f"job-{hashlib.sha256(_content(job).encode()).hexdigest()[:10]}")


def _content(job: PretrainJob) -> str:
    """The job file without what engines alone read; those fields take their defaults where the file is read as a job."""
    resolved = job.job_file()
    for path in FOR_ENGINES:
        *sections, field = path.split(".")
        section = resolved["spec"]
        for name in sections:
            section = section[name]
        section.pop(field, None)
    return json.dumps(resolved, ensure_ascii=False, indent=2) + "\n"
