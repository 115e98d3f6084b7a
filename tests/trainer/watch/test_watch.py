"""The watch of a rank and its launcher's: who hangs, who is waited for, and what is said of it."""

from __future__ import annotations

import math
import os
from typing import Any

import pytest
from pretrain_trainer.account import Account
from pretrain_trainer.watch.board import Beat, Board
from pretrain_trainer.watch.limits import FIRST_STEP_ENDED_SECONDS
from pretrain_trainer.watch.verdict import ranks, sentence
from pretrain_trainer.watch.warden import FROZEN_SECONDS, Warden
from pretrain_trainer.watch.watch import Watch


class Store:
    """torch's store, in this process."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.gone = False

    def set(self, key: str, value: str, /) -> None:
        self._asked()
        self.values[key] = value.encode()

    def get(self, key: str, /) -> bytes:
        self._asked()
        return self.values[key]

    def check(self, keys: list[str], /) -> bool:
        self._asked()
        return all(key in self.values for key in keys)

    def compare_set(self, key: str, expected: str, desired: str, /) -> bytes:
        self._asked()
        assert expected == ""
        return self.values.setdefault(key, desired.encode())

    def _asked(self) -> None:
        if self.gone:
            raise RuntimeError("Broken pipe")


class Ranks:
    """Ranks with watches, whose clock goes when it is told to. Those of `stopped` do nothing."""

    def __init__(self, count: int, step_limit: float | None = None) -> None:
        self.now, self.store = 1000.0, Store()
        self.accounts = [Account(0.0, lambda: self.now, step_limit) for _ in range(count)]
        self.watches = [Watch(account, rank, count, Board(self.store)) for rank, account in enumerate(self.accounts)]
        self.stopped: set[int] = set()
        for account in self.accounts:
            account.waits(1)
            account.computes(1)
            account.took(100)
            account.took(1)  # the second step, by which the third is judged: 3 x 1 s and 20 s

    def step(self, number: int, *, but: tuple[int, ...] = ()) -> None:
        for rank, account in enumerate(self.accounts):
            if rank not in but:
                account.waits(number)
                account.computes(number)

    def after(self, seconds: float) -> dict[int, str]:
        """Lets so much time go by; what the watches end their ranks with, by rank. Nothing is said twice."""
        said: dict[int, str] = {}
        for _ in range(round(seconds)):
            self.now += 1
            for rank, watch in enumerate(self.watches):
                if rank not in self.stopped and rank not in said and (why := watch.look(self.now)):
                    said[rank] = why
        return said


def test_while_steps_end_in_time_nobody_ends() -> None:
    group = Ranks(3)
    for number in range(2, 12):
        group.step(number)
        assert group.after(20) == {}


def test_a_rank_that_was_stopped_is_named_by_all_others_within_the_limit() -> None:
    group = Ranks(3)
    group.step(17)
    assert group.after(3) == {}
    group.stopped = {1}
    assert group.after(20) == {}
    said = group.after(2)
    assert set(said) == {0, 2}
    assert len(set(said.values())) == 1, "one sentence for all"
    assert said[0] == (
        "rank 1 did not answer for 24 s at step 17: its process was stopped, hang outside of Python, or the machine is gone; the group "
        "ends, to go on from its newest checkpoint"
    )


def test_a_rank_that_waits_for_its_samples_is_waited_for() -> None:
    group = Ranks(2)
    group.step(5, but=(1,))
    group.accounts[1].waits(5)
    assert group.after(500) == {}
    said = group.after(110)
    assert set(said) == {0, 1}
    assert said[0].startswith("no rank got on for 601 s at step 5, computing, though all answer"), said
    assert "rank 1 is at step 5, samples" in said[0]


def test_where_the_others_are_is_said() -> None:
    group = Ranks(2)
    group.step(4)
    assert group.after(10) == {}
    group.step(5, but=(1,))
    said = group.after(15)
    assert set(said) == {0, 1}
    assert said[0].startswith("no rank got on for 24 s at step 4, computing, though all answer"), (
        "who is behind waits for nobody"
    )
    assert "rank 0 is at step 5, computing" in said[0]


def test_the_jobs_own_limit_counts_but_for_the_first_step() -> None:
    group = Ranks(1, step_limit=5)
    group.step(3)
    assert set(group.after(6)) == {0}
    first = Account(0.0, lambda: group.now, 5)
    first.computes(1)
    assert first.phase.limit == FIRST_STEP_ENDED_SECONDS


@pytest.mark.parametrize(("phase", "seconds"), [("validates", 3600), ("saves", 7200)])
def test_validation_and_checkpoint_have_limits_of_their_own(phase: str, seconds: int) -> None:
    group = Ranks(1)
    getattr(group.accounts[0], phase)(*([8] if phase == "validates" else []))
    assert group.after(seconds) == {}
    assert set(group.after(2)) == {0}


def test_finishing_has_none() -> None:
    group = Ranks(1)
    group.accounts[0].finishes()
    assert group.after(50_000) == {}


def test_without_the_store_a_rank_knows_enough() -> None:
    group = Ranks(2)
    group.step(9)
    group.store.gone = True
    assert group.after(22) == {}
    assert set(group.after(2)) == {0, 1}


def test_who_was_suspended_blames_nobody_for_it() -> None:
    group = Ranks(2)
    group.step(17)
    assert group.after(3) == {}
    group.now += 5000
    assert group.after(22) == {}
    assert set(group.after(4)) == {0, 1}, "from then on it has its time, as ever"


def test_a_launcher_that_was_suspended_with_its_rank_lets_it_go_on() -> None:
    group = Ranks(1)
    warden = Warden(Board(group.store), [0])
    group.step(17)
    for _ in range(3):
        assert group.after(1) == {}
        assert warden.look(group.now) is None
    group.now += 5000
    assert warden.look(group.now) is None
    group.step(18)
    for _ in range(20):
        assert group.after(1) == {}
        assert warden.look(group.now) is None


def test_a_launcher_notices_that_a_rank_of_its_own_is_silent_and_out_of_time() -> None:
    group = Ranks(1)
    warden = Warden(Board(group.store), [0])
    group.step(17)
    assert group.after(3) == {}
    assert warden.look(group.now) is None
    said = None
    for _ in range(60):
        group.now += 1
        said = warden.look(group.now)
        if said is not None:
            break
    assert group.now == 1024
    assert said is not None
    assert said.startswith("rank 0 did not answer for 24 s at step 17: ")
    assert warden.beats[0].pid == os.getpid()


def test_a_rank_that_answers_and_one_that_never_began_are_none_of_the_launchers() -> None:
    group = Ranks(2)
    group.stopped = {1}
    warden = Warden(Board(group.store), [0, 1])
    group.accounts[0].validates(3)
    for _ in range(3000):
        assert group.after(1) == {}
        assert warden.look(group.now) is None


def test_a_rank_without_a_limit_may_not_be_frozen_for_ever() -> None:
    group = Ranks(1)
    warden = Warden(Board(group.store), [0])
    group.accounts[0].finishes()
    group.after(1)
    for _ in range(int(FROZEN_SECONDS)):
        assert warden.look(group.now) is None
        group.now += 1
    group.now += 1
    said = warden.look(group.now)
    assert said is not None
    assert said.startswith("rank 0 did not answer")
    assert warden.look(group.now) == said


def beat(**fields: Any) -> Beat:
    usual: dict[str, Any] = {"number": 1, "pid": 1, "step": 3, "phase": "computing", "seconds": 30.0, "limit": 23.0}
    return Beat(**usual | fields)


def test_of_many_ranks_some_are_named() -> None:
    assert ranks(range(3)) == "ranks 0, 1, 2"
    assert ranks(range(20)) == "ranks 0, 1, 2, 3, 4, 5, 6, 7 and 12 more"
    assert (sentence(beat(), {}, range(20)) or "").startswith(
        "ranks 0, 1, 2, 3, 4, 5, 6, 7 and 12 more did not answer for 30 s"
    )


def test_a_limit_that_is_none_survives_the_board() -> None:
    board = Board(Store())
    board.beat(4, beat(limit=math.inf))
    assert board.beats([3, 4, 5]) == {4: beat(limit=math.inf)}
    assert board.declared() is None
    assert board.declare("first") == "first"
    assert board.declare("second") == "first"
    assert board.declared() == "first"
