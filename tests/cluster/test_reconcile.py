"""A look at a job: the order of writes, what is not written, and what becomes of every kind of failure."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from pretrain_operator import reasons
from pretrain_operator.cluster.failures import Failure, NotLeading, Refused, Stale, Taken, Unavailable
from pretrain_operator.cluster.reconcile import STALE_TRIES, Reconciler
from pretrain_operator.cluster.stores import Key, Stores
from pretrain_operator.cluster.work_queue import WorkQueue
from pretrain_operator.events import Announcement
from pretrain_operator.observed import Action, Apply, Body, Delete, Observed, Patch, Plan, Progress, Settings
from pretrain_operator.storage_claim import bucket

from tests.cluster.memory import Memory
from tests.cluster.objects import NAMESPACE, child, pretrain_job

KEY = (NAMESPACE, "small")
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class Reader:
    """Stands for the reader of training's progress."""

    def __init__(self) -> None:
        self.followed: dict[Key, Body | None] = {}

    def of(self, key: Key) -> Progress | None:
        return None

    def follow(self, key: Key, pod: Body | None) -> None:
        self.followed[key] = pod

    def forget(self, key: Key) -> None:
        self.followed.pop(key, None)


def job_of(name: str) -> dict[str, Any]:
    """A child as a plan would apply it."""
    body = child("Job", name, spec={"suspend": False})
    for field_ in ("uid", "resourceVersion", "managedFields"):
        del body["metadata"][field_]
    return body


@dataclass
class Desk:
    """A reconciler with a plan of the test's own, and a clock that the test sets."""

    actions: Callable[[Observed], tuple[Action, ...]] = lambda observed: ()
    status: Callable[[Observed], dict[str, Any]] = lambda observed: {"phase": "Pending"}
    urgent: bool = True
    again: float | None = None
    now: float = 1000.0
    api: Memory = field(default_factory=Memory)
    reader: Reader = field(default_factory=Reader)
    stores: Stores = field(default_factory=lambda: Stores(bucket))

    def __post_init__(self) -> None:
        self.queue = WorkQueue(lambda: self.now, jitter=lambda: 0.5)
        self.reconcile = Reconciler(
            client=self.api,
            stores=self.stores,
            queue=self.queue,
            progress=self.reader,  # type: ignore[arg-type]
            settings=Settings(),
            plan=self._plan,
            events=self._events,
            reporter="operator-1",
            now=lambda: NOW,
            clock=lambda: self.now,
        )
        body = pretrain_job()
        self.api.objects["PretrainJob", "small"] = body
        self.stores.put(body)

    def _plan(self, body: Body, observed: Observed, settings: Settings, now: datetime) -> Plan:
        status = self.status(observed)
        if observed.fault is not None:
            status = status | {"fault": [observed.fault.reason, observed.fault.message]}
        return Plan(self.actions(observed), status, urgent=self.urgent, again_seconds=self.again)

    def _events(self, before: Body, after: Body) -> list[Announcement]:
        return [] if before.get("phase") == after.get("phase") else [Announcement("Normal", f"Is{after['phase']}", "so")]

    def look(self) -> str:
        """One look, as a worker takes it."""

        async def go() -> str:
            self.queue.add(KEY)
            assert await self.queue.get() == KEY
            outcome = await self.reconcile(KEY)
            self.queue.done(KEY)
            return outcome

        return asyncio.run(go())

    def asked(self) -> list[str]:
        """What was asked of the API server since the last call."""
        asked, self.api.asked = self.api.asked, []
        return asked

    def said(self) -> dict[str, Any]:
        status = self.api.objects["PretrainJob", "small"].get("status", {})
        assert isinstance(status, dict)
        return status

    def due(self) -> float | None:
        """In how many seconds the job is looked at again."""
        due = self.queue._due.get(KEY)
        return None if due is None else due - self.now


def test_children_then_events_then_the_status() -> None:
    desk = Desk(actions=lambda observed: (Apply(job_of("a")), Apply(job_of("b"))) if not observed.workloads else ())
    assert desk.look() == "done"
    assert desk.asked() == ["apply Job a", "apply Job b", "Event IsPending", "status PretrainJob small"]


def test_what_was_written_is_known_at_once_and_looked_at_again() -> None:
    """Without waiting for the watch, which would make the next look do it all again."""
    desk = Desk(actions=lambda observed: (Apply(job_of("a")),) if not observed.workloads else ())
    desk.look()
    desk.asked()
    assert desk.due() == 0
    assert desk.look() == "done"
    assert desk.asked() == []
    assert desk.due() is None


