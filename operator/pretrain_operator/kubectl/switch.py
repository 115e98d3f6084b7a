"""`suspend` and `resume`: the field spec.suspend of a job."""

from __future__ import annotations

from collections.abc import Sequence

from pretrain_stage.errors import EXIT_USER_ERROR

from pretrain_operator.api import GROUP, KIND
from pretrain_operator.kubectl.connection import Cluster
from pretrain_operator.kubectl.refusal import ClusterError, Refusal, explained
from pretrain_operator.kubectl.seen import seen


def switch(cluster: Cluster, names: Sequence[str], namespace: str, *, suspend: bool) -> None:
    """Suspends or resumes the jobs, and says what became of each. Raises ClusterError for one that has finished."""
    verb = "suspend" if suspend else "resume"
    for name in names:
        job = seen(cluster.job(name, namespace))
        if job.finished is not None:
            raise ClusterError(
                f"{name} has {job.finished.lower()} and stays so; there is nothing to {verb}: delete it and submit it "
                "again, and what is finished is found in its storage",
                EXIT_USER_ERROR,
            )
        if job.suspended == suspend:
            print(f"{KIND.lower()}.{GROUP}/{name} {'already suspended' if suspend else 'not suspended'}")
            continue
        answer = cluster.change_job(name, namespace, {"spec": {"suspend": suspend}})
        if isinstance(answer, Refusal):
            raise explained(answer, f"{verb} pretrainjob {name}", namespace)
        print(f"{KIND.lower()}.{GROUP}/{name} {verb}{'ed' if suspend else 'd'}", flush=True)
