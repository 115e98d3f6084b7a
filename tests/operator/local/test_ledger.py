"""The ledger of runs on one machine: nothing is lost between runs, and nothing is counted twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event
from typing import Any

import pytest
from pretrain_operator.local import ledger as module
from pretrain_operator.local.ledger import KEEP_SECONDS, RunLedger
from pretrain_stage.errors import StorageError


@dataclass
class Time:
    """A clock that the test sets, and a storage that holds one file."""

    now: float = 1000.0
    kept: bytes | None = None
    writes: list[bytes] = field(default_factory=list)

    def keep(self, data: bytes) -> None:
        self.kept = data
        self.writes.append(data)

    def run(self, training: str = "t", keep: Callable[[bytes], None] | None = None, age: float = 0.0) -> RunLedger:
        """A run that begins now, in a program that was started `age` seconds ago."""
        return RunLedger(self.kept, training, keep or self.keep, age, wall=lambda: self.now, clock=lambda: self.now)

    def file(self) -> dict[str, Any]:
        assert self.kept is not None
        found: dict[str, Any] = json.loads(self.kept)
        assert round(sum(found["seconds"].values()), 3) == round(found["until"] - found["since"], 3)
        return found


def stage(time: Time, run: RunLedger, name: str, seconds: float) -> None:
    run.started(name)
    time.now += seconds
    run.ended(worked=True)


def train(time: Time, run: RunLedger, upto: int, **seconds: float) -> None:
    """Training begins and tells its account, having done so many steps."""
    run.started("train")
    time.now += sum(seconds.values()) + 2  # until its process starts
    run.heard("train", {"event": "step", "step": upto, "seconds": seconds})


def test_what_a_model_is_made_ready_for_is_as_productive_as_what_is_measured_of_it() -> None:
    time = Time()
    run = time.run()
    for name, seconds in (
        ("examples-mood", 1),
        ("vocabulary", 2),
        ("evaluate", 4),
        ("finetune-mood", 8),
        ("predict-new", 16),
    ):
        stage(time, run, name, seconds)
    assert run.seconds() == {"preprocessing": 3, "productive": 28}


def test_a_run_from_its_beginning_to_its_end() -> None:
    time = Time()
    run = time.run()
    stage(time, run, "clean", 10)
    assert run.environment("train") == {}
    train(time, run, 8, initializing=5, productive=20, data_wait=0.5)
    time.now += 4
    run.heard(
        "train", {"event": "account", "seconds": {"initializing": 5, "productive": 22, "data_wait": 0.5, "checkpoint": 2}}
    )
    time.now += 1
    run.ended(worked=True)
    told = json.loads(run.environment("report")["PRETRAIN_LEDGER"])
    assert told == {"preprocessing": 10, "initializing": 7, "productive": 23, "data_wait": 0.5, "checkpoint": 2}
    stage(time, run, "report", 3)
    assert run.close(None) == told | {"productive": 26}
    assert time.file()["state"] is None
    assert time.file()["until"] == time.now


def test_what_the_program_took_to_begin_counts() -> None:
    time = Time()
    first = time.run(age=1.5)
    assert first.seconds()["starting"] == 1.5
    stage(time, first, "preflight", 2.0)
    first.close("queued")
    assert (time.file()["since"], time.file()["until"]) == (998.5, 1002.0)
    time.now = 1010.0
    second = time.run(age=3.0)
    assert (second.seconds()["queued"], second.seconds()["starting"]) == (5.0, 4.5)
    time.now = 1011.0
    assert sum(second.seconds().values()) == 12.5
    assert sum(time.run(age=30.0).seconds().values()) == 12.5, "no more than there was since the earlier run"


def test_a_run_that_was_killed_is_gone_on_with() -> None:
    time = Time()
    run = time.run()
    stage(time, run, "clean", 10)
    train(time, run, 8, initializing=5, productive=20)
    time.now += KEEP_SECONDS
    run.passes()
    run._writing.join()
    assert time.file()["until"] == 1037, "what came after its last word is not booked yet"
    time.now += 100  # it is killed, and later started again
    again = time.run()
    assert again.environment("train") == {"PRETRAIN_FURTHEST_STEP": "8"}
    train(time, again, 8, initializing=6, repeated=9)
    again.ended(worked=True)
    assert again.close(None) == {
        "preprocessing": 10, "initializing": 15, "productive": 20, "repeated": 9, "down": 100 + KEEP_SECONDS,
    }  # fmt: skip
    assert time.file()["until"] - time.file()["since"] == time.now - 1000


@pytest.mark.parametrize(("state", "between"), [("queued", "queued"), ("down", "down")])
def test_between_runs(state: Any, between: str) -> None:
    time = Time()
    run = time.run()
    stage(time, run, "clean", 10)
    run.close(state)
    time.now += 50
    assert time.run().seconds() == {"preprocessing": 10, between: 50}


def test_a_finished_job_begins_anew_once_there_is_something_to_do() -> None:
    time = Time()
    run = time.run()
    train(time, run, 8, productive=20)
    run.close(None)
    finished = time.kept
    time.now += 1000
    again = time.run()
    again.started("clean")
    time.now += 1
    again.ended(worked=False)
    again.close(None)
    assert time.kept == finished
    third = time.run()
    assert third.environment("train") == {"PRETRAIN_FURTHEST_STEP": "8"}, "it may be continued with more tokens"
    stage(time, third, "train", 7)
    assert third.close(None) == {"initializing": 7}
    assert time.file()["since"] == time.now - 7


def test_steps_of_another_training_are_not_repeated() -> None:
    time = Time()
    run = time.run()
    train(time, run, 8, productive=20)
    run.close("down")
    assert time.run("another").environment("train") == {}


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b'{"since": 5}', b'{"since": 9, "until": 5, "seconds": {}, "state": "down", "training": "t"}',
     b'{"since": 5, "until": 1e99, "seconds": {}, "state": "down", "training": "t"}'],
)  # fmt: skip
def test_a_file_that_is_no_ledger_counts_for_nothing(data: bytes) -> None:
    time = Time(kept=data)
    run = time.run()
    stage(time, run, "clean", 10)
    assert run.close(None) == {"preprocessing": 10}


def test_numbers_that_do_not_add_up_are_made_to() -> None:
    kept = {
        "since": 100.0,
        "until": 200.0,
        "seconds": {"productive": 60.0, "resting": 10.0},
        "state": "down",
        "training": "t",
    }
    assert Time(now=210, kept=json.dumps(kept).encode()).run().seconds() == {"productive": 60, "down": 50}
    kept["seconds"] = {"productive": 600.0}
    assert Time(now=210, kept=json.dumps(kept).encode()).run().seconds() == {"down": 110}
    assert Time(now=150, kept=json.dumps(kept).encode()).run().seconds() == {"down": 100}, "a clock that was set back"


def test_a_storage_that_does_not_answer_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CLOSE_SECONDS", 0.1)
    answered, asked, time = Event(), list[bytes](), Time()

    def hangs(data: bytes) -> None:
        asked.append(data)
        answered.wait(20)

    run = time.run(keep=hangs)
    stage(time, run, "clean", 10)
    stage(time, run, "tokenize", 10)
    assert run.close(None) == {"preprocessing": 20}
    assert len(asked) == 1
    answered.set()


def test_a_storage_that_is_away_harms_nothing() -> None:
    def away(data: bytes) -> None:
        raise StorageError("storage: cannot write", temporary=True)

    time = Time()
    run = time.run(keep=away)
    stage(time, run, "clean", 10)
    assert run.close(None) == {"preprocessing": 10}
