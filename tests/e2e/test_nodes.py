"""Nodes that are drained, and one that is cut off, while training runs on them. Needs two nodes (nodes.py)."""

from __future__ import annotations

import time
from typing import Any

import pytest
from pretrain_operator.training_group import HURRIED_GRACE_SECONDS

from tests.e2e.kubectl import Kubectl
from tests.e2e.nodes import NOTICED_SECONDS, Nodes, needs_cut
from tests.e2e.paced import CHECKPOINT_STEPS, Paced, newest, said, training_pods, went_on
from tests.e2e.s3 import CUT_NODE
from tests.e2e.served import Serving
from tests.e2e.undisturbed import outcome
from tests.e2e.waiting import eventually, in_attempt, succeeded, until

pytestmark = pytest.mark.e2e


def test_a_drained_node_costs_neither_steps_nor_retries(paced: Paced, nodes: Nodes, serving: Serving) -> None:
    """The node under training is drained, then the node under a stage that is an Indexed Job; the model is the same."""
    kubectl, (first, second) = nodes.kubectl, nodes.names[:2]
    nodes.allow(first)
    storage = paced.apply(kubectl, "paced", nodes.selector)
    serving(kubectl)
    reached = said(kubectl, "paced", 1, "step", CHECKPOINT_STEPS + 2)["step"]
    assert {pod["spec"]["nodeName"] for pod in training_pods(kubectl)} == {first}

    nodes.allow(second)
    drained = time.time()
    with nodes.drained(first, "pretrain.dev/job=paced"):
        empty = time.time()
        saved = newest(storage)
        assert saved >= reached, "both pods saved before they went"
        job = until(kubectl, "paced", in_attempt(2), seconds=60)
        (restart,) = job["status"]["restarts"]
        assert restart["reason"] == "Disruption"
        assert "(EvictionByEvictionAPI)" in restart["message"], restart["message"]
        assert job["status"]["restartCount"] == 0
        times = {"drained": drained, "node empty": empty}
        went_on(kubectl, 2, saved, times)
        assert {pod["spec"]["nodeName"] for pod in training_pods(kubectl)} == {second}

    eventually(lambda: _evaluating(kubectl), lambda pods: bool(pods) and pods[0]["status"]["phase"] == "Running", 300)
    (pod,) = _evaluating(kubectl)
    drained = time.time()
    with nodes.drained(pod["spec"]["nodeName"], "pretrain.dev/job=paced"):
        new = eventually(lambda: [one for one in _evaluating(kubectl) if _uid(one) != _uid(pod)], bool, 120)
        print(f"drained 0.0 s, replaced {time.time() - drained:.1f} s")
        assert new[0]["metadata"]["annotations"]["batch.kubernetes.io/job-index-failure-count"] == "0"
        until(kubectl, "paced", succeeded)
    assert outcome(storage) == paced.outcome


@needs_cut
def test_a_node_that_is_cut_off(paced: Paced, nodes: Nodes, serving: Serving) -> None:
    """One pod of the group is on it: the other one cannot save, and is not waited for; the group goes on without the node."""
    kubectl, lost = nodes.kubectl, str(CUT_NODE)
    assert paced.s3.node != lost, f"the storage of all jobs is on {lost}, the node that is to be cut off"
    (other, *_) = (name for name in nodes.names if name != lost)
    cores = float(kubectl.get(f"node/{other}")["status"]["allocatable"]["cpu"].removesuffix("m"))
    cores = cores / 1000 if cores > 512 else cores
    # Two of these fit on a node, but only one beside what fills the first; the second node is opened when that one is placed.
    nodes.fill(lost, 0.5 * cores)
    nodes.allow(lost)
    storage = paced.apply(
        kubectl, "paced", nodes.selector | {"training.resources": {"cpu": f"{0.4 * cores:.2f}", "memory": "2Gi"}}
    )
    serving(kubectl)
    eventually(lambda: [pod["spec"].get("nodeName") for pod in training_pods(kubectl)], lambda there: lost in there, 60)
    nodes.allow(other)
    said(kubectl, "paced", 1, "step", CHECKPOINT_STEPS + 2)
    before = {pod["spec"]["nodeName"]: pod for pod in training_pods(kubectl)}
    assert set(before) == {lost, other}, "one pod on each"

    times = {"cut off": time.time()}
    with nodes.cut(lost):
        job = until(kubectl, "paced", in_attempt(2), seconds=NOTICED_SECONDS)
        times["detected"] = time.time()
        (restart,) = job["status"]["restarts"]
        assert restart["reason"] == "Disruption"
        assert f"node {lost} did not answer" in restart["message"], restart["message"]
        assert job["status"]["restartCount"] == 0
        eventually(lambda: _uid(before[lost]) in map(_uid, training_pods(kubectl)), lambda there: not there, 60)
        times["lost pod forced"] = time.time()
        eventually(lambda: _uid(before[other]) in map(_uid, training_pods(kubectl)), lambda there: not there, 120)
        times["survivor gone"] = time.time()
        assert times["survivor gone"] < times["detected"] + HURRIED_GRACE_SECONDS + 20
        went_on(kubectl, 2, newest(storage), times)
        assert {pod["spec"]["nodeName"] for pod in training_pods(kubectl)} == {other}
        until(kubectl, "paced", succeeded)
    assert outcome(storage) == paced.outcome


def _evaluating(kubectl: Kubectl) -> list[dict[str, Any]]:
    return list(kubectl.get("pods", "--selector=pretrain.dev/stage=evaluate")["items"])


def _uid(pod: dict[str, Any]) -> str:
    return str(pod["metadata"]["uid"])
