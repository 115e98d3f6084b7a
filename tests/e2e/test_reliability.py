"""Everything that happens to long runs, to one job; and a pod that goes on although nobody can see it any more. Needs two nodes."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

import pytest
from pretrain_stage.storage import Storage
from pretrain_trainer import commit_log
from pretrain_trainer.commit_log import Entry

from tests.e2e.kubectl import Kubectl
from tests.e2e.nodes import NOTICED_SECONDS, Nodes, needs_cut
from tests.e2e.paced import CHECKPOINT_STEPS, STEP_TOKENS, Paced, newest, said, training_pods
from tests.e2e.s3 import CUT_NODE
from tests.e2e.served import Served, Serving
from tests.e2e.test_training_faults import kill_ranks
from tests.e2e.undisturbed import outcome
from tests.e2e.waiting import in_attempt, succeeded, until

pytestmark = [pytest.mark.e2e, needs_cut]

LONG_STEPS = 480
"""So many that a pod still trains when the one in its place begins: a node is given up after about 85 s."""
ALIVE_SECONDS = 60.0


def test_a_job_that_everything_happens_to(paced: Paced, nodes: Nodes, serving: Serving) -> None:
    """A rank killed, the operator killed, a node drained and a node cut off: the model is the same to the byte."""
    kubectl, lost = nodes.kubectl, str(CUT_NODE)
    (other, *_) = (name for name in nodes.names if name != lost)
    nodes.allow(other)
    storage = paced.apply(kubectl, "paced", nodes.selector)
    operator = serving(kubectl)

    said(kubectl, "paced", 1, "step", CHECKPOINT_STEPS + 2)
    begun = time.time()
    kill_ranks(kubectl, "paced-train-worker-1")
    _goes_on(kubectl, storage, 2, "rank killed", begun)

    begun = time.time()
    operator = _killed_and_started(kubectl, operator, serving)
    kubectl("delete", "pod", "paced-train-worker-0", "--wait=false")
    _goes_on(kubectl, storage, 3, "operator killed, pod deleted", begun)

    nodes.allow(lost)
    begun = time.time()
    with nodes.drained(other, "pretrain.dev/job=paced"):
        _goes_on(kubectl, storage, 4, "node drained", begun)
        assert {pod["spec"]["nodeName"] for pod in training_pods(kubectl)} == {lost}

    begun = time.time()
    with nodes.cut(lost):
        until(kubectl, "paced", in_attempt(5), seconds=NOTICED_SECONDS)
        operator = _killed_and_started(kubectl, operator, serving)
        _goes_on(kubectl, storage, 5, "node cut off, operator killed", begun)
        job = until(kubectl, "paced", succeeded)

    assert outcome(storage) == paced.outcome
    assert [(one["attempt"], one["reason"]) for one in job["status"]["restarts"]] == [
        (1, "Infrastructure"),
        (2, "Disruption"),
        (3, "Disruption"),
        (4, "Disruption"),
    ]
    assert job["status"]["restartCount"] == 1, "only the killed rank is on the job's account"


def test_a_pod_that_was_given_up_commits_nothing_more(paced: Paced, nodes: Nodes, serving: Serving) -> None:
    """Its node does not answer, so it is replaced, but it trains on and reaches the storage: two writers, one of which may commit."""
    kubectl, lost = nodes.kubectl, str(CUT_NODE)
    (other, *_) = (name for name in nodes.names if name != lost)
    nodes.allow(lost)
    alone = {
        "training.nodes": 1,
        "training.processesPerNode": 2,
        "training.tokens": LONG_STEPS * STEP_TOKENS,
        "training.validation": {"everySteps": LONG_STEPS, "maxSequences": 8},
    }
    storage = paced.apply(kubectl, "paced", nodes.selector | alone)
    serving(kubectl)
    said(kubectl, "paced", 1, "step", CHECKPOINT_STEPS + 2)
    nodes.allow(other)
    with nodes.cut(lost, "kubelet"):
        cut = time.time()
        until(kubectl, "paced", in_attempt(2), seconds=NOTICED_SECONDS)
        began = said(kubectl, "paced", 2, "first_step")
        entries = _log(storage)
        place = next(slot for slot, entry in enumerate(entries) if (entry.kind, entry.attempt) == ("begin", 2))
        last = entries[place - 1]
        assert (last.kind, last.attempt) == ("commit", 1)
        assert _moment(last) > cut, "the pod went on after its node was cut off"
        assert _moment(entries[place]) - _moment(last) < ALIVE_SECONDS, "and it was alive when the next attempt began"
        assert began["first_step"] == (last.step or 0) + 1, "which goes on from its last checkpoint"
        until(kubectl, "paced", succeeded)
    entries = _log(storage)
    late = [entry for entry in entries[place:] if entry.attempt == 1]
    assert not late, "an attempt that is over has written"
    print(
        f"attempt 1 committed step {last.step} {_moment(last) - cut:.0f} s after the cut; attempt 2 began {_moment(entries[place]) - cut:.0f} s after it"
    )


def _goes_on(kubectl: Kubectl, storage: Storage, attempt: int, what: str, begun: float) -> None:
    """Waits until an attempt has trained a few steps beyond the newest checkpoint that it found."""
    first = said(kubectl, "paced", attempt, "first_step")
    step = said(kubectl, "paced", attempt, "step", max(first["first_step"], newest(storage)) + 2)
    began = datetime.fromisoformat(said(kubectl, "paced", attempt, "step")["time"]).timestamp()
    print(
        f"{what}: attempt {attempt} from step {first['first_step']}, first step after {began - begun:.1f} s, now at {step['step']}"
    )


def _killed_and_started(kubectl: Kubectl, operator: Served, serving: Serving) -> Served:
    operator.process.kill()
    operator.process.wait()
    return serving(kubectl)


def _log(storage: Storage) -> list[Entry]:
    """All entries of the commit log, the first of which has slot 1."""
    return [commit_log.read(storage, slot) for slot in range(1, commit_log.last(storage).slot + 1)]


def _moment(entry: Any) -> float:
    return datetime.fromisoformat(entry.time).timestamp()