def test_a_look_without_a_change_writes_nothing() -> None:
    desk = Desk()
    desk.look()
    desk.look()
    desk.asked()
    for _ in range(3):
        assert desk.look() == "done"
    assert desk.asked() == []


def test_a_status_in_other_words_is_no_change() -> None:
    """The API server may send back 1 for 1.0, or add a default: that must not be written for ever."""
    desk = Desk(status=lambda observed: {"phase": "Pending", "loss": 1.5})
    plain = desk.api.apply

    async def in_other_words(body: Body, subresource: str | None = None, *, force: bool = False) -> dict[str, Any]:
        made = await plain(body, subresource, force=force)
        if subresource:
            made["status"] |= {"restartCount": 0}
        return made

    desk.api.apply = in_other_words  # type: ignore[method-assign]
    desk.look()
    desk.asked()
    desk.look()
    assert desk.asked() == []


def test_progress_is_written_at_most_every_15_seconds_and_news_at_once() -> None:
    desk = Desk(urgent=False)
    desk.look()
    desk.look()
    desk.asked()
    desk.status = lambda observed: {"phase": "Pending", "step": 1}
    desk.now += 5
    assert desk.look() == "done"
    assert desk.asked() == []
    assert desk.due() == 10
    desk.now += 10
    desk.look()
    assert desk.asked() == ["status PretrainJob small"]
    desk.look()
    desk.status = lambda observed: {"phase": "Training", "step": 2}
    desk.urgent = True
    desk.look()
    assert desk.asked() == ["Event IsTraining", "status PretrainJob small"]


def test_a_job_is_looked_at_again_when_the_plan_says_so() -> None:
    desk = Desk(again=30)
    desk.look()
    desk.look()
    assert desk.due() == 30


def test_patches_and_deletions_are_known_at_once() -> None:
    made = child("Job", "a", spec={"suspend": True})
    pod = child("Pod", "p", owner="uid-a", owner_kind="Job")
    desk = Desk()
    for body in (made, pod):
        desk.api.objects[body["kind"], body["metadata"]["name"]] = body
        desk.stores.put(body)
    desk.actions = lambda observed: (
        *(Patch("Job", "a", "uid-a", {"spec": {"suspend": False}}) for one in observed.workloads if one["spec"]["suspend"]),
        *(Delete("Pod", "p", "uid-p", grace_seconds=0) for one in observed.pods),
    )
    desk.look()
    assert desk.asked()[:2] == ["patch Job a", "delete Pod p"]
    desk.look()
    assert desk.asked() == []


def test_what_is_gone_already_need_not_be_deleted() -> None:
    desk = Desk()
    desk.stores.put(child("Job", "a"))
    desk.actions = lambda observed: tuple(Delete("Job", "a", "uid-a") for _ in observed.workloads)
    assert desk.look() == "done"
    assert desk.stores.get("Job", (NAMESPACE, "a")) is None


REFUSED = Refused("the API server refused to apply Job team/a: exceeded quota; raise the quota")


def failing(error: Exception) -> Desk:
    """A desk at which applying a child fails."""
    desk = Desk(actions=lambda observed: (Apply(job_of("a")), Apply(job_of("b"))))
    desk.api.fault = lambda doing: error if doing == "apply Job a" else None
    return desk


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (REFUSED, reasons.APPLY_REFUSED),
        (Taken("conflict with kubectl"), reasons.NAME_TAKEN),
        (Unavailable("the API server could not apply"), reasons.SERVER_UNAVAILABLE),
    ],
)
def test_a_failure_is_said_in_the_status_and_nothing_after_it_is_done(error: Failure, reason: str) -> None:
    desk = failing(error)
    assert desk.look() == "fault"
    assert desk.asked() == ["apply Job a", "Event IsPending", "status PretrainJob small"]
    assert desk.said()["fault"] == [reason, str(error)]
    assert desk.due() == 1


def test_the_same_failure_is_said_once_and_tried_ever_more_seldom() -> None:
    desk = failing(REFUSED)
    waits = []
    for _ in range(4):
        desk.look()
        waits.append(desk.due())
    assert waits == [1, 2, 4, 8]
    assert desk.asked().count("status PretrainJob small") == 1


