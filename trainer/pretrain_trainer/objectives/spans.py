"""span-corruption (Raffel et al. 2020, section 3.1.4): spans are taken out, and asked for.

The encoder reads the text with a sentinel in place of each span; the decoder is asked for the spans, each behind its sentinel.
Both end with the end-of-text token. A window begins with a span that is kept and ends with one that is taken. Lengths of spans
are drawn so that all ways to cut are equally likely. The decoder reads what it is asked for, one place later: it begins with
the pad token, as those of T5 and Marian do.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from pretrain_stage.spans import spans_in, spans_that_fill

from pretrain_trainer.config.sections import Training
from pretrain_trainer.config.window import window_of
from pretrain_trainer.objectives.objective import window_at
from pretrain_trainer.objectives.special import SpecialTokens
from pretrain_trainer.sample import DECODER_TOKENS, IGNORED, MASK, TOKENS, Row, Sample, padded, present
from pretrain_trainer.text import Text


class SpanCorruption:
    """Windows of the text, one behind the other, each so long that the encoder is filled."""

    documents = marks = False

    def __init__(self, training: Training, special: SpecialTokens) -> None:
        self.window, self.masking, self.length = window_of(training), training.masking, training.sequence_length
        self.spans = spans_that_fill(self.length, self.masking.fraction, self.masking.mean_span)
        self.sentinels = special.sentinels(self.spans.count)
        self.pad, self.end = special.pad, special.end_of_text
        self.targets = {TOKENS: self.spans.decoder}

    def fault(self, text: Text) -> str | None:
        return None

    def sample(self, text: Text, place: int, chance: Generator) -> Sample:
        (part,) = self.parts(text, place, chance)
        tokens = text.tokens.read(part.start, part.stop)
        spans = spans_in(len(tokens), self.masking.fraction, self.masking.mean_span)
        pieces = cut(tokens, spans.taken, spans.count, chance)
        read = self._joined(pieces[0::2], behind=True)
        asked = self._joined(pieces[1::2], behind=False)
        decoder = np.concatenate([[self.pad], asked[:-1]])
        return Sample(
            {
                TOKENS: padded(read, self.length, self.pad),
                MASK: present(len(read), self.length),
                DECODER_TOKENS: padded(decoder, self.spans.decoder, self.pad),
            },
            {TOKENS: padded(asked, self.spans.decoder, IGNORED)},
        )

    def parts(self, text: Text, place: int, chance: Generator) -> tuple[range, ...]:
        return (window_at(self.window, text, place),)

    def _joined(self, pieces: list[Row], behind: bool) -> Row:
        """The pieces with a sentinel before or behind each, and the end-of-text token."""
        rows = []
        for piece, sentinel in zip(pieces, self.sentinels, strict=False):
            rows += [piece, [sentinel]] if behind else [[sentinel], piece]
        return np.concatenate([*rows, [self.end]])


def cut(tokens: Row, taken: int, count: int, chance: Generator) -> list[Row]:
    """The tokens as kept and taken spans in turns, `count` of each; `taken` tokens are taken."""
    lengths = np.empty(2 * count, np.int64)
    lengths[0::2] = composition(len(tokens) - taken, count, chance)
    lengths[1::2] = composition(taken, count, chance)
    return np.split(tokens, np.cumsum(lengths)[:-1])


def composition(total: int, parts: int, chance: Generator) -> NDArray[np.int64]:
    """Lengths of at least 1 that add up to `total`; all ways are equally likely."""
    borders = np.sort(chance.choice(total - 1, parts - 1, replace=False)) + 1 if parts > 1 else np.empty(0, np.int64)
    return np.diff(np.concatenate([[0], borders, [total]]))
