"""What a run tells while it trains: Prometheus, the record, TensorBoard, events."""

from __future__ import annotations

import io
import itertools
import json
import math
import time
import urllib.request
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pretrain_stage.catalogue import STORAGE_ERRORS
from pretrain_stage.config import Metadata
from pretrain_stage.errors import StorageError, UserError
from pretrain_stage.events import Events
from pretrain_stage.metric import Metric
from pretrain_stage.storage import open_folder
from pretrain_stage.storage_errors import storage_errors
from pretrain_trainer import catalogue
from pretrain_trainer.account import Account
from pretrain_trainer.listeners.listener import (
    CheckpointFailure,
    CheckpointMeasures,
    NonfiniteStep,
    StepMeasures,
    ValidationMeasures,
)
from pretrain_trainer.listeners.prometheus import Beginning, Prometheus
from pretrain_trainer.listeners.record import ATTEMPT_BYTES, RECORD, Record
from pretrain_trainer.listeners.spoken import SpokenEvents
from pretrain_trainer.meter import Meter, Taken, _Pending
from pretrain_trainer.saver import Failed
from pretrain_trainer.validate import perplexity
from prometheus_client.parser import text_string_to_metric_families

from tests.trainer.conftest import PEAK_TERAFLOPS, Trained
from tests.trainer.jobs import SAMPLES, SEQUENCE, STEPS

JOB = {"namespace": "tests", "name": "little"}
PREFIX = "pretrain_training_"
SERVED = (*catalogue.METRICS, STORAGE_ERRORS)


def step(number: int, seconds: float = 0.5, **measures: Any) -> StepMeasures:
    return StepMeasures(number, 5.0 - number, 1e-3, 0.7, 256, seconds, 0.01, **measures)


def samples(text: str) -> dict[str, float]:
    """Values by name, of the series with this job's labels and no others."""
    return {
        sample.name.removeprefix(PREFIX): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.labels == JOB
    }


def labelled(text: str, metric: Metric) -> dict[str, float]:
    """Values of a metric's series, by what its label beyond the job's says."""
    (label,) = set(metric.labels) - set(JOB)
    return {
        sample.labels[label]: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == metric.name
    }


def spoken() -> tuple[Events, io.StringIO]:
    stream = io.StringIO()
    return Events({"stage": "train"}, stream), stream


class Served:
    """A listener with its page."""

    def __init__(self, beginning: Beginning, account: Account) -> None:
        events, stream = spoken()
        self.listener = Prometheus(Metadata(**JOB), beginning, account, events)
        self.address = f"http://127.0.0.1:{json.loads(stream.getvalue())['metrics_port']}/metrics"

    def page(self) -> str:
        with urllib.request.urlopen(self.address) as answer:
            text: str = answer.read().decode()
        return text


@pytest.fixture
def account() -> Account:
    return Account(2.0)


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch, account: Account) -> Iterator[Any]:
    """Makes listeners that serve on a free port."""
    monkeypatch.setenv("PRETRAIN_METRICS_PORT", "0")
    made: list[Served] = []

    def of(**beginning: Any) -> Served:
        made.append(Served(Beginning(**{"steps": 48, "checkpoint_steps": 16, **beginning}), account))
        return made[-1]

    yield of
    for served in made:
        served.listener.exposition.close()  # the listener's own close waits until a fault has been read


def test_prometheus_serves_what_was_measured(serve: Any, account: Account) -> None:
    served = serve(full_speed=4096.0)
    metrics = served.listener
    for number in (1, 2, 3):
        account.took(0.5)
        metrics.step(step(number, time=1000.0 + number, skipped=number - 1))
    metrics.validation(ValidationMeasures(3, 4.5, math.exp(4.5)))
    metrics.checkpoint(CheckpointMeasures(3, 2.5, 1000, 7.5, 2000.0))
    metrics.checkpoint_waited(6, 1.5)
    metrics.checkpoint_failed(CheckpointFailure(6, "disk full", 2))
    metrics.nonfinite(NonfiniteStep(3, 1e-3, "loss is nan", 1, last=False))
    found = samples(served.page())
    expected = {
        "step": 3,
        "steps": 48,
        "loss": 2.0,
        "validation_loss": 4.5,
        "learning_rate": 1e-3,
        "gradient_norm": 0.7,
        "tokens_total": 3 * 256,
        "tokens_per_second": 512,
        "mfu_ratio": 0.125,
        "step_seconds_count": 3,
        "step_seconds_sum": 1.5,
        "data_wait_seconds_count": 3,
        "data_wait_seconds_sum": pytest.approx(0.03),
        "skipped_steps_total": 3,
        "nonfinite_steps_total": 1,
        "checkpoint_seconds_count": 1,
        "checkpoint_seconds_sum": 2.5,
        "checkpoint_commit_seconds_sum": 7.5,
        "checkpoint_wait_seconds_total": 1.5,
        "checkpoint_bytes": 1000,
        "checkpoint_step": 3,
        "checkpoint_timestamp_seconds": 2000,
        "checkpoint_interval_seconds": 8,
        "checkpoint_failures_total": 1,
        "last_step_timestamp_seconds": 1003,
        "trained_tokens": 3 * 256,
    }
    assert {name: found[name] for name in expected} == expected


