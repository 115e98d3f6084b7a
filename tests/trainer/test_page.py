"""What the page at the end of a run shows: curves of any length, accounts, tables, the graph of manifests."""

from __future__ import annotations

import math
import re
import time
from typing import Any

import pytest
from pretrain_stage.manifest import Counts, Manifest
from pretrain_trainer.chart import (
    HEIGHT,
    LOG_DECADES,
    WIDTH,
    Scale,
    Series,
    chart,
    linear_ticks,
    log_ticks,
    marks,
    number,
    step_scale,
    thinned,
    trend,
    value_scale,
)
from pretrain_trainer.graph import graph
from pretrain_trainer.history import Attempt, History, account, read_history
from pretrain_trainer.page import (
    by_source,
    checkpoints,
    curves,
    duration,
    evaluation,
    goodput,
    size,
    sources,
    stages,
    states,
)

STEPS = 100_000


def places(path: str) -> list[tuple[float, float]]:
    """The points of a path."""
    return [(float(x), float(y)) for x, y in re.findall(r"([\d.]+) ([\d.-]+)", path)]


def test_no_extreme_of_a_long_run_is_lost() -> None:
    points = [(float(step), 2.0 + math.sin(step)) for step in range(1, STEPS + 1)]
    points[40_000], points[70_001] = (40_001.0, 9.0), (70_002.0, -1.0)
    few = thinned(points)
    assert len(few) < 1000
    assert {(40_001.0, 9.0), (70_002.0, -1.0)} <= set(few)
    assert few == sorted(few)
    assert all(abs(value - 2) < 0.5 for _, value in trend(points)), "means, which a spike hardly moves"
    assert thinned(points[:700]) == points[:700]
    assert trend(points[:100]) == []


def test_a_long_record_becomes_a_small_page_in_seconds() -> None:
    began = time.monotonic()
    line = {"loss": 2.0, "learning_rate": 1e-3, "grad_norm": 0.5, "tokens": 1, "seconds": 0.1, "tokens_per_second": 10.0}
    steps = [{**line, "step": step, "data_wait_seconds": step % 7 / 1000} for step in range(1, STEPS + 1)]
    drawn = curves(History(steps, [], [], []))
    assert sum(len(one.path) + len(one.trend) for found in drawn["charts"] for one in found.curves) < 200_000
    assert time.monotonic() - began < 10


def test_a_curve_lies_where_its_values_are() -> None:
    found = chart("loss", Scale(0, 100), [Series("a", [(0, 1.0), (50, 3.0), (100, math.nan), (100, 2.0)])], from_zero=False)
    (curve,) = found.curves
    left, middle, right = places(curve.path)
    assert (left[0], middle[0], right[0]) == (0, WIDTH / 2, WIDTH)
    assert left[1] > right[1] > middle[1] > 0
    assert found.note == "1 values that are no finite numbers are left out"
    assert [(tick.at, tick.label) for tick in found.ticks_across][-1] == (100, "100")


@pytest.mark.parametrize(
    ("values", "from_zero", "low", "high", "log"),
    [
        ([1.0, 2.0, 3.0], True, 0, 3.12, False),
        ([2.0, 3.0], False, 1.96, 3.04, False),
        ([1.0, 1.0, 1.0, 500.0], True, 1.0, 500.0, True),
        ([0.0, 1.0, 1.0, 500.0], True, 500 / 10**LOG_DECADES, 500.0, True),
        ([5.0], False, 5, 10, False),
        ([0.0, 0.0], True, 0, 1, False),
        ([-1.0, 1.0], True, -1, 1.08, False),
        ([], True, 0, 1, False),
    ],
)
def test_a_scale_holds_all_values(values: list[float], from_zero: bool, low: float, high: float, log: bool) -> None:
    found = value_scale(values, from_zero)
    assert [found.low, found.high] == pytest.approx([low, high])
    assert found.log is log
    assert all(0 <= found.share(value) <= 1 for value in values)


def test_ticks_are_round_numbers() -> None:
    assert linear_ticks(Scale(0.3, 10.2), 4) == [5, 10]
    assert linear_ticks(Scale(1, 600), 6) == [100, 200, 300, 400, 500, 600]
    assert log_ticks(Scale(0.002, 30, log=True)) == pytest.approx([0.01, 0.1, 1, 10])
    assert log_ticks(Scale(1, 30, log=True)) == pytest.approx([1, 2, 5, 10, 20])


