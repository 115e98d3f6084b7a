"""Where words and sentences begin among the tokens: what whole-word masking and pairs of sentences need.

    tokens/train/<source>/<index>.ds.marks    uint8, one a token
        bit 0 (1)    the first token of a word
        bit 1 (2)    the first token of a sentence, which is the first token of a word too

Words are found by segmentation (blocks/words.py: jieba for Chinese, spaCy's rules else), sentences by a rule below. White
space belongs to the word after it and to the sentence before it. A token that holds the beginnings of several words is the
first of one. The end-of-text token is a word of its own and begins no sentence.

Segmentation is slow beside a training step, so it is done once, here, and not when samples are drawn. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from pretrain_preprocess.blocks.words import word_spans

WORD, SENTENCE = 1, 2

SENTENCE_END = re.compile(
    r"""
      [。！？]+ [”’」』）】》"')\]]* \s*                       # a Chinese stop, the quotes and brackets that it closes, white space
    | [.!?…]+ ["'”’)\]」』）】》]* \s+ (?![a-z\s])              # a stop, the same, white space; not before a small letter: "e.g. this"
    | [^\S\n]* \n \s*                                        # the end of a line
    """,
    re.VERBOSE,
)
"""What stands between two sentences. It knows no abbreviations: "Mr. Smith" counts as two."""


def mark(text: str, ends: Sequence[int], language: str | None = None) -> NDArray[np.uint8]:
    """The marks of a text's tokens, and of the end-of-text token behind them. ends: where in the text each token ends, in characters, as the tokenizer tells.

    The first token that goes beyond a place is the one that holds the character there, or the first bytes of it.
    `language` is what the block language found, if it has seen the text.
    """
    marks = np.zeros(len(ends) + 1, np.uint8)
    token_ends = np.asarray(ends, np.int64)
    sentences = sentence_starts(text)
    for starts, bit in ((word_starts(text, language) + sentences, WORD), (sentences, SENTENCE)):
        first = np.searchsorted(token_ends, np.array(starts, np.int64), side="right")
        marks[first[first < len(ends)]] |= bit
    marks[-1] = WORD
    return marks


def word_starts(text: str, language: str | None = None) -> list[int]:
    """Where each word begins, in characters: where the one before ends."""
    ends = [end for _, end in word_spans(text, language)]
    return [0, *ends[:-1]]


def sentence_starts(text: str) -> list[int]:
    """Where each sentence begins, in characters: at the beginning of the text, and behind each end of a sentence but the last."""
    return [0, *(end for end in _sentence_ends(text) if end < len(text))]


def _sentence_ends(text: str) -> Iterator[int]:
    for match in SENTENCE_END.finditer(text):
        yield match.end()
