"""What every objective offers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from numpy.random import Generator

from pretrain_trainer.config.window import Window
from pretrain_trainer.sample import Sample
from pretrain_trainer.text import Text


class Objective(Protocol):
    """Samples of a text, by place: its windows are numbered from 0."""

    @property
    def window(self) -> Window: ...

    @property
    def targets(self) -> Mapping[str, int] | None:
        """How many targets of a sample count, by head; None if that differs from sample to sample."""
        ...

    @property
    def documents(self) -> bool:
        """Whether it asks where documents end."""
        ...

    @property
    def marks(self) -> bool:
        """Whether it asks where words and sentences begin."""
        ...

    def fault(self, text: Text) -> str | None:
        """Why no samples can be made of the text, as the end of a sentence; None if they can."""
        ...

    def sample(self, text: Text, place: int, chance: Generator) -> Sample:
        """The sample at a place of the text; the last one of a text may be shorter than the others."""
        ...

    def parts(self, text: Text, place: int, chance: Generator) -> tuple[range, ...]:
        """Which tokens of the text `sample` reads, with the same generator in the same state."""
        ...


def window_at(window: Window, text: Text, place: int) -> range:
    """The tokens of the window at a place, fewer at the end of the text."""
    start = place * window.own
    return range(start, min(start + window.read, len(text)))
