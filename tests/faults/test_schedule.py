"""A schedule follows from its seed, and is what its name says."""

from __future__ import annotations

import pytest

from tests.faults.schedule import PHASES, Damage, Kill, damages, described, kills


def test_the_same_seed_gives_the_same_schedule() -> None:
    assert kills(7, 9, 200, 10) == kills(7, 9, 200, 10) != kills(8, 9, 200, 10)


@pytest.mark.parametrize("seed", range(20))
def test_kills_come_once_between_two_checkpoints_and_as_often_in_each_phase(seed: int) -> None:
    schedule = kills(seed, 9, 200, 10)
    assert all(isinstance(fault, Kill) for fault in schedule)
    assert sorted(fault.at.phase for fault in schedule) == sorted(3 * PHASES)
    assert [fault.at.step for fault in schedule] == sorted(fault.at.step for fault in schedule)
    assert len({fault.at.step // 10 for fault in schedule}) == 9, "one between two checkpoints"
    assert all(fault.at.step % 10 == 0 for fault in schedule if fault.at.phase != "step")
    assert all(10 <= fault.at.step < 200 for fault in schedule)


def test_more_kills_than_checkpoints_are_refused() -> None:
    with pytest.raises(ValueError, match="20 kills need as many checkpoints"):
        kills(0, 20, 200, 10)


@pytest.mark.parametrize("seed", range(20))
def test_each_way_of_damage_comes_once_and_late_enough_for_an_older_checkpoint(seed: int) -> None:
    schedule = damages(seed, 200, 10)
    assert sorted(fault.how for fault in schedule if isinstance(fault, Damage)) == ["flip", "remove", "swap", "truncate"]
    assert all(30 < fault.at.step < 200 for fault in schedule)


def test_a_fault_can_be_told_as_json() -> None:
    (fault,) = kills(3, 1, 20, 10)
    assert described(fault)["fault"] == "kill"
    assert described(fault)["at"]["phase"] in PHASES
