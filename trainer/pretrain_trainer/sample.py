"""A sample: what the model is asked, in numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IGNORED = -100
"""A target that does not count (the default of torch's cross entropy)."""

TOKENS, NEXT_SENTENCE = "tokens", "next_sentence"
"""Heads: one answers with tokens, one whether the second text follows the first (0) or not (1)."""

MASK, SEGMENTS, DECODER_TOKENS = "mask", "segments", "decoder_tokens"
"""Inputs besides TOKENS: 1 where there is a token and 0 where it is padding, number of the text, what the decoder reads."""

SAMPLE = "sample"
"""The input with the global sample index, of models with dropout: it is drawn by that."""

Row = NDArray[np.int64]


@dataclass(frozen=True)
class Sample:
    """One sample: arguments of the model by name, and targets by head; both without the dimension of the batch."""

    inputs: Mapping[str, Row]
    targets: Mapping[str, Row]


def padded(row: Row, length: int, with_what: int) -> Row:
    """The row, filled up to a length."""
    return np.concatenate([row, np.full(length - len(row), with_what, np.int64)])


def present(tokens: int, length: int) -> Row:
    """The mask of so many tokens, filled up to a length."""
    return (np.arange(length) < tokens).astype(np.int64)
