"""Jobs through random histories: pods fail, nodes go, specs are edited, the operator is killed between any two writes.

What must hold in every history: a plan never raises; nothing is created that exists; no training group begins beside pods
of another; what has ended stays ended; every second until then is booked once; and when the world stops throwing things at it, the job comes to its end.
"""

from __future__ import annotations

import copy
import random
from datetime import datetime, timedelta
from typing import Any

import pytest
from pretrain_operator.observed import Apply, Delete, Patch, Plan, Progress
from pretrain_stage.errors import PEER_LEFT
from pretrain_stage.ledger import STATES

from tests.operator.cluster_state import NOW, State, stamp
from tests.operator.jobs import prediction, task

SEEDS = range(24)
THROWS = 60
EDITS: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("suspend", (True, False)),
    ("training__tokens", (1_000_000, 2_000_000, 3_000_000)),
    ("training__nodes", (1, 2)),
    ("training__maxRestarts", (1000, 2000)),
    ("corpus__parallelism", (1, 2)),
    ("corpus__resources", ({"cpu": "1", "memory": "2Gi"}, {"cpu": "2", "memory": "4Gi"})),
    ("evaluation__maxNewTokens", (8, 16)),
    ("scheduling__nodeSelector", ({}, {"disk": "fast"})),
    ("finetune", ([], [task()], [task({"epochs": 5}), task({"name": "names"})])),
    ("predict", ([], [prediction()], [prediction({"tasks": 2}), prediction({"name": "other"})])),
)


