"""One tiny job that nothing disturbs, run once a session: what it exports is what every other run has to export.

Same text, configuration and seed give the same bytes, so a run that was killed, drained or upgraded on its way must end with
the lineage and with the weights of this one (`Outcome`). Its operator and its namespace stay until the session ends.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from pretrain_stage.manifest import read_manifest
from pretrain_stage.storage import Storage

from tests.e2e.installed import Operator, installed
from tests.e2e.jobs import STAGES, tiny_job
from tests.e2e.kubectl import Kubectl, new_namespace
from tests.e2e.s3 import ClusterS3
from tests.e2e.waiting import Job, succeeded, until

NAME = "tiny"
OTHER_SECRET = "of-another"
"""A Secret beside the one that the job names."""


@dataclass(frozen=True)
class Outcome:
    """What a finished run left in storage, without times."""

    lineage: dict[str, str]
    """The identity of each stage; it follows from the bytes that all stages before it made."""
    model: str
    """SHA-256 of the exported weights, as they lie in storage."""


@dataclass(frozen=True)
class Undisturbed:
    """The run, seen from outside."""

    kubectl: Kubectl
    operator: Operator
    manifest: Job
    """As it was applied."""
    job: Job
    """As it was when it had succeeded."""
    storage: Storage
    outcome: Outcome
    tables: tuple[str, ...]
    """Each different answer of `kubectl get pretrainjobs` while it ran."""
    training_metrics: str
    """What the first pod of training answered to GET /metrics when it first did."""
    seconds: float


def outcome(storage: Storage) -> Outcome:
    """What lies in the storage of a job that has succeeded."""
    manifests = {stage: read_manifest(storage, stage) for stage in STAGES if stage != "preflight"}  # it makes nothing
    missing = [stage for stage, manifest in manifests.items() if manifest is None]
    assert not missing, f"no manifest of {', '.join(missing)}"
    lineage = {stage: manifest.identity for stage, manifest in manifests.items() if manifest is not None}
    return Outcome(lineage, storage.sha256("export/model.safetensors"))


@pytest.fixture(scope="session")
def undisturbed(s3: ClusterS3, crd: None) -> Iterator[Undisturbed]:
    """The run, once it has succeeded."""
    with new_namespace("undisturbed") as kubectl, installed(kubectl.namespace) as operator:
        other = {"metadata": {"name": OTHER_SECRET}, "stringData": {"word": secrets.token_hex(16)}}
        for secret in (s3.secret(), s3.secret() | other):
            kubectl("apply", "-f", "-", stdin=secret)
        manifest = tiny_job(s3, kubectl.namespace, NAME)
        started = time.monotonic()
        kubectl("apply", "-f", "-", stdin=manifest)
        tables: dict[str, None] = {}
        metrics = ""

        def note(job: Job) -> None:
            nonlocal metrics
            tables[kubectl("get", "pretrainjobs")] = None
            if not metrics:  # training may be over before the status tells that it runs
                metrics = _metrics_of_training(kubectl)

        job = until(kubectl, NAME, succeeded, meanwhile=note)
        seconds = time.monotonic() - started
        storage = s3.storage(f"{kubectl.namespace}/{NAME}")
        yield Undisturbed(kubectl, operator, manifest, job, storage, outcome(storage), tuple(tables), metrics, seconds)


def _metrics_of_training(kubectl: Kubectl) -> str:
    """What the first pod of training answers, through the API server; nothing while it is not there, or does not answer."""
    path = f"/api/v1/namespaces/{kubectl.namespace}/pods/{NAME}-train-worker-0:9400/proxy/metrics"
    return str(kubectl.run("get", "--raw", path).stdout)
