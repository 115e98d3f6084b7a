"""The table of jobs."""

from __future__ import annotations

from datetime import timedelta

import pytest
from pretrain_operator.kubectl.columns import Table, age, header, row, sorted_jobs

from tests.kubectl.resources import NOW, TRAINING, resource

LONG = TRAINING | {"phase": "Preprocessing", "stage": "minhash-signatures", "progress": "1999/2000"}
ALL = ["NAME", "PHASE", "STAGE", "PROGRESS", "LOSS", "TOKENS/S", "ETA", "AGE"]
WIDTHS = [
    (None, ALL),
    (96, ALL),
    (95, [name for name in ALL if name != "PHASE"]),
    (81, [name for name in ALL if name != "PHASE"]),
    (80, ["NAME", "STAGE", "PROGRESS", "LOSS", "ETA", "AGE"]),
    (70, ["NAME", "STAGE", "PROGRESS", "ETA", "AGE"]),
    (20, ["NAME", "STAGE", "PROGRESS", "ETA", "AGE"]),
]


def test_the_table() -> None:
    table = Table(header(namespaces=True, wide=False))
    jobs = sorted_jobs([resource("young", namespace="team"), resource("llama2-7b", TRAINING), resource("z", namespace="a")])
    assert table.lines([row(body, NOW, namespaces=True, wide=False) for body in jobs], header=True) == [
        "NAMESPACE   NAME        PHASE      STAGE   PROGRESS   LOSS     TOKENS/S   ETA     AGE",
        "a           z                                                                     10m",
        "team        llama2-7b   Training   train   30%        3.2141   12346      4m10s   10m",
        "team        young                                                                 10m",
    ]


def test_wide() -> None:
    table = Table(header(namespaces=False, wide=True))
    _, line = table.lines([row(resource("demo", TRAINING), NOW, namespaces=False, wide=True)], header=True)
    assert line.split()[-5:] == ["120", "400", "100", "1", "s3://models/right"]


@pytest.mark.parametrize(("width", "columns"), WIDTHS)
def test_a_narrow_terminal_goes_without_some(width: int | None, columns: list[str]) -> None:
    table = Table(header(namespaces=False, wide=False), width)
    lines = table.lines([row(resource("a-name-of-twenty-fou", LONG), NOW, namespaces=False, wide=False)], header=True)
    assert lines[0].split() == columns
    if width is not None and width > 20:
        assert max(map(len, lines)) <= width


def test_rows_that_come_later_stand_below_the_first() -> None:
    table = Table(header(namespaces=False, wide=False))
    first, _ = table.lines([row(resource("a-name-of-twenty-fou", LONG), NOW, namespaces=False, wide=False)], header=True)
    (later,) = table.lines([row(resource("b", TRAINING), NOW, namespaces=False, wide=False)], header=False)
    assert later.index("Training") == first.index("PHASE")


def test_a_status_that_is_not_what_it_should_be() -> None:
    status = {"phase": 3, "stage": {"a": 1}, "training": "x", "progress": "\x1b[2J50%"}
    cells = row(resource(status=status, creationTimestamp="soon"), NOW, namespaces=False, wide=False).cells
    assert cells == ("demo", "3", "{'a': 1}", "50%", "", "", "", "soon")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-5, "0s"), (0, "0s"), (119, "119s"), (120, "2m"), (200, "3m20s"), (599, "9m59s"), (600, "10m"), (3 * 3600 - 1, "179m"),
        (3 * 3600, "3h"), (3 * 3600 + 600, "3h10m"), (8 * 3600, "8h"), (47 * 3600, "47h"), (48 * 3600, "2d"), (53 * 3600, "2d5h"),
        (8 * 86_400, "8d"), (729 * 86_400, "729d"), (740 * 86_400, "2y10d"), (3000 * 86_400, "8y"),
    ],
)  # fmt: skip
def test_ages_are_those_of_kubectl(seconds: int, said: str) -> None:
    assert age(NOW - timedelta(seconds=seconds), NOW) == said
