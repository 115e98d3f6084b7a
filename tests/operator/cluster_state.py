"""A job and its children as an API server would show them, for tests of decisions."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from pretrain_operator.api import parse_job
from pretrain_operator.children import cluster_site
from pretrain_operator.observed import Apply, Delete, Observed, Patch, Plan, Settings
from pretrain_operator.plan import plan
from pretrain_operator.stages import Stage, stages

from tests.operator.jobs import job as manifest

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SETTINGS = Settings()


class State:
    """What the API server holds of one job: plans are carried out on it, and what controllers do is done by methods."""

    def __init__(self, spec: Mapping[str, Any] | None = None, *, name: str = "right", uid: str = "u-1") -> None:
        base = {"corpus.tasks": 2, "training.nodes": 2, "corpus.deduplicate": {"method": "exact"}}
        self.now = NOW
        self.job = manifest(base | dict(spec or {}))
        self.job["metadata"] = {
            "name": name,
            "namespace": "team",
            "uid": uid,
            "generation": 1,
            "creationTimestamp": stamp(NOW),
        }
        self.workloads: dict[str, dict[str, Any]] = {}
        self.pods: dict[str, dict[str, Any]] = {}
        self.config_maps: dict[str, dict[str, Any]] = {}
        self.rivals: list[dict[str, Any]] = []
        self.progress: Any = None
        self.fault: Any = None
        self.settings = SETTINGS
        self.made = 0
        self.deleted_job = False

    # the operator

    def observed(self) -> Observed:
        return Observed(
            workloads=tuple(self.workloads.values()),
            pods=tuple(self.pods.values()),
            config_maps=tuple(self.config_maps.values()),
            rivals=tuple(self.rivals),
            progress=self.progress,
            fault=self.fault,
        )

    def plan(self) -> Plan:
        return plan(copy.deepcopy(self.job), self.observed(), self.settings, self.now)

    def reconcile(self) -> Plan:
        """Plans once and carries it out."""
        decided = self.plan()
        for action in decided.actions:
            match action:
                case Apply(body=body):
                    self._apply(copy.deepcopy(dict(body)))
                case Patch(name=name, patch=patch):
                    found = next(made for made in self.workloads.values() if made["metadata"]["name"] == name)
                    found["spec"] |= patch["spec"]
                case Delete() as action:
                    self._delete(action)
        if decided.status is not None:
            self.job["status"] = copy.deepcopy(dict(decided.status))
        return decided

    def settle(self) -> Plan:
        """Reconciles until nothing changes any more; fails if that never happens."""
        for _ in range(20):
            before = copy.deepcopy((self.job, self.workloads, self.pods, self.config_maps))
            decided = self.reconcile()
            if (self.job, self.workloads, self.pods, self.config_maps) == before:
                return decided
        raise AssertionError(f"no rest: {decided}")

    # users

    def edit(self, **fields: Any) -> None:
        """Sets fields of the spec, by path with __ for the dots."""
        for path, value in fields.items():
            *parents, last = path.split("__")
            section = self.job["spec"]
            for step in parents:
                section = section.setdefault(step, {})
            section[last] = value
        self.job["metadata"]["generation"] += 1

    # controllers and kubelets

    def _apply(self, body: dict[str, Any]) -> None:
        self.made += 1
        body["metadata"] |= {"uid": f"w-{self.made}", "creationTimestamp": stamp(self.now)}
        if body["kind"] == "ConfigMap":
            self.config_maps[body["metadata"]["name"]] = body
            return
        stage = body["metadata"]["labels"]["pretrain.dev/stage"]
        assert stage not in self.workloads, f"{stage} exists already"
        self.workloads[stage] = body

    def _delete(self, action: Delete) -> None:
        if action.kind == "PretrainJob":
            self.deleted_job = True
        elif action.kind == "ConfigMap":
            self.config_maps.pop(action.name)
        elif action.kind == "Pod" and action.grace_seconds == 0:
            self.pods.pop(action.name)
        elif action.kind == "Pod":
            grace = timedelta(seconds=action.grace_seconds or 300)
            self.pods[action.name]["metadata"]["deletionTimestamp"] = stamp(self.now + grace)
        else:
            stage = next(stage for stage, made in self.workloads.items() if made["metadata"]["uid"] == action.uid)
            self.workloads[stage]["metadata"]["deletionTimestamp"] = stamp(self.now)

    def later(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def finish(self, stage: str) -> None:
        """The controller of the stage's workload says that it is complete."""
        made = self.workloads[stage]
        kind = "Complete" if made["kind"] == "Job" else "Succeeded"
        completions = made["spec"].get("completions", 0)
        made["status"] = {
            "succeeded": completions,
            "completionTime": stamp(self.now),
            "conditions": [{"type": kind, "status": "True", "lastTransitionTime": stamp(self.now)}],
        }
        for pod in self.of(stage):
            pod["status"] |= {"phase": "Succeeded", "containerStatuses": [ended(0, self.now)]}

    def fail(self, stage: str, message: str = "Job has failed indexes") -> None:
        """The controller of the stage's workload gives it up."""
        self.workloads[stage]["status"] = {
            "conditions": [{"type": "Failed", "status": "True", "message": message, "lastTransitionTime": stamp(self.now)}]
        }

    def gone(self, stage: str) -> None:
        """A deleted workload and its pods have ended."""
        assert "deletionTimestamp" in self.workloads[stage]["metadata"], f"{stage} was not deleted"
        del self.workloads[stage]
        for pod in self.of(stage):
            del self.pods[pod["metadata"]["name"]]

    def of(self, stage: str) -> list[dict[str, Any]]:
        return [pod for pod in self.pods.values() if pod["metadata"]["labels"]["pretrain.dev/stage"] == stage]

    def start(self, stage: str, *indices: int, **status: Any) -> None:
        """Pods of the stage run."""
        made = self.workloads[stage]
        group = made["kind"] == "PyTorchJob"
        template = made["spec"]["pytorchReplicaSpecs"]["Worker"]["template"] if group else made["spec"]["template"]
        label = "training.kubeflow.org/replica-index" if group else "batch.kubernetes.io/job-completion-index"
        for index in indices:
            name = f"{made['metadata']['name']}-{index}"
            self.pods[name] = {
                "metadata": {
                    "name": name,
                    "namespace": "team",
                    "uid": f"p-{name}-{made['metadata']['uid']}",
                    "creationTimestamp": stamp(self.now),
                    "labels": {**template["metadata"]["labels"], label: str(index)},
                },
                "spec": {"nodeName": f"node-{index}"},
                "status": {"phase": "Running", "podIP": f"10.0.0.{index + 1}", **status},
            }

    def pod(self, stage: str, index: int) -> dict[str, Any]:
        return next(pod for pod in self.of(stage) if pod["metadata"]["name"].endswith(f"-{index}"))

    def end(self, stage: str, index: int, code: int, message: str = "", **extra: Any) -> None:
        """A pod's container ends."""
        phase = "Succeeded" if code == 0 else "Failed"
        self.pod(stage, index)["status"] |= {
            "phase": phase,
            "containerStatuses": [ended(code, self.now, message, **extra)],
        }

    def disrupt(self, stage: str, index: int, reason: str = "EvictionByEvictionAPI") -> None:
        """Kubernetes takes a pod away."""
        found = self.pod(stage, index)
        found["metadata"]["deletionTimestamp"] = stamp(self.now + timedelta(seconds=300))
        found["status"]["conditions"] = [{"type": "DisruptionTarget", "status": "True", "reason": reason}]

    def unschedulable(self, stage: str, index: int, message: str = "0/2 nodes are available") -> None:
        found = self.pod(stage, index)
        found["spec"] = {}
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
        found["status"] = {"phase": "Pending", "conditions": [condition]}

    def waiting(self, stage: str, index: int, reason: str, message: str) -> None:
        state = {"waiting": {"reason": reason, "message": message}}
        self.pod(stage, index)["status"] = {"phase": "Pending", "containerStatuses": [{"state": state}]}

    # what is said

    def condition(self, kind: str) -> dict[str, Any]:
        return next(one for one in self.job["status"]["conditions"] if one["type"] == kind)

    def reason(self, kind: str = "Progressing") -> str:
        return str(self.condition(kind)["reason"])

    def stage(self, name: str) -> dict[str, Any]:
        return next(one for one in self.job["status"]["stages"] if one["name"] == name)

    # shortcuts

    def all_stages(self) -> list[Stage]:
        job = parse_job({name: self.job[name] for name in ("apiVersion", "kind", "metadata", "spec")}, "job")
        return stages(job, cluster_site(job, self.settings.images))

    def until(self, stage: str) -> State:
        """Takes the job so far that this stage has a workload."""
        for one in self.all_stages():
            self.settle()
            if one.name == stage:
                return self
            self.finish(one.name)
        raise AssertionError(f"no stage {stage}")


def stamp(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def ended(code: int, now: datetime, message: str = "", **extra: Any) -> dict[str, Any]:
    """A containerStatus of a container that has ended."""
    return {"state": {"terminated": {"exitCode": code, "finishedAt": stamp(now), "message": message, **extra}}}
