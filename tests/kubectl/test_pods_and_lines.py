"""Which pods are read, and what becomes of their lines."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pretrain_operator.indexed_job import CONTAINER
from pretrain_operator.kubectl.lines import LONGEST_LINE, Style, split, written
from pretrain_operator.kubectl.pods import Choice, SeenPod, chosen, seen_pod

from tests.kubectl.resources import pod

RUNNING: dict[str, Any] = {"running": {}}
ENDED: dict[str, Any] = {"terminated": {"exitCode": 0}}
STAMP = "2026-03-01T12:00:00.123456789Z"


def known(body: dict[str, Any]) -> SeenPod:
    found = seen_pod(body)
    assert found is not None
    return found


def labels(pods: list[SeenPod]) -> list[str]:
    return [f"{one.label}#{one.attempt}" for one in pods]


def test_a_pod() -> None:
    found = known(pod("train", 3, attempt=2, state=RUNNING, containers=("istio-proxy", "pytorch")))
    assert (found.label, found.attempt, found.container, found.begun, found.ended) == ("train/3", 2, "pytorch", True, False)
    found = known(pod("clean", 7, state=ENDED))
    assert (found.label, found.attempt, found.container, found.begun, found.ended) == ("clean/7", 1, CONTAINER, True, True)
    assert known(pod(phase="Failed")).ended, "evicted before it started"
    assert seen_pod({"metadata": {"name": "x"}, "spec": {"containers": []}}) is None


@pytest.mark.parametrize(
    ("status", "trouble"),
    [
        ({"state": {"waiting": {"reason": "ImagePullBackOff", "message": 'Back-off pulling "x"'}}},
         'ImagePullBackOff: Back-off pulling "x"'),
        ({"state": {"waiting": {"reason": "ContainerCreating"}}}, ""),
        ({"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/9 nodes\x1b[2J"}]},
         "Unschedulable: 0/9 nodes"),
        ({}, ""),
    ],
)  # fmt: skip
def test_why_a_pod_does_not_start(status: dict[str, Any], trouble: str) -> None:
    found = known(pod(**status))
    assert (found.trouble, found.begun) == (trouble, False)


def test_the_latest_of_each_is_chosen_or_all_before() -> None:
    pods = [
        known(pod("train", 1, attempt=2, created=10)), known(pod("train", 0, attempt=2, created=10)),
        known(pod("train", 0, attempt=1, created=50)), known(pod("train", 2, attempt=1, created=50)),
        known(pod("clean", 1, created=90)), known(pod("clean", 0, created=80)), known(pod("clean", 0, created=90)),
        known(pod("preflight", 0, created=99)),
    ]  # fmt: skip
    assert labels(chosen(pods, Choice())) == ["preflight/0#1", "clean/0#1", "clean/1#1", "train/0#2", "train/1#2"]
    assert [one.created for one in chosen(pods, Choice("clean", (0,)))] == [pods[5].created], "the one that was made last"
    assert labels(chosen(pods, Choice(previous=True))) == ["clean/0#1", "train/0#1", "train/2#1"]
    assert labels(chosen(pods, Choice("train", (1, 7)))) == ["train/1#2"]


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ('{"event": "step", "message": "step 1 of 4, loss 9.1", "loss": 9.1}', "[train/0] step 1 of 4, loss 9.1"),
        ('{"event": "warning", "message": "slow"}', "[train/0] warning: slow"),
        ('{"event": "error", "message": "spec.a:\\n  wrong\\u001b[2J"}', "[train/0] error: spec.a: wrong"),
        ('{"event": "info"}', '[train/0] {"event": "info"}'),
        ('{"level": "info"}', '[train/0] {"level": "info"}'),
        ('{"event": "log", "level": "info", "logger": "a.b", "message": "x"}', "[train/0] a.b: x"),
        ('{"event": "log", "level": "critical", "logger": "a.b", "message": "x\\ny"}', "[train/0] error: a.b: x y"),
        ('{"event": "log", "level": "warning", "logger": "stderr", "message": "x"}', "[train/0] warning: x"),
        (
            '{"event": "error", "message": "KeyError", "traceback": "Traceback:\\n  File\\u001b[2J\\n"}',
            "[train/0] error: KeyError\n[train/0] Traceback:\n[train/0]   File",
        ),
        ("  library  says\tso", "[train/0]   library  says\tso"),
        ("\x1b]0;owned\x07中文 \x1b[31mred", "[train/0] 中文 red"),
        ("", "[train/0] "),
    ],
)
def test_a_line_for_people(line: str, shown: str) -> None:
    assert written(known(pod()), STAMP, line, Style()) == shown


def test_colour_and_time() -> None:
    style = Style(colour=True, timestamps=True)
    shown = written(known(pod("clean", 1)), STAMP, json.dumps({"event": "error", "message": "no"}), style)
    assert shown == f"\x1b[32m[clean/1]\x1b[0m {STAMP} \x1b[1;31merror: no\x1b[0m"


def test_raw_lines_are_what_was_printed() -> None:
    line = '{"event": "step", "message": "\x1b[31m\ta"}'
    assert written(known(pod()), STAMP, line, Style(raw=True)) == line
    assert written(known(pod()), STAMP, line, Style(raw=True, terminal=True)) == line.replace("\x1b", "\\x1b")


def test_lines_from_pieces() -> None:
    data = f"{STAMP} one\n{STAMP} {'中' * 10}\n{STAMP} \nunable to read the log\n{STAMP} last".encode()
    expected = [(STAMP, "one"), (STAMP, "中" * 10), (STAMP, ""), ("", "unable to read the log"), (STAMP, "last")]
    for size in (1, 7, 10_000):
        assert list(split(data[i : i + size] for i in range(0, len(data), size))) == expected


def test_a_line_without_end_is_cut() -> None:
    pieces = (b"x" * 65_536 for _ in range(64))
    lines = list(split(pieces))
    assert sum(len(text) for _, text in lines) == 64 * 65_536
    assert max(len(text) for _, text in lines) <= LONGEST_LINE + 65_536


def test_bytes_that_are_no_text() -> None:
    assert list(split([STAMP.encode() + b" \xff\xfe\n"])) == [(STAMP, "\ufffd\ufffd")]
