"""A job that can be hit while it trains: its text is finished already, and it takes its steps for most of a minute.

paced   the job's manifest, its storage, and what it exports if nothing disturbs it; once a session
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import obstore
import pytest
from pretrain_stage.storage import Storage

from tests.e2e.jobs import STAGES, tiny_job
from tests.e2e.kubectl import Kubectl, new_namespace
from tests.e2e.s3 import ClusterS3
from tests.e2e.served import served
from tests.e2e.undisturbed import NAME, Outcome, Undisturbed, outcome
from tests.e2e.waiting import RUN_SECONDS, condition, eventually, failed, succeeded, until

STEPS, STEP_TOKENS, CHECKPOINT_STEPS = 120, 8192, 5
TEXT_STAGES = STAGES[: STAGES.index("train")]
PACED = {
    "training.tokens": STEPS * STEP_TOKENS,
    "training.globalBatchTokens": STEP_TOKENS,
    "training.checkpoints": {"everySteps": CHECKPOINT_STEPS, "keepLast": 3},
    "training.validation": {"everySteps": STEPS, "maxSequences": 8},
}


@dataclass(frozen=True)
class Paced:
    """Where such jobs come from, and what they come to."""

    s3: ClusterS3
    text: str
    """Prefix in the bucket under which everything up to training is finished."""
    outcome: Outcome

    def apply(self, kubectl: Kubectl, name: str = "paced", spec: dict[str, Any] | None = None) -> Storage:
        """Creates such a job, with its text finished. To be called before an operator serves the namespace."""
        return begin(self.s3, self.text, kubectl, name, PACED | (spec or {}))


@pytest.fixture(scope="session")
def paced(s3: ClusterS3, undisturbed: Undisturbed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Paced]:
    """Such jobs, after one of them has run undisturbed."""
    text = f"{undisturbed.kubectl.namespace}/{NAME}"
    with new_namespace("paced") as kubectl:
        kubectl("apply", "-f", "-", stdin=s3.secret())
        storage = begin(s3, text, kubectl, "paced", PACED)
        with served(kubectl, tmp_path_factory.mktemp("paced")):
            until(kubectl, "paced", succeeded)
        yield Paced(s3, text, outcome(storage))


def begin(s3: ClusterS3, text: str, kubectl: Kubectl, name: str, spec: dict[str, Any]) -> Storage:
    """Creates a job whose storage and status say that its text is finished, as after its Jobs were cleaned away.

    text: the prefix of a finished job. Returns the new job's storage.
    """
    _copy_text(s3.storage(""), text, f"{kubectl.namespace}/{name}")
    kubectl("apply", "-f", "-", stdin=tiny_job(s3, kubectl.namespace, name, spec))
    stages = [{"name": stage, "state": "Succeeded", "tasks": 1, "succeeded": 1} for stage in TEXT_STAGES]
    status = json.dumps({"status": {"stages": stages}})
    kubectl("patch", "pretrainjob", name, "--subresource=status", "--type=merge", "-p", status)
    return s3.storage(f"{kubectl.namespace}/{name}")


def _copy_text(bucket: Storage, source: str, target: str) -> None:
    """Everything up to training, and the manifests that say so."""
    for entry in bucket.entries(source):
        path = entry.path.removeprefix(f"{source}/")
        folder, _, rest = path.partition("/")
        stage = rest.partition("/")[0].removesuffix(".json")
        if folder in ("corpus", "tokenizer", "tokens") or (folder == "stages" and stage in TEXT_STAGES):
            obstore.copy(bucket.store, entry.path, f"{target}/{path}")


def said(
    kubectl: Kubectl, name: str, attempt: int, key: str, least: int = 0, seconds: float = RUN_SECONDS
) -> dict[str, Any]:
    """The first event that a training pod of this attempt logs with a number of at least `least` under `key`."""

    def look() -> list[dict[str, Any]]:
        labels = f"pretrain.dev/job={name},pretrain.dev/stage=train,pretrain.dev/attempt={attempt}"
        lines = kubectl.run("logs", "--selector", labels, "--container=pytorch", "--tail=-1").stdout.splitlines()
        events = [json.loads(line) for line in lines if line.startswith("{")]
        found = [one for one in events if one.get(key, -1) >= least]
        job = kubectl.get(f"pretrainjob/{name}")
        assert found or not failed(job), f"it will never say so: {condition(job, 'Failed')['message']}"
        assert found or not succeeded(job), "it will never say so: the job is finished"
        return found

    return eventually(look, bool, seconds)[0]


def went_on(kubectl: Kubectl, attempt: int, newest: int, times: dict[str, float]) -> None:
    """Whether the attempt of the job `paced` begins after the newest checkpoint. Shows how long each part took."""
    began = said(kubectl, "paced", attempt, "first_step")
    assert began["first_step"] == newest + 1
    started = [pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"] for pod in training_pods(kubectl)]
    times["new pods running"] = max(datetime.fromisoformat(moment).timestamp() for moment in started)
    first = said(kubectl, "paced", attempt, "step", newest + 1)
    times["first new step"] = datetime.fromisoformat(first["time"]).timestamp()
    begun = min(times.values())
    print(", ".join(f"{what} {moment - begun:.1f} s" for what, moment in sorted(times.items(), key=lambda item: item[1])))


def newest_of(kubectl: Kubectl, storage: Storage, pods: list[dict[str, Any]]) -> int:
    """The step of the newest checkpoint that these pods leave, once they have ended."""
    uids = {pod["metadata"]["uid"] for pod in pods}
    eventually(lambda: [pod for pod in training_pods(kubectl) if pod["metadata"]["uid"] in uids], lambda left: not left, 120)
    return newest(storage)


def newest(storage: Storage) -> int:
    """The step of the newest committed checkpoint."""
    paths = [entry.path.split("/") for entry in storage.entries("checkpoints")]
    return max(int(path[1].split("-")[1]) for path in paths if path[-1] == "COMMITTED")


def training_pods(kubectl: Kubectl) -> list[dict[str, Any]]:
    return list(kubectl.get("pods", "--selector=pretrain.dev/stage=train")["items"])
