"""masked-lm+next-sentence (Devlin et al. 2019, section 3.1): masked tokens of two texts, and whether the second follows the first.

Both begin where a sentence does and lie in one document each. Half of the time the second is what really follows; half of
the time it begins at a random sentence of another document of the source. Either is as long as there is room, so the second
may end within a sentence, and the first, where one sentence is too long for it, begin within one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from pretrain_trainer.config.sections import Training
from pretrain_trainer.config.window import window_of
from pretrain_trainer.objectives.masked import Masker, framed
from pretrain_trainer.objectives.objective import window_at
from pretrain_trainer.objectives.special import SpecialTokens
from pretrain_trainer.sample import IGNORED, MASK, NEXT_SENTENCE, SEGMENTS, TOKENS, Sample, padded, present
from pretrain_trainer.text import Text

FOLLOWS, RANDOM = 0, 1
"""Targets of the head; transformers' BertForPreTraining has the same."""


@dataclass(frozen=True)
class Pair:
    """Two texts, and whether the second follows the first."""

    first: range
    second: range
    follows: bool


class MaskedPairs:
    """A pair for each window of the text: its border is a sentence that begins in the window."""

    documents = marks = True
    targets = None

    def __init__(self, training: Training, special: SpecialTokens) -> None:
        self.window, self.length = window_of(training), training.sequence_length
        self.whole_words = training.masking.whole_words
        self.masker, self.special = Masker(training, special), special

    def fault(self, text: Text) -> str | None:
        if len(text.document_at(0)) == len(text):
            return "has only one document, and half of the pairs are of two; add documents, or use masked-lm"
        if _inner_sentence(text, range(len(text))) is None:
            return "has no document with two sentences, which are what a pair is made of; add longer ones, or use masked-lm"
        return None

    def sample(self, text: Text, place: int, chance: Generator) -> Sample:
        pair = self.pair(text, place, chance)
        parts = []
        for part in (pair.first, pair.second):
            starts = text.words(part) if self.whole_words else np.ones(len(part), bool)
            parts.append(self.masker.hidden(text.tokens.read(part.start, part.stop), starts, chance))
        (first, asked_first), (second, asked_second) = parts
        sep = self.special.sep
        read = np.concatenate([framed(first, self.special.cls, sep), second, [sep]])
        asked = np.concatenate([framed(asked_first, IGNORED, IGNORED), asked_second, [IGNORED]])
        segments = np.repeat(np.array([0, 1], np.int64), [len(first) + 2, len(second) + 1])
        return Sample(
            {
                TOKENS: padded(read, self.length, self.special.pad),
                SEGMENTS: padded(segments, self.length, 0),
                MASK: present(len(read), self.length),
            },
            {
                TOKENS: padded(asked, self.length, IGNORED),
                NEXT_SENTENCE: np.array(FOLLOWS if pair.follows else RANDOM, np.int64),
            },
        )

    def parts(self, text: Text, place: int, chance: Generator) -> tuple[range, ...]:
        pair = self.pair(text, place, chance)
        return pair.first, pair.second

    def pair(self, text: Text, place: int, chance: Generator) -> Pair:
        """The pair of a place."""
        room = self.window.read
        border = self._border(text, window_at(self.window, text, place), chance)
        document = text.document_at(border)
        back = range(max(document.start, border - room // 2), border)
        starts = text.sentences(back)
        first = range(int(starts[0]) if len(starts) else back.start, border)
        follows = bool(chance.random() < 0.5)
        begin = border if follows else self._elsewhere(text, document, chance)
        end = text.document_at(begin).stop - 1  # without the end-of-text token
        return Pair(first, range(begin, min(begin + room - len(first), end)), follows)

    def _border(self, text: Text, window: range, chance: Generator) -> int:
        """A sentence of the window that is not its document's first, at random; if there is none, the next one of the text."""
        starts = [start for start in text.sentences(window).tolist() if not _opens(text, start)]
        if starts:
            return int(starts[chance.integers(len(starts))])
        behind = _inner_sentence(text, range(window.stop, len(text)))
        border = _inner_sentence(text, range(window.stop)) if behind is None else behind
        assert border is not None, "a text without a fault has one"
        return border

    def _elsewhere(self, text: Text, document: range, chance: Generator) -> int:
        """Where a sentence begins outside of the document: the one of a token that is chosen at random."""
        token = int(chance.integers(len(text) - len(document)))
        token += len(document) if token >= document.start else 0
        start = text.document_at(token).start
        found = text.last_sentence(range(start, token + 1))
        return start if found is None else found


def _inner_sentence(text: Text, part: range) -> int | None:
    """The first sentence in a part of the text that is not its document's first."""
    start = text.next_sentence(part)
    while start is not None and _opens(text, start):
        start = text.next_sentence(range(start + 1, part.stop))
    return start


def _opens(text: Text, sentence: int) -> bool:
    return text.document_at(sentence).start == sentence
