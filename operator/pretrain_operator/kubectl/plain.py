"""Text that others wrote (a pod's log, a condition's message), made harmless for a terminal. Pure.

An escape sequence can rename the window, move the cursor over what was printed before, or answer in the user's name; a
character that turns the direction of writing makes a line read as something else.
"""

from __future__ import annotations

import re

# ECMA-48: a string command up to its end (ESC ] ... BEL or ESC \), a control sequence (ESC [ ... letter), or ESC and a letter;
# each also in its one-character form.
_SEQUENCE = re.compile(
    r"(?:\x1b[\]PX^_]|[\x90\x98\x9d\x9e\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)"
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|\x1b[ -/]*[0-~]"
)
_CONTROL = re.compile(
    r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


def plain_line(text: str) -> str:
    r"""One line without escape sequences; other control characters stand as \x1b or \u202e. Tabs and all letters stay.

    Of a line that was written over itself, as progress bars do, the last state is kept.
    """
    if "\r" in text:
        text = next((part for part in reversed(text.split("\r")) if part.strip()), "")
    return _CONTROL.sub(_escaped, _SEQUENCE.sub("", text))


def plain(text: str) -> str:
    """Text of one paragraph: line breaks become spaces, the rest as in `plain_line`."""
    return plain_line(" ".join(text.split()))


def escaped(text: str, keep: str = "") -> str:
    """Text whose every control character but those in `keep` is written out: nothing is lost, nothing acts."""
    return _CONTROL.sub(lambda found: found.group() if found.group() in keep else _escaped(found), text)


def _escaped(found: re.Match[str]) -> str:
    code = ord(found.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
