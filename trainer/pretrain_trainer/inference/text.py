"""Tokens to text as they come: nothing is told that a later token could still change."""

from __future__ import annotations

from collections.abc import Callable, Sequence

INCOMPLETE = "\ufffd"
"""What a decoder writes for bytes that are no whole character, yet."""
CONTEXT = 8
"""Tokens of the prompt that are decoded with the first new one: some decoders take the space from a text's first word."""


class TextStream:
    """One text. `text` is what has been told of it; at the end, all."""

    def __init__(self, decode: Callable[[list[int]], str], prompt: Sequence[int] = (), stop: Sequence[str] = ()) -> None:
        """decode: tokens to text. stop: texts at which it ends; they are no part of it."""
        self._decode, self._stop = decode, stop
        self._tokens = list(prompt[-CONTEXT:])
        self._before = decode(self._tokens) if self._tokens else ""
        self._certain = len(self._tokens)
        self._held = ""
        self.text = ""
        self.stopped = False

    def feed(self, token: int) -> str:
        """Adds a token; returns the text that is certain with it and was not before."""
        assert not self.stopped, "nothing follows a stop"
        self._tokens.append(token)
        whole = self._decode(self._tokens)
        new = whole[len(self._before) :]
        if not new or whole.endswith(INCOMPLETE):
            return ""
        # The tokens before the last certain ones have done their part.
        self._tokens = self._tokens[self._certain :]
        self._before, self._certain = self._decode(self._tokens), len(self._tokens)
        return self._tell(new)

    def end(self) -> str:
        """No token follows: returns what was held back."""
        if self.stopped:
            return ""
        rest = self._held + self._decode(self._tokens)[len(self._before) :]
        self._held = ""
        self.text += rest
        return rest

    def _tell(self, new: str) -> str:
        """Holds back what may be the beginning of a stop; ends the text at one."""
        held = self._held + new
        places = [place for place in (held.find(stop) for stop in self._stop) if place >= 0]
        if places:
            self.stopped, told = True, held[: min(places)]
        else:
            told = held[: len(held) - _beginning(held, self._stop)]
        self._held = held[len(told) :]
        self.text += told
        return told


def _beginning(text: str, stops: Sequence[str]) -> int:
    """How many characters at the end of the text are the beginning of a stop."""
    return max(
        (size for stop in stops for size in range(1, min(len(stop), len(text) + 1)) if text.endswith(stop[:size])), default=0
    )