def test_what_counts_is_there_from_the_beginning_and_what_is_measured_is_not(serve: Any, account: Account) -> None:
    """So that a rise from nothing is a rise, and nobody takes a zero for a loss."""
    text = serve().page()
    assert samples(text).keys() >= {
        *("step", "steps", "tokens_total", "trained_tokens", "step_seconds_count", "data_wait_seconds_count"),
        *("skipped_steps_total", "nonfinite_steps_total", "checkpoint_failures_total", "checkpoint_seconds_count"),
        *("checkpoint_step", "checkpoint_bytes", "checkpoint_timestamp_seconds", "checkpoint_interval_seconds"),
        "last_step_timestamp_seconds",
    }
    assert (
        samples(text)
        .keys()
        .isdisjoint({"loss", "validation_loss", "learning_rate", "gradient_norm", "tokens_per_second", "mfu_ratio"})
    )
    assert samples(text)["checkpoint_timestamp_seconds"] == pytest.approx(account.began, abs=0.01)
    assert labelled(text, catalogue.CHECKPOINTS_VERIFIED) == {"ok": 0, "corrupt": 0}
    assert labelled(text, STORAGE_ERRORS) == storage_errors(), "those of the process, which runs other tests too"
    seconds = labelled(text, catalogue.SECONDS)
    assert tuple(seconds) == catalogue.STATES
    assert 2.0 <= seconds["initializing"] < 12.0


def test_a_run_that_goes_on_begins_where_it_left_off(serve: Any) -> None:
    """Before the first step too, which may take minutes; only what this process has done itself is counted from zero."""
    served = serve(done=12, done_tokens=12 * 256, checkpoint_bytes=77, verified={"ok": 1, "corrupt": 2})

    def values() -> tuple[float, ...]:
        found = samples(served.page())
        return tuple(
            found[name] for name in ("step", "checkpoint_step", "trained_tokens", "tokens_total", "checkpoint_bytes")
        )

    assert values() == (12, 12, 12 * 256, 0, 77)
    assert labelled(served.page(), catalogue.CHECKPOINTS_VERIFIED) == {"ok": 1, "corrupt": 2}
    served.listener.step(step(13))
    assert values() == (13, 12, 13 * 256, 256, 77)


def settle(meter: Meter, number: int, loss: float, norm: float = 1.0) -> None:
    """Lets a meter read what a step of that number came to."""
    taken: Any = Taken(number, None, 1e-3, norm, 0.0)  # type: ignore[arg-type]
    meter._pending = _Pending(taken, SimpleNamespace(read=lambda: (loss, False, norm)), 0.5, 0.0)  # type: ignore[arg-type]
    meter.settle()


def test_steps_that_are_no_numbers_are_counted_and_the_third_in_a_row_ends_the_run(serve: Any, account: Account) -> None:
    served, said = serve(), io.StringIO()
    meter = Meter(256, [served.listener, SpokenEvents(Events({}, said), 9, 0, account)], account)
    settle(meter, 1, 2.5)
    settle(meter, 2, math.nan)
    settle(meter, 3, 2.5, norm=-1.0)
    assert meter.nonfinite == 2
    assert meter.measures["loss"] == 2.5
    settle(meter, 4, 2.0)
    assert meter.nonfinite == 0
    settle(meter, 5, 2.0, norm=math.inf)
    settle(meter, 6, -math.inf)
    with pytest.raises(
        UserError,
        match=r"learningRate: 0.001 at step 7: loss is nan, the 3rd time in a row, so training cannot go on; there is",
    ):
        settle(meter, 7, math.nan)
    found = samples(served.page())
    assert (found["nonfinite_steps_total"], found["step"]) == (5, 7)
    assert found["loss"] == 2.0
    warnings = [line for line in map(json.loads, said.getvalue().splitlines()) if line["event"] == "warning"]
    assert [line["in_a_row"] for line in warnings] == [1, 2, 1, 2, 3]
    assert (
        warnings[1]["message"]
        == "step 3: the gradient's norm is nan; its update was left out, weights are as before (2 in a row)"
    )
    assert (warnings[1]["step"], warnings[1]["learning_rate"]) == (3, 1e-3)


