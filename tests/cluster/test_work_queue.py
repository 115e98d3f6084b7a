"""The queue: no key twice at a time, none forgotten, failures ever more seldom."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from typing import Any

import pytest
from pretrain_operator.cluster.work_queue import LONGEST_SECONDS, WorkQueue

A, B = ("team", "a"), ("team", "b")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def run(steps: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(steps, 10))


async def nothing_due(queue: WorkQueue) -> bool:
    try:
        async with asyncio.timeout(0.02):
            key = await queue.get()
    except TimeoutError:
        return True
    raise AssertionError(key)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(clock: Clock) -> WorkQueue:
    return WorkQueue(clock, jitter=lambda: 0.5)


def test_a_key_added_twice_is_handed_out_once(queue: WorkQueue) -> None:
    async def steps() -> None:
        queue.add(A)
        queue.add(A)
        assert await queue.get() == A
        queue.done(A)
        assert await nothing_due(queue)

    run(steps())


def test_a_key_that_is_worked_on_comes_again_afterwards(queue: WorkQueue) -> None:
    """What was added meanwhile may be news that the worker has not seen."""

    async def steps() -> None:
        queue.add(A)
        assert await queue.get() == A
        queue.add(A)
        assert await nothing_due(queue)
        queue.done(A)
        assert await queue.get() == A

    run(steps())


def test_keys_are_handed_out_when_they_are_due_and_the_sooner_time_counts(queue: WorkQueue, clock: Clock) -> None:
    async def steps() -> None:
        queue.add(A, 10)
        queue.add(A, 5)
        queue.add(A, 20)
        queue.add(B, 7)
        assert await nothing_due(queue)
        clock.now += 5
        assert await queue.get() == A
        queue.done(A)
        assert await nothing_due(queue)
        clock.now += 100
        assert await queue.get() == B
        queue.done(B)
        assert await nothing_due(queue)

    run(steps())


def test_waiting_workers_wake_up_when_a_key_comes_due() -> None:
    async def steps() -> None:
        loop = asyncio.get_running_loop()
        queue = WorkQueue(loop.time)
        waiting = [asyncio.create_task(queue.get()) for _ in range(3)]
        await asyncio.sleep(0)
        queue.add(A, 0.05)
        queue.add(B)
        done, pending = await asyncio.wait(waiting, timeout=0.5, return_when=asyncio.ALL_COMPLETED)
        assert {task.result() for task in done} == {A, B}
        queue.close()
        assert await pending.pop() is None

    run(steps())


def test_pauses_double_up_to_five_minutes_and_begin_anew_after_success(queue: WorkQueue, clock: Clock) -> None:
    async def steps() -> None:
        pauses = []
        for _ in range(12):
            queue.add(A)
            await queue.get()
            pauses.append(queue.retry(A))
            queue.done(A)
        assert pauses[:5] == [1, 2, 4, 8, 16]
        assert pauses[-1] == LONGEST_SECONDS
        assert queue.failures(A) == 12
        queue.forget(A)
        assert queue.retry(A) == 1

    run(steps())


def test_a_pause_is_as_long_as_the_server_asks_and_news_cuts_it_short(queue: WorkQueue, clock: Clock) -> None:
    async def steps() -> None:
        queue.add(A)
        await queue.get()
        assert queue.retry(A, at_least=30) == 30
        queue.done(A)
        clock.now += 29
        assert await nothing_due(queue)
        queue.add(A)
        assert await queue.get() == A

    run(steps())


def test_pauses_are_spread(clock: Clock) -> None:
    queue = WorkQueue(clock, jitter=random.Random(1).random)
    pauses = {queue.retry(("team", str(number))) for number in range(50)}
    assert len(pauses) > 40
    assert all(0.8 <= pause <= 1.2 for pause in pauses)


def test_once_the_server_is_back_only_those_that_failed_come_at_once(queue: WorkQueue, clock: Clock) -> None:
    async def steps() -> None:
        queue.add(A)
        await queue.get()
        for _ in range(8):
            queue.retry(A)
        queue.done(A)
        queue.add(B, 50)
        queue.hurry()
        assert await queue.get() == A
        assert queue.failures(A) == 0
        assert await nothing_due(queue)

    run(steps())


def test_a_closed_queue_hands_out_nothing(queue: WorkQueue) -> None:
    async def steps() -> None:
        queue.add(A)
        queue.close()
        assert await queue.get() is None

    run(steps())


def test_no_key_is_worked_on_twice_at_a_time_and_none_is_lost() -> None:
    """Eight workers, keys added at random while they work: each is worked on once more after its last add."""

    async def steps() -> None:
        loop, chance = asyncio.get_running_loop(), random.Random(7)
        queue = WorkQueue(loop.time)
        keys = [("team", str(number)) for number in range(10)]
        added, seen, busy = dict.fromkeys(keys, 0), dict.fromkeys(keys, 0), set()

        async def work() -> None:
            while (key := await queue.get()) is not None:
                assert key not in busy
                busy.add(key)
                knows = added[key]
                await asyncio.sleep(chance.random() * 0.003)
                seen[key] = knows
                busy.remove(key)
                queue.done(key)

        workers = [asyncio.create_task(work()) for _ in range(8)]
        for _ in range(1500):
            key = chance.choice(keys)
            added[key] += 1
            queue.add(key, chance.choice((0, 0, 0.002)))
            if chance.random() < 0.2:
                await asyncio.sleep(0.001)
        await asyncio.sleep(0.1)
        assert seen == added
        assert queue.depth() == 0
        queue.close()
        await asyncio.gather(*workers)

    run(steps())