def test_once_it_works_the_fault_is_taken_back() -> None:
    desk = failing(REFUSED)
    desk.look()
    desk.api.fault = lambda doing: None
    desk.actions = lambda observed: (Apply(job_of("a")),) if not observed.workloads else ()
    assert desk.look() == "done"
    assert "fault" not in desk.said()
    assert desk.queue.failures(KEY) == 0


def test_what_changed_meanwhile_is_looked_at_again_before_it_is_called_a_fault() -> None:
    desk = failing(Stale("uid mismatch"))
    assert [desk.look() for _ in range(STALE_TRIES)] == ["retry"] * (STALE_TRIES - 1) + ["fault"]
    assert desk.asked().count("status PretrainJob small") == 1


def test_a_server_that_asks_for_time_gets_it() -> None:
    desk = failing(Unavailable("busy", retry_after=60))
    desk.look()
    assert desk.due() == 60


def test_without_the_lease_nothing_is_said_and_it_is_tried_soon() -> None:
    desk = failing(NotLeading("no Lease"))
    assert desk.look() == "retry"
    assert desk.asked() == ["apply Job a"]
    assert desk.due() == 1
    assert desk.queue.failures(KEY) == 0


def test_a_fault_of_ours_is_said_as_one_and_logged_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    desk = failing(ZeroDivisionError("a bug"))
    with caplog.at_level(logging.WARNING):
        assert desk.look() == "fault"
    reason, message = desk.said()["fault"]
    assert reason == reasons.INTERNAL_ERROR
    assert "ZeroDivisionError: a bug" in message
    assert any(record.exc_info for record in caplog.records)
    assert caplog.records[0].job_name == "small"  # type: ignore[attr-defined]


def test_a_plan_that_raises_ends_no_worker(caplog: pytest.LogCaptureFixture) -> None:
    def broken(observed: Observed) -> dict[str, Any]:
        raise KeyError("status")

    desk = Desk(status=broken)
    assert desk.look() == "fault"
    assert desk.asked() == []
    assert desk.due() == 1
    assert sum(record.exc_info is not None for record in caplog.records) == 2


def test_a_refused_status_is_logged_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk()
    desk.api.fault = lambda doing: Refused("status.phase: Unsupported value") if doing.startswith("status") else None
    assert desk.look() == "fault"
    assert desk.due() == 1
    assert "status.phase: Unsupported value" in caplog.text


def test_an_event_that_is_refused_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """A namespace may have a quota of Events."""
    desk = Desk()
    desk.api.fault = lambda doing: REFUSED if doing.startswith("Event") else None
    assert desk.look() == "done"
    assert desk.said() == {"phase": "Pending"}
    assert "no Event IsPending" in caplog.text


def test_events_of_one_change_have_one_name_however_often_they_are_made() -> None:
    desk = Desk()
    desk.api.fault = lambda doing: Unavailable("cut off") if doing.startswith("status") else None
    desk.look()
    desk.look()
    assert len([key for key in desk.api.objects if key[0] == "Event"]) == 1
    desk.api.fault = lambda doing: None
    desk.look()
    assert len([key for key in desk.api.objects if key[0] == "Event"]) == 1


@pytest.mark.parametrize("owner", [None, "uid-of-somebody"])
def test_what_is_not_the_jobs_is_not_applied_to(owner: str | None) -> None:
    desk = Desk(actions=lambda observed: (Apply(job_of("a")),))
    other = child("Job", "a", owner=owner)
    if owner:
        other["metadata"]["ownerReferences"][0] |= {"kind": "CronJob", "name": "nightly"}
    desk.stores.put(other)
    assert desk.look() == "fault"
    assert "apply Job a" not in desk.asked()
    reason, message = desk.said()["fault"]
    assert reason == reasons.NAME_TAKEN
    assert "Job team/a exists and does not belong to this PretrainJob" in message


def test_what_an_earlier_job_of_the_name_left_is_waited_for() -> None:
    desk = Desk(actions=lambda observed: (Apply(job_of("a")),))
    desk.stores.put(child("Job", "a", owner="uid-earlier"))
    assert desk.look() == "retry"
    assert desk.asked() == []


def test_a_job_that_is_gone_is_forgotten() -> None:
    desk = Desk()
    desk.look()
    desk.stores.drop(pretrain_job())
    assert desk.look() == "gone"
    assert desk.reader.followed == {}
    assert desk.due() is None


def test_a_job_that_is_gone_before_its_status_is_written_is_let_go() -> None:
    desk = Desk()
    del desk.api.objects["PretrainJob", "small"]
    assert desk.look() == "done"
    assert desk.stores.job(KEY) is None
