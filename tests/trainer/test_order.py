"""The data order: a permutation of each pass, the same for ever, and the same for any number of processes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pretrain_trainer.config.batch import Batch
from pretrain_trainer.order import chance_at, sample_order


@given(samples=st.integers(1, 3000), seed=st.integers(0, 2**31 - 1), epoch=st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_each_pass_is_a_permutation(samples: int, seed: int, epoch: int) -> None:
    order = sample_order(seed, samples, np.arange(epoch * samples, (epoch + 1) * samples))
    assert np.array_equal(np.sort(order), np.arange(samples))


@pytest.mark.parametrize("samples", [2**20, 2**20 + 1, 3 * 2**18 - 5])
def test_large_passes_are_permutations_too(samples: int) -> None:
    assert np.array_equal(np.sort(sample_order(7, samples, np.arange(samples))), np.arange(samples))


def test_passes_and_seeds_have_orders_of_their_own() -> None:
    first, second = (sample_order(1, 1000, np.arange(epoch * 1000, epoch * 1000 + 1000)) for epoch in (0, 1))
    other = sample_order(2, 1000, np.arange(1000))
    elsewhere = sample_order(1, 1000, np.arange(1000), "another text")
    # Two random orders agree in one place on average; ten would be no accident.
    assert np.count_nonzero(first == second) < 10
    assert np.count_nonzero(first == other) < 10
    assert np.count_nonzero(first == elsewhere) < 10


def test_an_index_means_the_same_alone_and_in_company() -> None:
    indices = np.arange(500, 2500)
    together = sample_order(3, 900, indices)
    assert [int(sample_order(3, 900, np.array([index]))[0]) for index in indices[::97]] == together[::97].tolist()


def test_the_order_never_changes() -> None:
    """Checkpoints that exist were trained in this order: a change would repeat and skip samples without a word."""
    assert sample_order(42, 1000, np.array([0, 1, 2, 999, 1000, 123_456_789])).tolist() == [149, 999, 899, 601, 669, 723]


def test_chance_never_changes() -> None:
    """As above; numpy may change what its generators make of the same bits, and a new version of it would be noticed here."""
    chance = chance_at("training samples", 42, 7)
    assert chance.random(3).tolist() == [0.4525536118045521, 0.672594459272877, 0.3748011411039459]
    assert chance.integers(0, 1000, 4).tolist() == [985, 357, 581, 216]
    assert chance.choice(50, 5, replace=False).tolist() == [22, 30, 4, 34, 27]


def test_uses_seeds_and_indices_have_chances_of_their_own() -> None:
    keys = [("samples", 1, 2), ("samples", 2, 1), ("samples", 1, 3), ("other", 1, 2), ("samples 1", 2, 2)]
    drawn = {chance_at(*key).random() for key in keys}
    assert len(drawn) == len(keys)
    assert chance_at(*keys[0]).random() in drawn


def test_neighbours_are_spread_over_the_text() -> None:
    """Over many seeds the first sample of a run is uniform: chi-square over 20 bins stays near its 19 degrees of freedom."""
    firsts = [int(sample_order(seed, 20_000, np.array([0]))[0]) for seed in range(2000)]
    found, _ = np.histogram(firsts, bins=20, range=(0, 20_000))
    assert float(((found - 100) ** 2 / 100).sum()) < 50
    jumps = np.abs(np.diff(sample_order(5, 20_000, np.arange(20_000))))
    assert 6000 < jumps.mean() < 7300  # a third of the range, as of two independent places


def test_ranks_share_out_a_step_whatever_their_number() -> None:
    def taken(world: int, micro: int) -> set[int]:
        batch = Batch(
            samples=24, micro=micro, accumulation=24 // world // micro, world_size=world, steps=9, sequence_length=8
        )
        firsts = [batch.first_sample(5, rank, a) for rank in range(world) for a in range(batch.accumulation)]
        return {first + offset for first in firsts for offset in range(micro)}

    assert taken(1, 24) == taken(1, 3) == taken(2, 4) == taken(3, 8) == taken(24, 1) == set(range(120, 144))
