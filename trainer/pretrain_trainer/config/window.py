"""How much of the text a sample takes."""

from __future__ import annotations

from dataclasses import dataclass

from pretrain_stage.spans import spans_that_fill

from pretrain_trainer.config.sections import Training

FRAMED, FRAMED_PAIR = 2, 3
"""Special tokens around a text (cls, sep), and around two (cls, sep, sep)."""


@dataclass(frozen=True)
class Window:
    """The tokens of a sample: `own` from its beginning to that of the next one, and it reads `read` of them or more."""

    own: int
    read: int

    def samples(self, tokens: int) -> int:
        """Samples in one pass over a text. What is left at its end, less than a sample takes, is read by none."""
        return max(0, tokens - (self.read - self.own)) // self.own


def window_of(training: Training) -> Window:
    """The window of the job's objective. A sample has sequenceLength inputs, whatever the objective."""
    length, masking = training.sequence_length, training.masking
    match training.objective:
        case "causal-lm":
            return Window(length, length + 1)  # the last token is only predicted
        case "masked-lm":
            return Window(length - FRAMED, length - FRAMED)
        case "masked-lm+next-sentence":
            return Window(length - FRAMED_PAIR, length - FRAMED_PAIR)
        case "span-corruption":
            window = spans_that_fill(length, masking.fraction, masking.mean_span).window
            return Window(window, window)