def test_strokes_stand_where_training_was_started_again() -> None:
    assert places(marks([50], Scale(0, 100), "V0")) == [(WIDTH / 2, HEIGHT)]
    assert step_scale([7]) == Scale(7, 8)
    line: dict[str, Any] = dict.fromkeys(
        ("loss", "learning_rate", "grad_norm", "tokens", "seconds", "tokens_per_second", "data_wait_seconds"), 1.0
    )
    steps = [{**line, "step": step} for step in range(1, 12)]
    drawn = curves(History(steps, [], [{"step": 11}], [Attempt(0, 0.0, {}), Attempt(6, 9.0, {})]))
    assert (drawn["restarted"], places(drawn["restarts"])) == (1, [(WIDTH / 2, HEIGHT)])
    assert [x for x, _ in places(drawn["checkpoints"])] == [WIDTH / 2, WIDTH], "the one that it went on from, too"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0, "0"),
        (3e-05, "3e-05"),
        (0.25, "0.25"),
        (999.4, "999"),
        (999.7, "1k"),
        (1_254_528, "1.25M"),
        (7e9, "7G"),
        (-2e12, "-2T"),
    ],
)
def test_numbers_for_people(value: float, said: str) -> None:
    assert number(value) == said


def test_times_and_sizes_for_people() -> None:
    assert [duration(seconds) for seconds in (0.0, 0.251, 9.7, 48.4, 303, 7500, 270_300)] == [
        "0 s", "0.25 s", "9.7 s", "48 s", "5:03 min", "2:05:00 h", "3 d 03:05 h",
    ]  # fmt: skip
    assert [size(count) for count in (0, 999, 1500, 20_097_763, 999_999_999_999)] == [
        "0 B",
        "999 B",
        "1.5 kB",
        "20.1 MB",
        "1 TB",
    ]


FIRST = Attempt(0, 1000.0, {"initializing": 10.0, "productive": 50.0, "repeated": 0.0})
SECOND = Attempt(30, 1080.0, {"initializing": 12.0, "productive": 20.0, "repeated": 8.0})


def test_the_time_between_two_starts_is_down() -> None:
    total = account([FIRST, SECOND])
    assert total == {"initializing": 22, "productive": 70, "repeated": 8, "down": 20}
    assert sum(total.values()) == SECOND.ended - FIRST.began
    assert account([]) == {}


def test_the_bar_is_the_jobs_ledger_or_training_alone() -> None:
    whole = goodput({"queued": 25.0, "productive": 75.0, "stalled": 0.0, "unheard_of": 100.0}, [FIRST])
    assert (whole["whole"], whole["seconds"]) == (True, "3:20 min")
    assert [(state["name"], state["percent"]) for state in whole["states"]] == [
        ("queued", 12.5), ("productive", 37.5), ("unheard of", 50),
    ]  # fmt: skip
    alone = goodput(None, [FIRST, SECOND])
    assert alone["whole"] is False
    assert [state["name"] for state in alone["states"]] == ["initializing", "productive", "repeated", "down"]
    assert [(one["step"], one["lasted"]) for one in alone["attempts"]] == [("1", "1:00 min"), ("31", "40 s")]
    assert sum(state["percent"] for state in alone["states"]) == pytest.approx(100, abs=0.05)
    assert goodput(None, [])["states"] == states({}) == []


def manifest(stage: str, counts: Counts | None = None, **facts: Any) -> Manifest:
    return Manifest(
        stage=stage,
        identity="",
        config=None,
        inputs={},
        tasks=1,
        counts=counts or Counts(),
        outputs=(),
        facts=facts,
        seconds=0,
    )


def test_counts_by_stage_and_reason() -> None:
    dropped = {"quality": {"short": 30, "long": 5}, "language": {"fr": 15}}
    chain = [
        manifest("clean", Counts(read=100, kept=50, dropped=dropped, read_bytes=4000, kept_bytes=1500)),
        manifest("train"),
        manifest("tokenize", Counts(read=50, kept=50)),
    ]
    found = stages(chain)
    clean, tokenize = found["rows"]
    assert (clean["kept_percent"], clean["dropped_percent"], clean["bytes"]) == (50, 50, ["4 kB", "1.5 kB"])
    assert [(one["block"], one["reason"], one["dropped"], one["share"], one["percent"]) for one in clean["reasons"]] == [
        ("quality", "short", "30", "30.00%", 100), ("language", "fr", "15", "15.00%", 50), ("quality", "long", "5", "5.00%", 16.67),
    ]  # fmt: skip
    assert (tokenize["name"], tokenize["kept_percent"], tokenize["bytes"], tokenize["reasons"]) == ("tokenize", 50, None, [])
    assert found["bytes"] is True
    assert stages(chain[1:])["bytes"] is False, "what no manifest tells has no column"


