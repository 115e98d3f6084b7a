"""A stage that is split into tasks, as an Indexed Job: the completion index is the task.

Kubernetes runs an index again that failed, up to RETRIES times; a pod that a node drain or a lost node took with it uses up
no retry; a user's mistake (exit code 65) ends the Job at once, because every other index would make it too.
"""

from __future__ import annotations

from typing import Any

from pretrain_stage.errors import EXIT_STOPPED, EXIT_USER_ERROR

from pretrain_operator.api import PretrainJob
from pretrain_operator.metadata import suspension, workload_metadata
from pretrain_operator.names import INDEXED_SUFFIX, child_name
from pretrain_operator.pod import LAUNCHER_GRACE_SECONDS, of_launchers, pod_template
from pretrain_operator.stages import Stage

CONTAINER = "stage"
RETRIES = 3
GRACE_SECONDS = 30


def indexed_job(job: PretrainJob, stage: Stage) -> dict[str, Any]:
    """The Indexed Job (batch/v1) of a stage."""
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": workload_metadata(job, child_name(job.metadata.name, stage.name, INDEXED_SUFFIX), stage.name),
        "spec": {
            "completionMode": "Indexed",
            "completions": stage.tasks,
            "parallelism": stage.parallelism,
            **suspension(job),
            "backoffLimitPerIndex": RETRIES,
            # One index that cannot be done leaves the stage undone. What others have finished is kept and used again.
            "maxFailedIndexes": 0,
            # Two pods of one index would write the same files at the same time.
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {
                "rules": [
                    _on_exit("FailJob", EXIT_USER_ERROR),
                    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                    _on_exit("Ignore", EXIT_STOPPED),
                ]
            },
            "template": pod_template(
                job,
                stage,
                container=CONTAINER,
                replica="$(JOB_COMPLETION_INDEX)",
                environment=[
                    *({"name": name, "value": value} for name, value in stage.role.env.items()),
                    *(of_launchers() if stage.processes else []),
                ],
                grace_seconds=LAUNCHER_GRACE_SECONDS if stage.processes else GRACE_SECONDS,
                shared_memory=stage.processes > 1,
                ports=[{"name": name, "containerPort": port} for name, port in stage.role.port_map.items()],
            ),
        },
    }


def _on_exit(action: str, code: int) -> dict[str, Any]:
    return {"action": action, "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": [code]}}
