"""Text of others cannot act on a terminal."""

from __future__ import annotations

import pytest
from pretrain_operator.kubectl.plain import escaped, plain, plain_line

HARMFUL = [
    ("\x1b[31mred\x1b[0m", "red"),
    ("\x1b[2J\x1b[1;1Hcleared", "cleared"),
    ("\x1b]0;title\x07named", "named"),
    ("\x1b]8;;http://a\x1b\\link\x1b]8;;\x1b\\", "link"),
    ("\x1bP1$r0m\x1b\\answer", "answer"),
    ("\x9b31mone byte", "one byte"),
    ("\x9d0;title\x9cone byte", "one byte"),
    ("\x1bcreset", "reset"),
    ("\x1b(0other letters", "other letters"),
    ("cut \x1b", "cut \\x1b"),
    ("cut \x1b[31", "cut 31"),
    ("never ended \x1b]0;title", "never ended 0;title"),
    ("bell \x07 back\x08 null\x00 delete\x7f next\x85", "bell \\x07 back\\x08 null\\x00 delete\\x7f next\\x85"),
    ("user\u202etxt.exe", "user\\u202etxt.exe"),
    ("a\u2066b\u2069 \u200f", "a\\u2066b\\u2069 \\u200f"),
    ("one\u2028two", "one\\u2028two"),
    ("10 %\r20 %\r30 %", "30 %"),
    ("30 %\r", "30 %"),
]
HARMLESS = ["", "plain", "a\tb", "中文，标点。", "žluťoučký 😀 é ━━ ▁▂▃", "C:\\x1b is text"]


@pytest.mark.parametrize(("text", "shown"), HARMFUL)
def test_what_could_act_is_taken_away_or_written_out(text: str, shown: str) -> None:
    assert plain_line(text) == shown
    assert not set(plain_line(text)) & {chr(code) for code in (*range(9), *range(10, 32), *range(127, 160))}


@pytest.mark.parametrize("text", HARMLESS)
def test_what_cannot_act_stays(text: str) -> None:
    assert plain_line(text) == escaped(text, keep="\t") == text


def test_a_sequence_inside_a_sequence() -> None:
    """What is left when one is taken away must be no sequence again."""
    for text in ("\x1b\x1b[31m[31m", "\x1b[\x1b[0m31m", "\x9b\x1b[0m0;1m"):
        assert "\x1b" not in plain_line(text)
        assert "\x9b" not in plain_line(text)


def test_long_lines_take_no_time() -> None:
    assert len(plain_line("\x1b]" * 200_000)) < 1_000_000
    assert len(plain_line("\x1b[" + "0;" * 500_000)) < 2_000_000


def test_a_paragraph_is_one_line() -> None:
    assert plain("one\n  two\r\nthree\x1b[A") == "one two three"


def test_escaped_loses_nothing() -> None:
    assert escaped("\x1b[31m\ta", keep="\t") == "\\x1b[31m\ta"
