"""The election: one holder at a time, by each replica's own clock, whatever the network does."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from pretrain_operator.cluster.client import Client
from pretrain_operator.cluster.failures import Failure, Gone, Stale, Unavailable
from pretrain_operator.cluster.lease import Lease, Lost, Times
from pretrain_operator.observed import Body
from pretrain_operator.resources import Resource

TIMES = Times(lasts=1, deadline=0.6, renew=0.2, retry=0.05, request=0.3)
"""As the real ones, about fifteen times as fast."""


class Server(Client):
    """Holds one Lease, with versions. `away`: replicas to which it does not answer."""

    def __init__(self) -> None:
        self.body: dict[str, Any] | None = None
        self.version = 0
        self.writers: list[str] = []

    def seen_by(self, replica: Replica) -> View:
        return View(self, replica)


class View(Client):
    """The server as one replica reaches it."""

    def __init__(self, server: Server, replica: Replica) -> None:
        self.server, self.replica = server, replica
        self.gets = 0

    async def get(self, resource: Resource, namespace: str, name: str) -> dict[str, Any]:
        self.gets += 1
        await self._reach()
        if self.server.body is None:
            raise Gone("no Lease")
        return copy.deepcopy(self.server.body)

    async def once(self, method: str, doing: str, path: str, body: Body, seconds: float) -> dict[str, Any]:
        await self._reach()
        known = self.server.body
        if method == "PUT" and known is None:
            raise Gone("no Lease")
        if known is not None and body["metadata"].get("resourceVersion") != known["metadata"]["resourceVersion"]:
            raise Stale("changed meanwhile")
        self.server.version += 1
        made = copy.deepcopy(dict(body))
        made["metadata"] = made["metadata"] | {"resourceVersion": str(self.server.version)}
        self.server.body = made
        self.server.writers.append(self.replica.name)
        for watcher in self.replica.cluster:
            if watcher.watching:
                watcher.lease.watched(copy.deepcopy(made))
        return copy.deepcopy(made)

    async def _reach(self) -> None:
        await asyncio.sleep(0)
        if self.replica.cut_off:
            raise Unavailable("no answer")


class Replica:
    """One replica, which leads, or wants to."""

    def __init__(self, name: str, server: Server, cluster: list[Replica]) -> None:
        self.name, self.cluster, self.cut_off, self.watching = name, cluster, False, True
        self.view = View(server, self)
        self.clock = asyncio.get_running_loop().time
        self.lease = Lease(self.view, "team", "pretrain-operator", name, self.clock, TIMES)
        self.recoveries = 0
        self.lease.recovered = self._recovered
        cluster.append(self)

    def _recovered(self) -> None:
        self.recoveries += 1

    async def run(self) -> None:
        await self.lease.acquire()
        await self.lease.keep()

    def may_write(self) -> bool:
        return self.lease.leading.is_set() and self.lease.write_seconds() > 0


def play(scene: Callable[[Server, list[Replica]], Awaitable[None]]) -> None:
    async def go() -> None:
        await scene(Server(), [])

    asyncio.run(asyncio.wait_for(go(), 30))


def test_the_first_creates_it_the_second_waits_and_reads_nothing() -> None:
    async def scene(server: Server, cluster: list[Replica]) -> None:
        one = Replica("one", server, cluster)
        leading = asyncio.create_task(one.run())
        await asyncio.wait_for(one.lease.leading.wait(), 1)
        two = Replica("two", server, cluster)
        standing_by = asyncio.create_task(two.run())
        await asyncio.sleep(3 * TIMES.lasts)
        assert one.may_write()
        assert not two.may_write()
        assert set(server.writers) == {"one"}
        assert (one.view.gets, two.view.gets) == (1, 1)
        for task in (leading, standing_by):
            task.cancel()

    play(scene)


def test_at_no_time_may_two_write() -> None:
    """The holder is cut off and comes back, again and again; nobody's watch is reliable."""

    async def scene(server: Server, cluster: list[Replica]) -> None:
        replicas = [Replica(name, server, cluster) for name in ("one", "two", "three")]
        tasks = {replica.name: asyncio.create_task(replica.run()) for replica in replicas}
        led: set[str] = set()
        for round_ in range(5):
            loop = asyncio.get_running_loop()
            until = loop.time() + 1.6
            holder = next((replica for replica in replicas if replica.may_write()), None)
            if holder is not None:
                holder.cut_off = True
            while loop.time() < until:
                writers = [replica.name for replica in replicas if replica.may_write()]
                assert len(writers) <= 1, writers
                led |= set(writers)
                await asyncio.sleep(0.01)
            for replica in replicas:
                replica.cut_off = False
                replica.watching = round_ % 2 == 0
                if tasks[replica.name].done():
                    assert isinstance(tasks[replica.name].exception(), Lost)
                    cluster.remove(replica)
                    replicas[replicas.index(replica)] = new = Replica(replica.name, server, cluster)
                    tasks[new.name] = asyncio.create_task(new.run())
        assert len(led) >= 2, "nobody ever took over"
        for task in tasks.values():
            task.cancel()

    play(scene)