def test_the_corpus_by_source_is_that_of_the_last_stage_that_tells() -> None:
    chain = [
        manifest("clean", documents_by_source={"a": 9, "b": 9}, text_bytes_by_source={"a": 900, "b": 900}),
        manifest("exact-filter", documents_by_source={"a": 2, "b": 6}, text_bytes_by_source={"a": 250, "b": 750}),
        manifest("tokenize"),
    ]
    assert [(one["name"], one["documents"], one["share"]) for one in sources(chain)] == [
        ("b", "6", "75.0%"),
        ("a", "2", "25.0%"),
    ]
    assert sources(chain[2:]) == []


def test_a_checkpoint_that_only_a_restart_tells_of_is_there_too() -> None:
    history = read_history(
        b'{"kind": "attempt", "step": 0, "time": 5.0, "seconds": {}}   \n'
        b'{"kind": "step", "step": 4, "time": 86400.0}\n{"kind": "validation", "step": 5, "loss": 3.25}\n'
        b'{"kind": "checkpoint", "step": 4, "seconds": 1.5, "bytes": 2000000}\n'
        b'{"kind": "attempt", "step": 8, "time": 9.0, "seconds": {}}\n'
    )
    newest, oldest = checkpoints(history, frozenset([8]))
    assert (newest["step"], newest["size"], newest["stored"]) == ("8", "not recorded", True)
    assert oldest == {
        "step": "4", "time": "1970-01-02 00:00:00", "size": "2 MB", "seconds": "1.50 s", "loss": "3.250", "at": "at step 5",
        "stored": False,
    }  # fmt: skip


def lanes(rows: str, inputs: dict[str, list[str]]) -> list[float]:
    """Where the lines run that do not go straight down to the next row, in the order of where they begin and end."""
    return [float(path.split("C")[1].split()[2]) for path in graph(list(rows), inputs).paths if "C" in path]


def test_lines_of_the_graph_do_not_run_through_each_other() -> None:
    inputs = {"b": ["a"], "c": ["a", "b"], "d": ["b", "c"], "e": ["a", "nowhere"]}
    drawn = graph(list("abcde"), inputs)
    assert (len(drawn.dots), len(drawn.paths)) == (5, 6), "an input that is no row has no line"
    from_a, also_from_a, from_b = lanes("abcde", inputs)
    assert from_a == also_from_a < from_b, "lines from one row share a lane, that from b beside them has its own"
    long, first, second = lanes("abcdef", {"d": ["b"], "f": ["a", "d"]})
    assert long < first == second, "where a line ends, its lane is free again"


def measured(loss: float, tokens: int = 1000, bits: float | None = 2.0) -> dict[str, Any]:
    """Figures as the stage evaluate writes them."""
    heads = {"tokens": {"loss": loss, "accuracy": 0.25, "targets": tokens}}
    return {
        "loss": loss,
        "perplexity": math.exp(loss),
        "bits_per_byte": bits,
        "tokens": tokens,
        "bytes": 4096,
        "heads": heads,
    }


def test_held_out_text_by_source() -> None:
    found = {**measured(2.0, 3000), "sources": {"news": measured(1.0), "all": measured(2.5, 2000)}, "before": None}
    table = by_source(found)
    assert table["head"] == ["source", "tokens", "loss", "perplexity", "bits per byte"]
    assert table["rows"] == [
        ["news", "1,000", "1.0000", "2.72", "2.0000"],
        ["all", "2,000", "2.5000", "12.18", "2.0000"],
        ["in all", "3,000", "2.0000", "7.39", "2.0000"],
    ]


def test_what_was_forgotten() -> None:
    before = {**measured(2.0), "sources": {"old": measured(1.0), "new": measured(3.0)}, "uri": "s3://models/old"}
    found = {**measured(1.75), "sources": {"old": measured(1.5), "new": measured(2.0)}, "before": before}
    table = by_source(found)
    assert table["before"] == "s3://models/old"
    assert table["head"] == ["source", "tokens", "loss before", "after", "change", "perplexity before", "after"]
    assert [row[:5] for row in table["rows"]] == [
        ["old", "1,000", "1.0000", "1.5000", "+0.5000"],
        ["new", "1,000", "3.0000", "2.0000", "-1.0000"],
        ["in all", "1,000", "2.0000", "1.7500", "-0.2500"],
    ]


def test_models_that_are_no_code_for_a_text_have_no_bits_per_byte() -> None:
    masked = {**measured(2.0, bits=None), "sources": {"news": measured(1.0, bits=None)}, "before": None}
    masked["heads"]["next_sentence"] = {"loss": 0.5, "accuracy": 0.75, "targets": 10}
    assert by_source(masked)["head"] == ["source", "tokens", "loss", "perplexity"]
    told = dict(evaluation({**masked, "checkpoint": "checkpoints/step-00000001"}))
    assert "bits per byte" not in told
    assert told["accuracy, next sentence"] == "75.00%"
    assert by_source(None)["rows"] == []