def test_a_checkpoint_that_fails_is_counted_before_it_ends_the_run(serve: Any, account: Account) -> None:
    served = serve()
    meter = Meter(256, [served.listener], account)
    for tries_left in (1, 0):
        meter.checkpoint_failed(Failed(16, StorageError("disk full", temporary=True), tries_left))
        assert served.listener.failed == (tries_left == 0), "whether its end waits until that has been read"
    assert samples(served.page())["checkpoint_failures_total"] == 2


def test_a_real_run_serves_exactly_its_catalogue(trained_by_two: Trained) -> None:
    """Every metric with a series, with its type, its help and no label but those that it declares."""
    families = {family.name: family for family in text_string_to_metric_families(trained_by_two.metrics)}
    assert families.keys() == {metric.name.removesuffix("_total") for metric in SERVED}
    for metric in SERVED:
        family = families[metric.name.removesuffix("_total")]
        assert (family.type, family.documentation) == (metric.kind, metric.help)
        assert family.samples, f"{metric.name} has no series"
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(metric.labels), sample
            assert {key: sample.labels[key] for key in JOB} == JOB


def test_a_real_runs_series_agree_with_each_other(trained_by_two: Trained) -> None:
    found = samples(trained_by_two.metrics)
    done = found["step"]
    assert 24 <= done <= STEPS, "read soon after the first validation"
    assert found["tokens_total"] == found["trained_tokens"] == done * SAMPLES * SEQUENCE
    assert found["step_seconds_count"] == found["data_wait_seconds_count"] == done
    assert found["steps"] == STEPS
    assert found["checkpoint_step"] == 16 * found["checkpoint_seconds_count"]
    assert found["checkpoint_interval_seconds"] == pytest.approx(16 * found["step_seconds_sum"] / done, rel=0.5)
    assert found["checkpoint_timestamp_seconds"] < found["last_step_timestamp_seconds"] + 5 < time.time() + 5
    shape = 6 * trained_by_two.facts["parameters"] + 12 * 2 * 128 * SEQUENCE
    assert found["mfu_ratio"] == pytest.approx(found["tokens_per_second"] * shape / (2 * PEAK_TERAFLOPS * 1e12))
    seconds = labelled(trained_by_two.metrics, catalogue.SECONDS)
    assert seconds["productive"] == pytest.approx(found["step_seconds_sum"], rel=0.5)
    assert seconds["checkpoint"] >= 0.9 * found["checkpoint_seconds_sum"]
    assert seconds["initializing"] > 1, "it has imported torch"
    assert seconds["repeated"] == seconds["stalled"] == 0


@pytest.mark.slow
def test_the_account_of_a_real_run_is_closed(trained_by_two: Trained) -> None:
    """What was served, said and left are one account, and its sum is the age of the process."""
    (said,) = (event for event in trained_by_two.events if event["event"] == "account")
    (attempt,) = (line for line in trained_by_two.site.record() if line["kind"] == "attempt")
    whole = said["seconds"]
    assert tuple(whole) == catalogue.STATES
    assert sum(whole.values()) == pytest.approx(datetime.fromisoformat(said["time"]).timestamp() - attempt["time"], abs=0.1)
    for state, seconds in labelled(trained_by_two.metrics, catalogue.SECONDS).items():
        assert seconds <= whole[state] + 0.001
    steps = [event["seconds"] for event in trained_by_two.events if event["event"] == "step"]
    for before, after in itertools.pairwise([*steps, whole]):
        assert all(before[state] <= after[state] for state in catalogue.STATES)
    assert sum(attempt["seconds"].values()) <= sum(whole.values())


