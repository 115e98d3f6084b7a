"""What a run tells while it trains: Prometheus, the record, TensorBoard, events."""

from __future__ import annotations

import io
import json
import math
import urllib.request
from pathlib import Path

import pytest
from pretrain_stage.config import Metadata
from pretrain_stage.events import Events
from pretrain_stage.storage import open_folder
from pretrain_trainer.metrics import (
    RECORD,
    CheckpointMeasures,
    Prometheus,
    Record,
    SpokenEvents,
    StepMeasures,
    ValidationMeasures,
)
from pretrain_trainer.validate import perplexity
from prometheus_client.parser import text_string_to_metric_families

from tests.trainer.conftest import Trained
from tests.trainer.jobs import SAMPLES, SEQUENCE, STEPS


def step(number: int, seconds: float = 0.5) -> StepMeasures:
    return StepMeasures(number, 5.0 - number, 1e-3, 0.7, 256, seconds, 0.01)


def samples(text: str) -> dict[str, float]:
    """Values by name, of the series with this job's labels and no others."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.labels == {"namespace": "tests", "name": "little"}:
                found[sample.name] = sample.value
    return found


def spoken() -> tuple[Events, io.StringIO]:
    stream = io.StringIO()
    return Events({"stage": "train"}, stream), stream


def test_prometheus_serves_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRETRAIN_METRICS_PORT", "0")
    events, stream = spoken()
    metrics = Prometheus(Metadata(name="little", namespace="tests"), 48, events)
    for number in (1, 2, 3):
        metrics.step(step(number))
    metrics.validation(ValidationMeasures(3, 4.5, math.exp(4.5)))
    metrics.checkpoint(CheckpointMeasures(3, 2.5, 1000))
    port = json.loads(stream.getvalue())["metrics_port"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        found = samples(answer.read().decode())
    metrics.close()
    expected = {
        "step": 3,
        "steps": 48,
        "loss": 2.0,
        "validation_loss": 4.5,
        "learning_rate": 1e-3,
        "gradient_norm": 0.7,
        "tokens_total": 3 * 256,
        "tokens_per_second": 512,
        "step_seconds_count": 3,
        "step_seconds_sum": 1.5,
        "data_wait_seconds_count": 3,
        "data_wait_seconds_sum": pytest.approx(0.03),
        "checkpoint_seconds_count": 1,
        "checkpoint_seconds_sum": 2.5,
        "checkpoint_bytes": 1000,
        "checkpoint_step": 3,
        "trained_tokens": 3 * 256,
    }
    assert {name: found[f"pretrain_training_{name}"] for name in expected} == expected


def test_a_run_that_goes_on_begins_where_it_left_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first step too, which may take minutes; only what this process has done itself is counted from zero."""
    monkeypatch.setenv("PRETRAIN_METRICS_PORT", "0")
    events, stream = spoken()
    metrics = Prometheus(Metadata(name="little", namespace="tests"), 48, events, done=12, done_tokens=12 * 256)
    address = f"http://127.0.0.1:{json.loads(stream.getvalue())['metrics_port']}/metrics"

    def served() -> tuple[float, ...]:
        with urllib.request.urlopen(address) as answer:
            found = samples(answer.read().decode())
        names = ("step", "checkpoint_step", "trained_tokens", "tokens_total")
        return tuple(found[f"pretrain_training_{name}"] for name in names)

    assert served() == (12, 12, 12 * 256, 0)
    metrics.step(step(13))
    assert served() == (13, 12, 13 * 256, 256)
    metrics.close()


def test_a_real_run_serves_them_by_the_naming_rules(trained_by_two: Trained) -> None:
    """Base units, a help text each, counters that end in _total, and no label but the job's (and a histogram's own)."""
    families = list(text_string_to_metric_families(trained_by_two.metrics))
    assert {family.name for family in families} == {
        f"pretrain_training_{name}"
        for name in (
            *("step", "steps", "loss", "validation_loss", "learning_rate", "gradient_norm", "tokens", "tokens_per_second"),
            *("step_seconds", "data_wait_seconds", "checkpoint_seconds", "checkpoint_bytes"),
            *("checkpoint_step", "trained_tokens"),
        )
    }
    for family in families:
        assert len(family.documentation) > 20, family.name
        assert not family.name.endswith(("_ms", "_milliseconds", "_mb", "_count", "_total")), family.name
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == {"namespace", "name"}, sample
        if family.type == "counter":
            assert {sample.name for sample in family.samples} <= {f"{family.name}_total", f"{family.name}_created"}
    found = samples(trained_by_two.metrics)
    done = found["pretrain_training_step"]
    assert 24 <= done <= STEPS, "read soon after the first validation"
    assert found["pretrain_training_tokens_total"] == done * SAMPLES * SEQUENCE
    assert found["pretrain_training_trained_tokens"] == done * SAMPLES * SEQUENCE
    assert found["pretrain_training_step_seconds_count"] == done
    assert found["pretrain_training_steps"] == STEPS


def test_the_record_goes_on_without_doubling(tmp_path: Path) -> None:
    storage = open_folder(tmp_path / "storage")
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    first = Record(storage, tmp_path / "first", 0)
    for number in (1, 2, 3, 4):
        first.step(step(number))
        if number == 2:
            first.validation(ValidationMeasures(2, 4.5, 90.0))
    first.publish()
    first.close()
    storage.write(RECORD, (storage.read(RECORD) or b"") + b'{"kind": "step", "st')  # a torn line counts for nothing
    second = Record(storage, tmp_path / "second", 2)
    for number in (3, 4, 5):
        second.step(step(number, seconds=0.25))
    second.publish()
    second.close()
    lines = [json.loads(line) for line in (storage.read(RECORD) or b"").splitlines()]
    assert [(line["kind"], line["step"]) for line in lines] == [
        ("step", 1),
        ("step", 2),
        ("validation", 2),
        ("step", 3),
        ("step", 4),
        ("step", 5),
    ]
    assert lines[3]["tokens_per_second"] == 1024, "what was done again replaces what was lost"


def test_a_record_of_another_run_is_not_gone_on_with(tmp_path: Path) -> None:
    storage = open_folder(tmp_path / "storage")
    storage.write(RECORD, b'{"kind": "step", "step": 1}\n')
    record = Record(storage, tmp_path, 0)
    record.publish()
    record.close()
    assert storage.read(RECORD) == b""


def test_steps_are_spoken_of_once_a_second_and_at_both_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("pretrain_trainer.metrics.time.monotonic", lambda: now[0])
    events, stream = spoken()
    listener = SpokenEvents(events, steps=10, first_step=2)
    for number in range(3, 11):
        now[0] += 0.3
        listener.step(step(number, seconds=0.3))
    said = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["step"] for line in said] == [3, 7, 10]
    assert all(line["event"] == "step" for line in said)
    assert said[1]["tokens_per_second"] == pytest.approx(256 / 0.3), "the mean since it last spoke"
    assert said[1]["eta_seconds"] == pytest.approx(3 * 0.3)
    assert said[-1]["eta_seconds"] == 0
    assert said[-1]["tokens"] == 10 * 256


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
