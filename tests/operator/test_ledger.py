"""Where the wall time went: each second in one state, whoever looks and whenever."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pretrain_operator.books import account_of, in_seconds
from pretrain_operator.facts import pod as pod_facts
from pretrain_operator.facts import workload as workload_facts
from pretrain_operator.ledger import account, scene
from pretrain_operator.observed import Progress
from pretrain_operator.status import Condition, Goodput, PretrainJobStatus, Restart, StageStatus, TrainingProgress
from pretrain_stage.ledger import STATES

BEGIN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return BEGIN + timedelta(seconds=seconds)


def stamp(seconds: float) -> str:
    return at(seconds).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True)
class Pod:
    """When things happen to a pod, in seconds after the job was made."""

    stage: str = "train"
    index: int = 0
    attempt: int = 1
    created: float = 0
    scheduled: float | None = None
    started: float | None = None
    ended: float | None = None
    code: int = 0
    message: str = ""
    lost: float | None = None

    @property
    def uid(self) -> str:
        return f"{self.stage}-{self.index}-{self.attempt}-{self.created:g}"

    def body(self, now: float = 10**9) -> dict[str, Any]:
        """The pod as the API server shows it at a time."""
        status: dict[str, Any] = {"phase": "Pending", "conditions": []}
        if self.scheduled is not None and self.scheduled <= now:
            status["conditions"].append(condition("PodScheduled", self.scheduled))
        if self.started is not None and self.started <= now:
            status["phase"] = "Running"
            status["containerStatuses"] = [{"state": {"running": {"startedAt": stamp(self.started)}}}]
        if self.ended is not None and self.ended <= now:
            state = {"exitCode": self.code, "finishedAt": stamp(self.ended), "message": self.message}
            started = {} if self.started is None else {"startedAt": stamp(self.started)}
            status["phase"] = "Failed" if self.code else "Succeeded"
            status["containerStatuses"] = [{"state": {"terminated": state | started}}]
        if self.lost is not None and self.lost <= now:
            status["conditions"].append(condition("DisruptionTarget", self.lost) | {"reason": "DeletionByTaintManager"})
        labels = {"pretrain.dev/stage": self.stage, "training.kubeflow.org/replica-index": str(self.index)}
        labels |= {"pretrain.dev/attempt": str(self.attempt)} if self.stage == "train" else {}
        spec = {"nodeName": "n"} if self.scheduled is not None and self.scheduled <= now else {}
        metadata = {"name": self.uid, "uid": self.uid, "creationTimestamp": stamp(self.created), "labels": labels}
        return {"metadata": metadata, "spec": spec, "status": status}


def condition(kind: str, since: float) -> dict[str, str]:
    return {"type": kind, "status": "True", "lastTransitionTime": stamp(since)}


def workload(stage: str, created: float, attempt: int = 0, **conditions: float) -> dict[str, Any]:
    labels = {"pretrain.dev/stage": stage} | ({"pretrain.dev/attempt": str(attempt)} if attempt else {})
    metadata = {"name": stage, "uid": stage, "creationTimestamp": stamp(created), "labels": labels}
    return {"kind": "Job", "metadata": metadata, "status": {"conditions": [condition(k, v) for k, v in conditions.items()]}}


def heard(pod: Pod, when: float, **seconds: float) -> Progress:
    return Progress(pod=pod.uid, at=at(when), step=1, steps=9, tokens=1, seconds=seconds)


def status(
    *,
    attempt: int = 1,
    ended: tuple[float, str] | None = None,
    finished: float | None = None,
    suspended: float | None = None,
    trained: bool = False,
    began: float = 0,
) -> PretrainJobStatus:
    """What is said of the job. ended: when and why the attempt before this one ended."""
    halt = Condition(
        type="Suspended", status="True", lastTransitionTime=stamp(suspended or 0), reason="Suspended", message=""
    )
    return PretrainJobStatus(
        conditions=[] if suspended is None else [halt],
        training=TrainingProgress(attempt=attempt),
        completionTime=None if finished is None else stamp(finished),
        stages=[StageStatus(name="train", state="Succeeded" if trained else "Running", tasks=1, startTime=stamp(began))],
        restarts=[] if ended is None else [Restart(attempt=attempt - 1, time=stamp(ended[0]), reason=ended[1], message="")],
    )


def look(
    before: Goodput | None,
    now: float,
    pods: Sequence[Pod] = (),
    *,
    nodes: int = 1,
    said: PretrainJobStatus | None = None,
    word: Progress | None = None,
    workloads: Sequence[dict[str, Any]] = (),
) -> Goodput:
    """An operator brings the ledger up to date."""
    made = [workload_facts(one) for one in workloads]
    shown = [pod_facts(one.body(now)) for one in pods if one.created <= now]
    told = (said or status()).model_copy(update={"goodput": before})
    return account(before, scene(BEGIN, nodes, told, made, shown, word), at(now))


def booked(goodput: Goodput) -> float:
    since = datetime.fromisoformat(goodput.since)
    assert round(1000 * sum(goodput.seconds.values())) == round(1000 * (since - BEGIN).total_seconds())
    return (since - BEGIN).total_seconds()


CLEAN = Pod("clean", created=10, scheduled=20, started=50, ended=90)
ONE, TWO = Pod(created=10, scheduled=15, started=30), Pod(index=1, created=10, scheduled=18, started=40)


@pytest.mark.parametrize(
    ("pods", "nodes", "now", "seconds", "state"),
    [
        ((), 1, 100, {"queued": 100}, "queued"),
        ((Pod("clean", created=10),), 1, 100, {"queued": 100}, "queued"),
        ((Pod("clean", created=10, scheduled=20),), 1, 100, {"queued": 20, "starting": 80}, "starting"),
        ((CLEAN,), 1, 80, {"queued": 20, "starting": 30, "preprocessing": 30}, "preprocessing"),
        ((CLEAN,), 1, 100, {"queued": 30, "starting": 30, "preprocessing": 40}, "queued"),
        (
            (CLEAN, replace(CLEAN, index=1, scheduled=60, started=70, ended=95)), 1, 100,
            {"queued": 25, "starting": 30, "preprocessing": 45}, "queued",
        ),
        ((replace(CLEAN, stage="finetune-mood"),), 1, 80, {"queued": 20, "starting": 30, "productive": 30}, "productive"),
        ((replace(CLEAN, stage="examples-mood"),), 1, 80, {"queued": 20, "starting": 30, "preprocessing": 30}, "preprocessing"),
        ((replace(CLEAN, stage="evaluate"),), 1, 80, {"queued": 20, "starting": 30, "productive": 30}, "productive"),
        ((replace(CLEAN, lost=60, ended=None),), 1, 80, {"queued": 40, "starting": 30, "preprocessing": 10}, "queued"),
        ((ONE, TWO), 2, 17, {"queued": 17}, "queued"),
        ((ONE, TWO), 2, 60, {"queued": 18, "starting": 22, "initializing": 20}, "initializing"),
        ((ONE,), 2, 60, {"queued": 60}, "queued"),
        ((ONE, replace(TWO, ended=50, code=1)), 2, 60, {"queued": 18, "starting": 22, "initializing": 10, "down": 10}, "down"),
        ((ONE, replace(TWO, lost=50)), 2, 60, {"queued": 18, "starting": 22, "initializing": 10, "down": 10}, "down"),
    ],
)  # fmt: skip
def test_what_objects_show(pods: Sequence[Pod], nodes: int, now: float, seconds: dict[str, float], state: str) -> None:
    said = look(None, now, pods, nodes=nodes)
    assert (said.seconds, said.state) == (seconds, state)
    assert booked(said) == now


def test_a_pod_tells_of_its_own_time_from_its_beginning_to_its_last_words() -> None:
    first = look(None, 60, [ONE, TWO], nodes=2, word=heard(ONE, 60, initializing=20, productive=10))
    assert first.seconds == {"queued": 18, "starting": 12, "initializing": 20, "productive": 10}
    second = look(first, 75, [ONE, TWO], nodes=2, word=heard(ONE, 75, initializing=20, productive=22.5, checkpoint=2.5))
    assert second.seconds == {"queued": 18, "starting": 12, "initializing": 20, "productive": 22.5, "checkpoint": 2.5}
    last = json.dumps({"final_loss": 1.0, "seconds": {"initializing": 20, "productive": 25.5, "checkpoint": 4.5}})
    over = [replace(ONE, ended=80, message=last), replace(TWO, ended=82)]
    third = look(second, 90, over, nodes=2, said=status(trained=True))
    assert third.seconds == {"queued": 26, "starting": 12, "initializing": 20, "productive": 27.5, "checkpoint": 4.5}
    late = look(None, 90, over, nodes=2, said=status(trained=True))
    assert late.seconds == third.seconds
    assert booked(third) == 90


def test_what_came_after_its_last_word_stays_open_and_is_told_when_it_is_heard_again() -> None:
    first = look(None, 60, [ONE], word=heard(ONE, 60, initializing=5, productive=25))
    assert (first.state, booked(first)) == ("productive", 60)
    silent = look(first, 300, [ONE], word=heard(ONE, 60, initializing=5, productive=25))
    assert (silent.state, booked(silent), silent.seconds) == ("productive", 60, first.seconds)
    again = look(silent, 360, [ONE], word=heard(ONE, 360, initializing=5, productive=325))
    assert (again.seconds["productive"], again.state, booked(again)) == (325, "productive", 360)


def test_a_pod_that_was_not_heard_for_long_before_it_failed_had_stalled() -> None:
    first = look(None, 60, [ONE], word=heard(ONE, 60, initializing=5, productive=25))
    for prompt in (100, 250):
        seen = look(look(first, prompt, [ONE]), 400, [replace(ONE, ended=300, code=1)])
        assert seen.seconds == {
            "queued": 15,
            "starting": 15,
            "initializing": 5,
            "productive": 85,
            "stalled": 180,
            "down": 100,
        }
    soon = look(first, 400, [replace(ONE, ended=70, code=1)])
    assert soon.seconds == {"queued": 15, "starting": 15, "initializing": 5, "productive": 35, "down": 330}


def test_an_account_is_no_longer_than_the_time_there_was() -> None:
    """Clocks of pods and operator may differ by anything."""
    more = look(None, 60, [ONE], word=heard(ONE, 60, initializing=900, data_wait=50, productive=50))
    assert more.seconds == {"data_wait": 30, "productive": 30}
    before = look(None, 60, [ONE], word=heard(ONE, 60, productive=30))
    less = look(before, 360, [ONE], word=heard(ONE, 360, productive=40))
    assert less.seconds == {"queued": 15, "starting": 15, "productive": 40, "stalled": 290}
    back = look(less, 300, [ONE], word=heard(ONE, 300, productive=45))
    assert back.seconds == less.seconds
    drifting = look(before, 75, [ONE], word=heard(ONE, 75, productive=43.5, data_wait=0.5))
    assert sum(drifting.seconds.values()) == 75
    assert set(drifting.seconds) == {"queued", "starting", "productive", "data_wait"}


AGAIN = Pod(attempt=2, created=100, scheduled=110, started=130)


@pytest.mark.parametrize(
    ("why", "between"), [("Infrastructure", "down"), ("Edited", "down"), ("Disruption", "down"), ("Suspended", "queued")]
)
def test_between_attempts(why: str, between: str) -> None:
    first = look(None, 60, [ONE], word=heard(ONE, 60, productive=30))
    ended = status(attempt=2, ended=(70, why))
    stopping = look(first, 70, [ONE], said=ended)
    assert stopping.state == between
    gone = look(stopping, 90, said=ended)
    assert gone.state == between
    third = look(gone, 140, [AGAIN], said=ended)
    expected = {"queued": 25, "starting": 35, "initializing": 10, "productive": 40}
    expected[between] = expected.get(between, 0) + 30
    assert third.seconds == expected
    repeated = look(third, 160, [AGAIN], said=ended, word=heard(AGAIN, 160, initializing=18, repeated=12))
    assert repeated.seconds["repeated"] == 12
    assert repeated.seconds["initializing"] == 18
    assert booked(repeated) == 160


def test_a_group_that_waits_in_a_queue_is_queued_though_another_ended_before() -> None:
    ended = status(attempt=2, ended=(70, "Infrastructure"))
    waits = [workload("train", 80, attempt=2, Suspended=80)]
    assert look(None, 100, said=ended, workloads=waits).seconds == {"queued": 90, "down": 10}


def test_suspended_is_queued_whatever_ended_before() -> None:
    ended = status(attempt=2, ended=(70, "Infrastructure"), suspended=80)
    assert look(None, 100, said=ended).seconds == {"queued": 90, "down": 10}


def test_where_nothing_tells_of_a_change_the_open_state_goes_on() -> None:
    """Pods that are gone left no time; a workload that was suspended says since when."""
    running = look(None, 80, [CLEAN])
    assert look(running, 90).seconds["preprocessing"] == 40
    assert look(running, 90).state == "queued"
    suspended = [workload("clean", 5, Suspended=84)]
    assert look(running, 90, workloads=suspended).seconds == {"queued": 26, "starting": 30, "preprocessing": 34}
    trained = look(None, 60, [ONE], word=heard(ONE, 60, productive=30))
    assert look(trained, 400).seconds["productive"] == 90, "what only a program can tell does not go on without it"
    exporting = look(None, 80, [replace(CLEAN, stage="export")], said=status(trained=True))
    assert look(exporting, 400, said=status(trained=True)).seconds["productive"] == 350


def test_the_share_that_was_productive() -> None:
    def ratio(now: float, **seconds: float) -> float | None:
        word = heard(ONE, now, **seconds) if seconds else None
        return look(None, now, [CLEAN, ONE], said=status(began=10), word=word).ratio

    assert ratio(60) is None
    assert ratio(110, initializing=80) is None
    assert ratio(110, initializing=30, productive=50) == 0.5
    first = look(None, 110, [ONE], said=status(began=10), word=heard(ONE, 110, productive=50))
    assert look(first, 210, [ONE], said=status(began=10)).ratio == 0.25, "silence counts"


def test_a_finished_job_is_closed() -> None:
    first = look(None, 60, [ONE], word=heard(ONE, 60, productive=30))
    end = look(first, 100.9, [ONE], said=status(finished=100))
    assert (end.state, booked(end)) == (None, 100)
    assert end.seconds["productive"] == 70
    assert look(end, 500, said=status(finished=100)) == end


def test_a_status_of_another_version_costs_no_more_than_its_own_part() -> None:
    odd = Goodput(since=stamp(50), state="queued", seconds={"queued": 40.0, "resting": 10.0, "down": -3})
    assert look(odd, 60).seconds == {"queued": 50.0}


# Any history


@given(st.dictionaries(st.sampled_from(STATES), st.integers(1, 10**12)))
def test_what_is_written_is_read_again_to_the_millisecond(booked: dict[Any, int]) -> None:
    assert account_of(in_seconds(booked)) == booked


@st.composite
def lives(draw: st.DrawFn) -> tuple[list[Pod], list[tuple[int, int]]]:
    """Pods of some stages in a row, the last of them of training, and the trainer's own states: seconds of step and of pause."""
    pods, now = [], 0
    for stage in draw(st.lists(st.sampled_from(["clean", "tokenize"]), max_size=2, unique=True)):
        ends = []
        for index in range(draw(st.integers(1, 3))):
            created = now + draw(st.integers(0, 50))
            scheduled = created + draw(st.integers(0, 50))
            started = scheduled + draw(st.integers(0, 50))
            ends.append(started + draw(st.integers(0, 200)))
            pods.append(Pod(stage, index, 0, created, scheduled, started, ends[-1]))
        now = max(ends)
    created = now + draw(st.integers(0, 50))
    started = created + draw(st.integers(0, 50))
    pods.append(Pod(created=created, scheduled=created, started=started))
    return pods, draw(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 20)), min_size=1, max_size=8))


