"""masked-lm (Devlin et al. 2019, section 3.1): some tokens are hidden, and asked for.

Each word is chosen with the probability `masking.fraction`, independently of the others, so each token is, whatever the words'
lengths. Of the tokens chosen 80 % are replaced by the mask token, 10 % by a random one, and 10 % stay, each on its own. Special
tokens are neither chosen nor put in place of others.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from pretrain_trainer.config.sections import Training
from pretrain_trainer.config.window import window_of
from pretrain_trainer.objectives.objective import window_at
from pretrain_trainer.objectives.special import SpecialTokens
from pretrain_trainer.sample import IGNORED, MASK, TOKENS, Row, Sample, padded, present
from pretrain_trainer.text import Text

MASKED, REPLACED = 0.8, 0.1
"""Shares of the tokens asked for that are masked, and that are replaced by a random token."""


class Masker:
    """Hides tokens."""

    def __init__(self, training: Training, special: SpecialTokens) -> None:
        self.fraction, self.mask = training.masking.fraction, special.mask
        self.ordinary = special.ordinary
        self.others = np.flatnonzero(special.ordinary)

    def hidden(self, tokens: Row, word_starts: NDArray[np.bool_], chance: Generator) -> tuple[Row, Row]:
        """Tokens of a text as the model reads them, and the targets. word_starts: which of them begin a word."""
        word = np.cumsum(word_starts)  # what comes before the first beginning is word 0
        chosen = (chance.random(len(tokens) + 1)[word] < self.fraction) & self.ordinary[tokens]
        fate = chance.random(len(tokens))
        others = self.others[chance.integers(0, len(self.others), len(tokens))]
        read = np.where(chosen & (fate < MASKED), self.mask, tokens)
        read = np.where(chosen & (fate >= 1 - REPLACED), others, read)
        return read, np.where(chosen, tokens, IGNORED)


class MaskedLM:
    """Windows of the text, one behind the other, between cls and sep."""

    documents = False

    def __init__(self, training: Training, special: SpecialTokens) -> None:
        self.window, self.length = window_of(training), training.sequence_length
        self.marks = training.masking.whole_words
        self.masker, self.special = Masker(training, special), special
        self.targets = None

    def fault(self, text: Text) -> str | None:
        return None

    def sample(self, text: Text, place: int, chance: Generator) -> Sample:
        (part,) = self.parts(text, place, chance)
        tokens = text.tokens.read(part.start, part.stop)
        starts = text.words(part) if self.marks else np.ones(len(part), bool)
        read, asked = self.masker.hidden(tokens, starts, chance)
        read, asked = framed(read, self.special.cls, self.special.sep), framed(asked, IGNORED, IGNORED)
        if len(read) == self.length:
            return Sample({TOKENS: read}, {TOKENS: asked})
        inputs = {TOKENS: padded(read, self.length, self.special.pad), MASK: present(len(read), self.length)}
        return Sample(inputs, {TOKENS: padded(asked, self.length, IGNORED)})

    def parts(self, text: Text, place: int, chance: Generator) -> tuple[range, ...]:
        return (window_at(self.window, text, place),)


def framed(row: Row, before: int, behind: int) -> Row:
    """The row with a number before it and one behind it."""
    return np.concatenate([[before], row, [behind]])
