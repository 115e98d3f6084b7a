"""A job that can be hit while it trains: its text is finished already, and a step of it takes most of a second.

paced   the job's manifest, its storage, and what it exports if nothing disturbs it; once a session
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import obstore
import pytest
from pretrain_stage.storage import Storage

from tests.e2e.jobs import STAGES, tiny_job
from tests.e2e.kubectl import Kubectl, new_namespace
from tests.e2e.s3 import ClusterS3
from tests.e2e.served import served
from tests.e2e.undisturbed import NAME, Outcome, Undisturbed, outcome
from tests.e2e.waiting import eventually, succeeded, until

STEPS, STEP_TOKENS, CHECKPOINT_STEPS = 40, 8192, 5
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


def said(kubectl: Kubectl, pod: str, event: str, step: int, seconds: float = 240) -> dict[str, Any]:
    """The first event of this kind that a training pod logs of this step or a later one."""

    def look() -> list[dict[str, Any]]:
        lines = kubectl.run("logs", pod).stdout.splitlines()
        events = [json.loads(line) for line in lines if line.startswith("{")]
        return [one for one in events if one.get("event") == event and one.get("step", -1) >= step]

    return eventually(look, bool, seconds)[0]
