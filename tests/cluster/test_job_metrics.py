"""What Prometheus is told of jobs: worked out when it asks, and gone with the job."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from pretrain_operator import catalogue
from pretrain_operator.cluster.job_metrics import JobMetrics
from pretrain_operator.cluster.stores import Stores
from pretrain_operator.observed import Progress
from pretrain_operator.storage_claim import bucket
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from tests.cluster.objects import child, pretrain_job

BEGIN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
"""When the job was made (objects.pretrain_job)."""
MANY = 1000


def stamp(seconds: float) -> str:
    return (BEGIN + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


STATUS: dict[str, Any] = {
    "phase": "Training",
    "stage": "train",
    "conditions": [
        {"type": "Progressing", "status": "True", "reason": "StageRunning", "message": "", "lastTransitionTime": stamp(5)},
        {"type": "Failed", "status": "False", "reason": "NotFinished", "message": "", "lastTransitionTime": stamp(5)},
    ],
    "stages": [
        {"name": "clean", "state": "Succeeded", "tasks": 9, "succeeded": 9},
        {"name": "train", "state": "Running", "tasks": 4, "succeeded": 1, "active": 2, "startTime": stamp(40)},
        {"name": "report", "state": "Pending", "tasks": 1},
    ],
    "training": {"attempt": 2},
    "restartCount": 1,
    "restartsByReason": {"Infrastructure": 1, "Edited": 2},
    "goodput": {
        "state": "productive", "since": stamp(100), "seconds": {"queued": 40, "initializing": 20, "productive": 40},
        "group": {"pod": "uid-p", "attempt": 2, "seconds": {"initializing": 20, "productive": 40}}, "ratio": 0.6667,
    },
    "cost": {"since": stamp(100), "gpuSeconds": 480.0, "spent": 1.2},
}  # fmt: skip


def trainer() -> list[dict[str, Any]]:
    """A training group of one pod, and that pod."""
    labels = {"pretrain.dev/job": "small", "pretrain.dev/stage": "train", "pretrain.dev/attempt": "2"}
    group = child("PyTorchJob", "small", uid="uid-g")
    pod = child("Pod", "p", owner="uid-g", owner_kind="PyTorchJob", spec={"nodeName": "n"})
    for one in (group, pod):
        one["metadata"] |= {"labels": labels | {"training.kubeflow.org/replica-index": "0"}, "creationTimestamp": stamp(40)}
    pod["status"] = {"phase": "Running"}
    return [group, pod]


class Desk:
    """A store, and what is read from it."""

    def __init__(self, *bodies: dict[str, Any]) -> None:
        self.stores, self.leads, self.seconds = Stores(bucket), True, 130.0
        self.heard: Progress | None = None
        for body in bodies:
            self.stores.put(body)
        self.registry = CollectorRegistry()
        now = lambda: BEGIN + timedelta(seconds=self.seconds)  # noqa: E731
        self.registry.register(JobMetrics(self.stores, lambda key: self.heard, lambda: self.leads, now))

    def tell(self, seconds: float, **account: float) -> None:
        self.heard = Progress("uid-p", BEGIN + timedelta(seconds=seconds), 5, 9, 5, seconds=account)

    def page(self) -> str:
        return generate_latest(self.registry).decode()

    def samples(self) -> Iterator[tuple[str, tuple[str, ...], float]]:
        for family in text_string_to_metric_families(self.page()):
            for sample in family.samples:  # labels come in the order of their names
                yield (
                    sample.name,
                    tuple(value for name, value in sample.labels.items() if name not in ("namespace", "name")),
                    sample.value,
                )

    def of(self, name: str) -> dict[tuple[str, ...], float]:
        return {labels: value for found, labels, value in self.samples() if found == name}


def gpu_job(**extra: Any) -> dict[str, Any]:
    body = pretrain_job(**extra)
    body["spec"]["training"] = body["spec"]["training"] | {"gpusPerNode": 8}
    return body | {"spec": body["spec"] | {"cost": {"pricePerGPUHour": 9, "budget": 500}}}


def test_all_that_is_told_of_a_job() -> None:
    desk = Desk(gpu_job(status=STATUS), *trainer())
    desk.tell(130, initializing=20, productive=65, checkpoint=5)
    assert desk.of("pretrain_job_phase") == {
        (phase,): float(phase == "Training")
        for phase in ("Pending", "Suspended", "Preprocessing", "Training", "Finishing", "Succeeded", "Failed")
    }
    assert desk.of("pretrain_job_condition") == {("StageRunning", "Progressing"): 1, ("NotFinished", "Failed"): 0}
    assert desk.of("pretrain_job_stage_tasks") == {
        ("clean", "succeeded"): 9, ("train", "pending"): 1, ("train", "active"): 2, ("train", "failed"): 0,
        ("train", "succeeded"): 1, ("report", "pending"): 1,
    }  # fmt: skip
    assert desk.of("pretrain_job_seconds_total") == {
        ("queued",): 40, ("initializing",): 20, ("productive",): 65, ("checkpoint",): 5,
    }  # fmt: skip
    assert desk.of("pretrain_job_goodput_ratio") == {(): 0.7222}
    assert desk.of("pretrain_job_restarts_total") == {
        ("Infrastructure",): 1, ("Disruption",): 0, ("Unschedulable",): 0, ("Edited",): 2, ("Suspended",): 0,
    }  # fmt: skip
    assert desk.of("pretrain_job_gpu_seconds_total") == {(): 480 + 8 * 30}
    assert desk.of("pretrain_job_cost") == {(): 720 / 3600 * 9}
    assert desk.of("pretrain_job_cost_budget") == {(): 500}
    declared = {metric.name for metric in catalogue.METRICS if metric.name.startswith("pretrain_job_")}
    assert {name for name, _, _ in desk.samples()} == declared


def test_a_job_of_which_nothing_is_said_is_queued() -> None:
    desk = Desk(pretrain_job())
    assert desk.of("pretrain_job_seconds_total") == {("queued",): 130}
    assert desk.of("pretrain_job_gpu_seconds_total") == {}


def test_a_training_pod_that_was_heard_and_says_no_more_has_stalled() -> None:
    desk = Desk(gpu_job(status=STATUS), *trainer())
    desk.seconds = 300
    assert "stalled" not in str(desk.of("pretrain_job_seconds_total")), (
        "an operator that has just begun has heard nobody yet"
    )
    desk.tell(130, initializing=20, productive=70)
    desk.seconds = 180
    assert desk.of("pretrain_job_seconds_total") == {("queued",): 40, ("initializing",): 20, ("productive",): 70}
    desk.seconds = 300
    expected = {("queued",): 40, ("initializing",): 20, ("productive",): 130, ("stalled",): 110}
    assert desk.of("pretrain_job_seconds_total") == expected
    assert sum(expected.values()) == 300


def test_counters_only_rise() -> None:
    """A pod that got its node a moment ago takes that moment from `queued`."""
    waiting = child("Pod", "p", owner="uid-j", owner_kind="Job", status={})
    waiting["metadata"] |= {
        "labels": {"pretrain.dev/job": "small", "pretrain.dev/stage": "clean"},
        "creationTimestamp": stamp(1),
    }
    desk = Desk(
        pretrain_job(),
        child("Job", "j") | {"metadata": child("Job", "j")["metadata"] | {"creationTimestamp": stamp(1)}},
        waiting,
    )
    assert desk.of("pretrain_job_seconds_total") == {("queued",): 130}
    placed = waiting | {"spec": {"nodeName": "n"}, "metadata": waiting["metadata"] | {"resourceVersion": "2"}}
    placed["status"] = {"conditions": [{"type": "PodScheduled", "status": "True", "lastTransitionTime": stamp(129)}]}
    desk.stores.put(placed)
    desk.seconds = 131
    assert desk.of("pretrain_job_seconds_total") == {("queued",): 130, ("starting",): 2}


def test_a_finished_job_is_as_it_was_closed() -> None:
    closed = {"since": stamp(120), "seconds": {"productive": 120.0}, "ratio": 0.5}
    desk = Desk(gpu_job(status=STATUS | {"completionTime": stamp(120), "goodput": closed}), *trainer())
    desk.tell(130, productive=1000)
    assert desk.of("pretrain_job_seconds_total") == {("productive",): 120}
    assert desk.of("pretrain_job_gpu_seconds_total") == {(): 480}


def test_series_are_gone_with_their_job_and_where_another_replica_leads() -> None:
    body = gpu_job(status=STATUS)
    desk = Desk(body, *trainer(), pretrain_job("other"))
    assert {"small", "other"} <= {line.split('name="')[-1].split('"')[0] for line in desk.page().splitlines() if "{" in line}
    desk.leads = False
    assert list(desk.samples()) == []
    desk.leads = True
    desk.stores.drop(body)
    assert 'name="small"' not in desk.page()
    managed = pretrain_job("third")
    desk.stores.put(managed | {"spec": managed["spec"] | {"managedBy": "kueue.x-k8s.io/multikueue"}})
    assert 'name="third"' not in desk.page()


def test_a_thousand_jobs_are_told_of_quickly() -> None:
    desk = Desk()
    stages = [STATUS["stages"][0] | {"name": f"stage-{number}"} for number in range(9)] + STATUS["stages"][1:]
    for number in range(MANY):
        desk.stores.put(gpu_job(name=f"job-{number}", status=STATUS | {"stages": stages}))
        for index in range(4):
            pod = child(
                "Pod",
                f"p-{number}-{index}",
                job=f"job-{number}",
                owner=f"uid-gone-{number}",
                owner_kind="PyTorchJob",
                status={"phase": "Running"},
                spec={"nodeName": "n"},
            )
            pod["metadata"]["labels"] |= {"pretrain.dev/stage": "train", "pretrain.dev/attempt": "2"}
            pod["metadata"]["creationTimestamp"] = stamp(40)
            desk.stores.put(pod)
    desk.page()
    began = time.process_time()
    page = desk.page()
    took = time.process_time() - began
    print(f"{MANY} jobs, {4 * MANY} pods: {took:.2f} s, {len(page.splitlines())} lines, {len(page)} bytes")
    assert took < 2.0, "0.6 s where this was written"
    assert page.count("pretrain_job_goodput_ratio{") == MANY
