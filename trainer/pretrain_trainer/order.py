"""The order in which training sees its samples, and the chance in each: pure functions of (seed, sample index).

Each pass over the text is a permutation of its samples, another one each time. Nothing is stored and nothing is drawn
from a stream, so the position of a run is one integer, and any process can say which sample any index stands for. The
permutation is a Feistel network on the smallest even number of bits that holds the samples (Luby and Rackoff 1988), with
cycle walking back into range (Black and Rogaway 2002); its round function is the finalizer of SplitMix64.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

ROUNDS = 6


def sample_order(seed: int, samples: int, indices: NDArray[np.int64], text: str = "") -> NDArray[np.int64]:
    """The samples that stand at those indices.

    seed: of the run. samples: in one pass over the text, at least 1. indices: of samples of this text from 0, any shape.
    text: the name of the text, if there are several; each has an order of its own.
    Returns samples (0 <= sample < samples) in the shape of `indices`. Within a pass (indices k * samples up to
    (k + 1) * samples) each sample stands exactly once.
    """
    order = np.empty_like(indices)
    epochs, places = np.divmod(indices, samples)
    for epoch in np.unique(epochs):
        of_epoch = epochs == epoch
        order[of_epoch] = _permuted(places[of_epoch], samples, _round_keys(f"{seed} {epoch} {text}".rstrip()))
    return order


def chance_at(use: str, seed: int, index: int) -> np.random.Generator:
    """The random numbers of one sample: a generator of its own (Philox: Salmon et al. 2011), keyed by all three.

    use: what the numbers are for, so that two uses of one seed have nothing to do with each other.
    """
    digest = hashlib.blake2b(f"pretrain {use} {seed}".encode(), digest_size=8).digest()
    return np.random.Generator(np.random.Philox(key=[int.from_bytes(digest, "little"), index]))


def _permuted(places: NDArray[np.int64], samples: int, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Walks each place through the network until it lands below `samples`; fewer than four walks on average."""
    half_bits = max(1, -(-(samples - 1).bit_length() // 2))
    values = _network(places.astype(np.uint64), half_bits, keys)
    outside = values >= samples
    while outside.any():
        values[outside] = _network(values[outside], half_bits, keys)
        outside = values >= samples
    return values.astype(np.int64)


def _network(values: NDArray[np.uint64], half_bits: int, keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A bijection on numbers of 2 x half_bits bits."""
    bits = np.uint64(half_bits)
    mask = np.uint64((1 << half_bits) - 1)
    left, right = values >> bits, values & mask
    for key in keys:
        left, right = right, left ^ (_mixed(right ^ key) & mask)
    return (left << bits) | right


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finalizer (Steele, Lea and Flood 2014). Arithmetic wraps at 64 bits, as it is meant to."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _round_keys(which: str) -> NDArray[np.uint64]:
    digest = hashlib.blake2b(f"pretrain sample order {which}".encode(), digest_size=8 * ROUNDS).digest()
    return np.frombuffer(digest, dtype="<u8").astype(np.uint64)