class World(State):
    """A job in a world of chance."""

    def __init__(self, seed: int) -> None:
        super().__init__({"training.maxRestarts": 1000})
        self.chance = random.Random(seed)

    def carry_out_partly(self, decided: Plan) -> None:
        """The operator is killed after some of its writes; the status is its last."""
        steps = [*decided.actions, *([decided.status] if decided.status is not None else [])]
        for step in steps[: self.chance.randint(0, len(steps))]:
            match step:
                case Apply(body=body):
                    self.check(body)
                    self._apply(copy.deepcopy(dict(body)))
                case Patch(name=name, patch=patch):
                    next(made for made in self.workloads.values() if made["metadata"]["name"] == name)["spec"] |= patch[
                        "spec"
                    ]
                case Delete():
                    self._delete(step)
                case _:
                    self.say(dict(step))

    def check(self, body: Any) -> None:
        if body["kind"] == "PyTorchJob":
            assert self.of("train") == [], "a group begins beside pods of another"

    def say(self, status: dict[str, Any]) -> None:
        for kind in ("Succeeded", "Failed"):
            before = [one for one in self.job.get("status", {}).get("conditions", []) if one["type"] == kind]
            after = next(one for one in status["conditions"] if one["type"] == kind)
            assert not (before and before[0]["status"] == "True" and after["status"] == "False"), f"{kind} went back"
        self.check_ledger(status)
        self.job["status"] = copy.deepcopy(status)

    def check_ledger(self, status: dict[str, Any]) -> None:
        """Whatever happened and whoever wrote it, what is booked is the time that has passed."""
        before, after = self.job.get("status", {}).get("goodput"), status.get("goodput")
        if after is None:
            assert before is None, "a ledger was thrown away"
            return
        since, seconds = datetime.fromisoformat(after["since"]), after["seconds"]
        assert round(1000 * sum(seconds.values())) == round(1000 * (since - NOW).total_seconds())
        assert NOW <= since <= self.now
        assert set(seconds) <= set(STATES)
        for state, booked in (before or {"seconds": {}})["seconds"].items():
            assert seconds[state] >= booked, f"{state} fell"
        if "completionTime" in status:
            assert (after["since"], "state" in after) == (status["completionTime"], False)

    def tell(self) -> None:
        """The first pod of a training group that runs tells of its time, however true that is."""
        first = [one for one in self.of("train") if one["metadata"]["name"].endswith("-0")]
        if first and first[0]["status"]["phase"] == "Running":
            seconds = {
                state: self.chance.choice((0.0, 7.25, 1000.5)) for state in ("initializing", "productive", "repeated")
            }
            uid, step = first[0]["metadata"]["uid"], self.chance.randint(1, 200)
            self.progress = Progress(pod=uid, at=self.now, step=step, steps=245, tokens=1, seconds=seconds)

    def look(self) -> None:
        """The operator looks at the job, and may be killed."""
        if self.chance.random() < 0.5:
            self.tell()
        decided = self.plan()
        if self.chance.random() < 0.3:
            self.carry_out_partly(decided)
            return
        for action in decided.actions:
            if isinstance(action, Apply):
                self.check(action.body)
        status = decided.status
        if status is not None:
            self.say(dict(status))
        self.reconcile()

    def throw(self) -> None:
        """Something happens."""
        self.later(self.chance.choice((0, 1, 5, 30, 120, 400)))
        running = [stage for stage, made in self.workloads.items() if "status" not in made and self.active(made)]
        deleted = [stage for stage, made in self.workloads.items() if "deletionTimestamp" in made["metadata"]]
        match self.chance.choice(("start", "finish", "pod", "pod", "edit", "gone", "gone", "delete", "orphan", "time")):
            case "start" if running:
                stage = self.chance.choice(running)
                wanted = self.replicas(stage)
                self.start(
                    stage,
                    *(i for i in range(wanted) if not any(p["metadata"]["name"].endswith(f"-{i}") for p in self.of(stage))),
                )
            case "finish" if running:
                self.finish(self.chance.choice(running))
            case "pod" if running:
                self.hurt(self.chance.choice(running))
            case "edit":
                path, values = self.chance.choice(EDITS)
                self.edit(**{path: self.chance.choice(values)})
            case "gone" if deleted:
                self.gone(self.chance.choice(deleted))
            case "delete" if running:
                self.workloads[self.chance.choice(running)]["metadata"]["deletionTimestamp"] = "2026-01-02T03:04:05Z"
            case "orphan" if "train" in running:
                del self.workloads["train"]  # in the background: its pods are still there, and end later
                for pod in self.of("train"):
                    pod["metadata"].setdefault("deletionTimestamp", stamp(self.now + timedelta(seconds=300)))
            case "time":
                self.bury()
            case _:
                pass

    def bury(self) -> None:
        """Pods whose workload is gone have ended."""
        for name, pod in list(self.pods.items()):
            if pod["metadata"]["labels"]["pretrain.dev/stage"] not in self.workloads:
                del self.pods[name]

    def hurt(self, stage: str) -> None:
        pods = self.of(stage)
        if not pods or stage != "train":
            return
        index = int(self.chance.choice(pods)["metadata"]["name"][-1])
        match self.chance.randrange(5):
            case 0:
                self.end(stage, index, 137, "rank 0: killed")
            case 1:
                self.end(stage, index, 75, f"rank 1: {PEER_LEFT}: reset")
            case 2:
                self.disrupt(stage, index, self.chance.choice(("EvictionByEvictionAPI", "DeletionByTaintManager")))
            case 3:
                self.unschedulable(stage, index)
            case _:
                self.waiting(stage, index, "ImagePullBackOff", "no")

    def active(self, made: dict[str, Any]) -> bool:
        spec = made["spec"]
        suspended = spec.get("suspend") or spec.get("runPolicy", {}).get("suspend")
        return "deletionTimestamp" not in made["metadata"] and not suspended

    def replicas(self, stage: str) -> int:
        spec = self.workloads[stage]["spec"]
        return int(spec["completions"] if "completions" in spec else spec["pytorchReplicaSpecs"]["Worker"]["replicas"])

    def ended(self) -> bool:
        return any(
            one["status"] == "True" and one["type"] in ("Succeeded", "Failed") for one in self.job["status"]["conditions"]
        )


@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_history(seed: int) -> None:
    world = World(seed)
    if seed % 2:
        world.until("train")  # where most can happen; by chance alone few histories come so far
    for _ in range(THROWS):
        world.throw()
        world.look()
    # The world calms down: what was started runs to its end.
    world.edit(suspend=False)
    for _ in range(200):
        world.reconcile()
        if world.ended():
            break
        world.later(700)
        world.bury()
        for stage in [stage for stage, made in world.workloads.items() if "deletionTimestamp" in made["metadata"]]:
            world.gone(stage)
        for stage, made in world.workloads.items():
            over = any(one["type"] in ("Failed", "FailureTarget") for one in made.get("status", {}).get("conditions", []))
            if world.active(made) and not over and not world.of(stage):
                world.start(stage, *range(world.replicas(stage)))
            if world.active(made) and not over and all(pod["status"]["phase"] == "Running" for pod in world.of(stage)):
                world.finish(stage)
    assert world.condition("Succeeded")["status"] == "True", world.job["status"]["conditions"]
    succeeded = copy.deepcopy(world.job["status"])
    world.later(10_000)
    world.settle()
    assert world.job["status"] == succeeded
