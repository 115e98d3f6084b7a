"""Which documents are kept from training, and which a tokenizer is trained on. Pure functions of the text.

The text decides, not the document's id: two copies of a text fall on the same side, so none leaks from training into
validation, whether duplicates were dropped or not.
"""

from __future__ import annotations

import xxhash

HELD_OUT, SAMPLE, EXAMPLE = 0, 1, 2
"""Seeds of the hash: the choices are independent of each other."""


def is_held_out(text: str, fraction: float) -> bool:
    """Whether the text belongs to the held-out fraction of all texts."""
    return chance(text, HELD_OUT) < fraction


def is_sampled(text: str, fraction: float) -> bool:
    """Whether the text belongs to the sample that a tokenizer is trained on."""
    return chance(text, SAMPLE) < fraction


def chance(text: str, seed: int) -> float:
    """A number in [0, 1) that is the same for the same text, and evenly spread over different ones."""
    return float(xxhash.xxh3_64_intdigest(text, seed) >> 11) / 2**53
