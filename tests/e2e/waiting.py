"""Waiting for a PretrainJob to be as wanted, and no longer than it can still become so.

A wait ends early, and wrong, when the job has finished or is gone: a job that has succeeded or failed never changes again.
It then says what the job, its pods and its operator said, because nothing of that can be looked at once the test is over.

    job = until(kubectl, "tiny", succeeded)
    job = until(kubectl, "tiny", because("Progressing", "ImagePull"), seconds=120)
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, TypeVar

from tests.e2e.kubectl import Kubectl

Job = dict[str, Any]
Found = TypeVar("Found")

RUN_SECONDS = 1200.0
"""A tiny job takes 100 s on two quiet cores, and up to ten minutes beside much other work. One that fails is noticed at once."""
LOG_LINES = 30


def until(
    kubectl: Kubectl,
    name: str,
    enough: Callable[[Job], bool],
    *,
    seconds: float = RUN_SECONDS,
    meanwhile: Callable[[Job], object] | None = None,
) -> Job:
    """The PretrainJob as soon as it is enough. `meanwhile` is called with every state that is seen, about one in a second.

    Fails when the job is finished or gone without that, or after `seconds`, and says why as well as it can.
    """
    deadline = time.monotonic() + seconds
    while True:
        job = _job(kubectl, name)
        if meanwhile is not None:
            meanwhile(job)
        if enough(job):
            return job
        ended = next((type_ for type_ in ("Succeeded", "Failed") if is_true(job, type_)), None)
        wanted = getattr(enough, "__name__", "enough")
        assert ended is None, f"{name} is {ended}, not {wanted}\n{diagnosis(kubectl, name)}"
        assert time.monotonic() < deadline, f"{name} is not {wanted} after {seconds:.0f} s\n{diagnosis(kubectl, name)}"
        time.sleep(1)


def eventually(look: Callable[[], Found], enough: Callable[[Found], bool], seconds: float = 60) -> Found:
    """What is seen once it is enough, for what is not a PretrainJob; fails with what was seen last."""
    deadline = time.monotonic() + seconds
    while not enough(seen := look()):
        assert time.monotonic() < deadline, f"after {seconds:.0f} s still {seen}"
        time.sleep(0.5)
    return seen


def succeeded(job: Job) -> bool:
    return is_true(job, "Succeeded")


def failed(job: Job) -> bool:
    return is_true(job, "Failed")


def in_attempt(number: int) -> Callable[[Job], bool]:
    """Whether the status tells of this attempt to train. Before the first it tells of none."""

    def holds(job: Job) -> bool:
        return bool(job["status"].get("training", {}).get("attempt") == number)

    return holds


def because(type_: str, reason: str) -> Callable[[Job], bool]:
    """Whether a condition has this reason, whatever its status."""

    def holds(job: Job) -> bool:
        return condition(job, type_).get("reason") == reason

    holds.__name__ = f"{type_} because of {reason}"
    return holds


def runs(stage_name: str) -> Callable[[Job], bool]:
    """Whether a pod of the stage exists and has not ended. For stages that last: a short one can be over before that is told."""

    def holds(job: Job) -> bool:
        return bool(stage(job, stage_name).get("active"))

    holds.__name__ = f"running {stage_name}"
    return holds


def has_checkpoint(step: int = 1) -> Callable[[Job], bool]:
    """Whether a checkpoint of this step or a later one is committed."""

    def holds(job: Job) -> bool:
        return int((job.get("status", {}).get("training") or {}).get("checkpointStep") or 0) >= step

    holds.__name__ = f"with a checkpoint of step {step}"
    return holds


def condition(job: Job, type_: str) -> dict[str, Any]:
    """The condition; empty while the operator has not written it."""
    found = (item for item in job.get("status", {}).get("conditions", []) if item["type"] == type_)
    return next(found, {})


def is_true(job: Job, type_: str) -> bool:
    return condition(job, type_).get("status") == "True"


def stage(job: Job, name: str) -> dict[str, Any]:
    """The stage's status; empty while the operator has not written it."""
    return next((item for item in job.get("status", {}).get("stages", []) if item["name"] == name), {})


def diagnosis(kubectl: Kubectl, name: str) -> str:
    """What a person would look at first: status, events, pods, last lines of pods that did not succeed, and of the operator."""
    parts = {
        "status": kubectl.run("get", "pretrainjob", name, "-o", "jsonpath={.status}").stdout,
        "events": kubectl.run("get", "events", "--sort-by=.lastTimestamp").stdout,
        "children": kubectl.run("get", "pytorchjobs,jobs,pods", "-o", "wide").stdout,
    }
    for pod in _items(kubectl, "pods", "--field-selector=status.phase!=Succeeded"):
        said = kubectl.run("logs", pod["metadata"]["name"], "--all-containers", f"--tail={LOG_LINES}")
        parts[f"pod {pod['metadata']['name']}"] = said.stdout + said.stderr
    for pod in _items(kubectl, "pods", "--all-namespaces", "--selector=app.kubernetes.io/component=operator"):
        metadata = pod["metadata"]
        if f"--namespace={kubectl.namespace}" in pod["spec"]["containers"][0]["args"]:
            operator = Kubectl(metadata["namespace"])
            parts[f"operator {metadata['name']}"] = operator.run("logs", metadata["name"], f"--tail={LOG_LINES}").stdout
    return "\n".join(f"--- {title}\n{text.strip()}" for title, text in parts.items())


def _job(kubectl: Kubectl, name: str) -> Job:
    """The PretrainJob; an API server that is gone for a moment is asked again by the next look."""
    for _ in range(30):
        done = kubectl.run("get", "pretrainjob", name, "-o", "json")
        if done.returncode == 0:
            job = json.loads(done.stdout)
            assert isinstance(job, dict)
            return job
        assert "NotFound" not in done.stderr, done.stderr
        time.sleep(1)
    raise AssertionError(done.stderr)


def _items(kubectl: Kubectl, *what: str) -> list[dict[str, Any]]:
    done = kubectl.run("get", *what, "-o", "json")
    return list(json.loads(done.stdout)["items"]) if done.returncode == 0 else []