def test_a_holder_that_is_alone_goes_on_after_an_outage_and_stops_writing_during_it() -> None:
    async def scene(server: Server, cluster: list[Replica]) -> None:
        one = Replica("one", server, cluster)
        task = asyncio.create_task(one.run())
        await asyncio.wait_for(one.lease.leading.wait(), 1)
        one.cut_off = True
        await asyncio.sleep(TIMES.deadline + 0.1)
        assert not one.may_write(), "another could have taken over soon"
        assert one.lease.unseen_seconds() == 0, "nothing is to be seen while nothing can be written"
        await asyncio.sleep(2 * TIMES.lasts)
        one.cut_off = False
        await asyncio.wait_for(one.lease.leading.wait(), 1)
        assert one.may_write()
        assert one.recoveries == 1
        assert not task.done()
        task.cancel()

    play(scene)


def test_who_finds_another_in_its_place_ends() -> None:
    async def scene(server: Server, cluster: list[Replica]) -> None:
        one = Replica("one", server, cluster)
        task = asyncio.create_task(one.run())
        await asyncio.wait_for(one.lease.leading.wait(), 1)
        assert server.body is not None
        server.version += 1
        server.body["spec"]["holderIdentity"] = "two"
        server.body["metadata"]["resourceVersion"] = str(server.version)
        with pytest.raises(Lost, match="held by two"):
            await task
        assert not one.may_write()

    play(scene)


def test_a_lease_that_somebody_labels_or_deletes_is_kept() -> None:
    async def scene(server: Server, cluster: list[Replica]) -> None:
        one = Replica("one", server, cluster)
        task = asyncio.create_task(one.run())
        await asyncio.wait_for(one.lease.leading.wait(), 1)
        assert server.body is not None
        server.version += 1
        server.body["metadata"] |= {"resourceVersion": str(server.version), "labels": {"team": "blue"}}
        await asyncio.sleep(2 * TIMES.renew)
        assert one.may_write()
        assert server.body["metadata"]["labels"] == {"team": "blue"}
        server.body = None
        await asyncio.sleep(2 * TIMES.renew)
        assert one.may_write()
        assert server.body is not None
        task.cancel()

    play(scene)


def test_given_up_it_is_taken_at_once_and_by_its_own_name_too() -> None:
    """A container that was killed and starts again in its pod does not wait for itself."""

    async def scene(server: Server, cluster: list[Replica]) -> None:
        one, two = Replica("one", server, cluster), Replica("two", server, cluster)
        task = asyncio.create_task(one.run())
        await asyncio.wait_for(one.lease.leading.wait(), 1)
        other = asyncio.create_task(two.run())
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await one.lease.release()
        assert not one.may_write()
        await asyncio.wait_for(two.lease.leading.wait(), 0.2)
        other.cancel()
        again = Replica("two", server, cluster)
        await asyncio.wait_for(again.lease.acquire(), 0.2)
        assert again.may_write()

    play(scene)


def test_a_watch_that_brings_nothing_of_ones_own_changes_is_noticed() -> None:
    async def scene(server: Server, cluster: list[Replica]) -> None:
        one = Replica("one", server, cluster)
        task = asyncio.create_task(one.run())
        await asyncio.sleep(3 * TIMES.renew)
        assert one.lease.unseen_seconds() < TIMES.renew
        one.watching = False
        await asyncio.sleep(4 * TIMES.renew)
        assert one.lease.unseen_seconds() > 2 * TIMES.renew
        one.watching = True
        await asyncio.sleep(2 * TIMES.renew)
        assert one.lease.unseen_seconds() < TIMES.renew
        task.cancel()

    play(scene)


def test_failures_of_every_kind_leave_a_standby_trying() -> None:
    class Refusing(Failure):
        pass

    async def scene(server: Server, cluster: list[Replica]) -> None:
        one = Replica("one", server, cluster)
        plain, failures = one.view.get, iter([Unavailable("away"), Refusing("no rights yet")])

        async def get(resource: Resource, namespace: str, name: str) -> dict[str, Any]:
            for failure in failures:
                raise failure
            return await plain(resource, namespace, name)

        one.view.get = get  # type: ignore[method-assign]
        await asyncio.wait_for(one.lease.acquire(), 2)
        assert one.may_write()

    play(scene)