def told(pod: Pod, paces: list[tuple[int, int]], now: int) -> dict[str, float]:
    """What a training pod tells of itself at a time."""
    left = now - int(pod.started or 0)
    seconds = dict.fromkeys(("productive", "data_wait"), 0.0)
    for lasts, state in ((part, name) for pace in paces for part, name in zip(pace, seconds, strict=True)):
        seconds[state] += min(lasts, left)
        left -= min(lasts, left)
    return seconds | {"checkpoint": left}


@settings(max_examples=150, deadline=None)
@given(lives(), st.lists(st.integers(1, 120), min_size=1, max_size=15))
def test_whenever_somebody_looks_the_same_is_booked(life: tuple[list[Pod], list[tuple[int, int]]], waits: list[int]) -> None:
    """An operator that looked often, was restarted, or came when all was over."""
    pods, paces = life
    trainer, now, prompt = pods[-1], 0, None
    for wait in waits:
        now += wait
        word = heard(trainer, now, **told(trainer, paces, now)) if now > int(trainer.started or 0) else None
        prompt = look(prompt, now, pods, word=word)
        assert booked(prompt) == now
        assert set(prompt.seconds) <= set(STATES)
        assert all(value > 0 for value in prompt.seconds.values())
        assert look(None, now, pods, word=word).seconds == prompt.seconds