def test_the_record_goes_on_without_doubling(tmp_path: Path) -> None:
    storage = open_folder(tmp_path / "storage")
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    first = Record(storage, tmp_path / "first", 0, Account(10.0))
    for number in (1, 2, 3, 4):
        first.step(step(number))
        if number == 2:
            first.validation(ValidationMeasures(2, 4.5, 90.0))
    bring = first.publish()
    first.step(step(5))
    bring()  # by another thread, while steps go on
    assert json.loads((storage.read(RECORD) or b"").splitlines()[-1])["step"] == 4
    first.close()
    storage.write(RECORD, (storage.read(RECORD) or b"") + b'{"kind": "step", "st')  # a torn line counts for nothing
    account = Account(0.0)
    second = Record(storage, tmp_path / "second", 2, account)
    for number in (3, 4, 5):
        account.computes(number)
        second.step(step(number, seconds=0.25))
    time.sleep(0.01)
    second.publish()()
    second.close()
    lines = [json.loads(line) for line in (storage.read(RECORD) or b"").splitlines()]
    assert [(line["kind"], line["step"]) for line in lines] == [
        ("attempt", 0),
        ("step", 1),
        ("step", 2),
        ("validation", 2),
        ("attempt", 2),
        ("step", 3),
        ("step", 4),
        ("step", 5),
    ]
    assert lines[5]["tokens_per_second"] == 1024, "what was done again replaces what was lost"
    assert lines[0]["seconds"]["initializing"] >= 10, "what an earlier start left stays"
    assert lines[4]["seconds"]["productive"] > 0, "written again when it was published"
    assert lines[4]["time"] == pytest.approx(time.time(), abs=60)


def test_the_line_of_an_attempt_keeps_its_length(tmp_path: Path) -> None:
    """It is written over in place; a century must fit."""
    record = Record(open_folder(tmp_path / "storage"), tmp_path, 10_000_000, Account(3.2e9))
    assert len(record._attempt()) == ATTEMPT_BYTES
    record.close()


def test_a_record_of_another_run_is_not_gone_on_with(tmp_path: Path) -> None:
    storage = open_folder(tmp_path / "storage")
    storage.write(RECORD, b'{"kind": "step", "step": 1}\n')
    record = Record(storage, tmp_path, 0, Account())
    record.publish()()
    record.close()
    (line,) = (storage.read(RECORD) or b"").splitlines()
    assert json.loads(line)["kind"] == "attempt"


def test_steps_are_spoken_of_once_a_second_and_at_both_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("pretrain_trainer.listeners.spoken.time.monotonic", lambda: now[0])
    events, stream = spoken()
    account = Account(1.5)
    listener = SpokenEvents(events, 10, 2, account)
    for number in range(3, 11):
        now[0] += 0.3
        account.took(0.3)
        listener.step(step(number, seconds=0.3))
    started, *said = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert started["event"] == "started"
    assert [(line["event"], line["step"]) for line in said] == [("step", 3), ("step", 7), ("step", 10)]
    assert said[1]["tokens_per_second"] == pytest.approx(256 / 0.3), "the mean since it last spoke"
    assert said[1]["eta_seconds"] == pytest.approx(3 * 0.3)
    assert said[-1]["eta_seconds"] == 0
    assert said[-1]["tokens"] == 10 * 256
    assert tuple(said[-1]["seconds"]) == catalogue.STATES
    assert said[-1]["seconds"]["initializing"] >= 1.5


@pytest.mark.slow
def test_a_real_runs_events_carry_what_readers_need(trained_by_two: Trained) -> None:
    by_kind = {said["event"]: said for said in trained_by_two.events}
    assert {"step", "steps", "loss", "learning_rate", "grad_norm", "tokens", "tokens_per_second", "eta_seconds"} <= set(
        by_kind["step"]
    )
    assert {"step", "loss", "perplexity"} <= set(by_kind["validation"])
    assert {"step", "seconds", "bytes"} <= set(by_kind["checkpoint"])
    assert {"name", "namespace", "stage", "time", "message"} <= set(by_kind["result"])
    assert {said["stage"] for said in trained_by_two.events} == {"train"}


@pytest.mark.slow
def test_tensorboard_files_hold_the_curves(trained_by_two: Trained) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(trained_by_two.site.path("reports/tensorboard")))
    accumulator.Reload()
    losses = accumulator.Scalars("training/loss")
    assert [event.step for event in losses] == list(range(1, STEPS + 1))
    assert losses[-1].value == pytest.approx(trained_by_two.facts["final_loss"])
    assert [event.step for event in accumulator.Scalars("validation/loss")] == [24, 48]


def test_perplexity_of_a_hopeless_model_is_infinite() -> None:
    assert perplexity(math.log(100)) == pytest.approx(100)
    assert perplexity(1e4) == math.inf
