"""Which of several replicas works: the one that holds the Lease.

The holder renews the Lease every few seconds. While it cannot, it stops writing well before another may take over, and goes
on when it can renew again and nobody has; when somebody has, the process ends and starts as a standby. A standby waits until
the Lease was not renewed for as long as it lasts, by its own clock, or was given up.

kubernetes.aio has a leader election; its version 37.0.2 cannot create a Lease, ends at the first refused connection, and
leaves what it leads running when it ends.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NoReturn

from pretrain_operator.cluster.client import Client
from pretrain_operator.cluster.failures import Failure, Gone, Stale
from pretrain_operator.resources import LEASES

logger = logging.getLogger(__name__)


class Lost(Exception):
    """Another replica holds the Lease."""


@dataclass(frozen=True)
class Times:
    """In seconds."""

    lasts: float = 15.0
    """A Lease that was not renewed for so long may be taken over."""
    deadline: float = 10.0
    """After so long without a renewal its holder writes nothing more."""
    renew: float = 4.0
    retry: float = 1.0
    request: float = 3.0


class Lease:
    """This replica's part in the election. Everything runs in one event loop."""

    def __init__(
        self,
        client: Client,
        namespace: str,
        name: str,
        identity: str,
        clock: Callable[[], float],
        times: Times = Times(),
    ) -> None:
        self.client, self.namespace, self.name, self.identity = client, namespace, name, identity
        self.clock, self.times = clock, times
        self.leading = asyncio.Event()
        """Set while this replica may write."""
        self.recovered: Callable[[], None] = lambda: None
        """Called when renewing works again after it did not for longer than the deadline."""
        self._body: dict[str, Any] | None = None
        """The Lease as it was last read or written."""
        self._standing_by = True
        self._held_until = float("-inf")
        self._changed_at = clock()
        """When the Lease was last seen to change."""
        self._woken = asyncio.Event()
        self._unseen_since: float | None = None
        self._watched = 0

    async def acquire(self) -> None:
        """Returns once this replica holds the Lease. Raises nothing: it goes on trying."""
        while not self.leading.is_set():
            try:
                if self._body is None:
                    self._know(await self.client.get(LEASES, self.namespace, self.name))
                await self._free()
                await self._hold(self._body or {}, acquired=True)
            except Gone:
                await self._create()
            except Stale:
                self._body = None
            except Failure as error:
                logger.warning("%s", error)
                await asyncio.sleep(self.times.retry)
        self._standing_by = False
        logger.info("holding Lease %s/%s as %s", self.namespace, self.name, self.identity)

    async def keep(self) -> NoReturn:
        """Renews the Lease for ever. Raises Lost once another replica holds it."""
        pause = self.times.renew
        while True:
            await self._sleep_while_held(pause)
            try:
                await self._renew()
            except Failure as error:
                # Said once an outage; that writing stopped, and goes on, is said too.
                logger.log(logging.WARNING if pause == self.times.renew else logging.DEBUG, "%s", error)
                pause = self.times.retry
            else:
                pause = self.times.renew

    async def release(self) -> None:
        """Gives the Lease up, so that the next replica need not wait."""
        if self._body is None or not self.leading.is_set():
            return
        self.leading.clear()
        self._held_until = float("-inf")
        spec = self._body["spec"] | {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": _now()}
        try:
            await self._write(self._body | {"spec": spec})
            logger.info("released Lease %s/%s", self.namespace, self.name)
        except Failure as error:
            logger.warning("%s", error)

    def write_seconds(self) -> float:
        """How long this replica may still write; 0 or less if it may not."""
        return self._held_until - self.clock()

    def watched(self, body: Mapping[str, Any]) -> None:
        """The watch has brought this version of the Lease."""
        metadata = body["metadata"]
        if (metadata["namespace"], metadata["name"]) != (self.namespace, self.name):
            return
        self._watched = max(self._watched, int(metadata["resourceVersion"]))
        known = 0 if self._body is None else int(self._body["metadata"]["resourceVersion"])
        if known <= self._watched:
            self._unseen_since = None
        else:
            self._unseen_since = self.clock()
        if self._standing_by and self._watched > known:  # a holder must fail to renew what another has taken
            self._body, self._changed_at = dict(body), self.clock()
            self._woken.set()

    def unseen_seconds(self) -> float:
        """For how long the watch has brought nothing of changes to the Lease that this replica knows of."""
        return 0.0 if self._unseen_since is None else self.clock() - self._unseen_since

    async def _free(self) -> None:
        """Waits until the Lease may be taken, as far as is known. Nothing is read: the watch tells of renewals."""
        while self._body is not None:
            spec = self._body.get("spec") or {}
            left = self._changed_at + float(spec.get("leaseDurationSeconds") or 0) - self.clock()
            if spec.get("holderIdentity") in (None, "", self.identity) or left <= 0:
                return
            self._woken.clear()
            try:
                async with asyncio.timeout(left):
                    await self._woken.wait()
            except TimeoutError:
                pass

    async def _create(self) -> None:
        metadata = {"name": self.name, "namespace": self.namespace}
        try:
            await self._hold({"apiVersion": LEASES.api_version, "kind": LEASES.kind, "metadata": metadata}, acquired=True)
        except Stale:
            self._body = None
        except Failure as error:
            logger.warning("%s", error)
            await asyncio.sleep(self.times.retry)

    async def _renew(self) -> None:
        assert self._body is not None, "renewed only by whom it was acquired"
        try:
            await self._hold(self._body, acquired=False)
        except Gone:
            await self._hold(_without_version(self._body), acquired=True)
        except Stale:
            body = await self.client.get(LEASES, self.namespace, self.name)
            holder = (body.get("spec") or {}).get("holderIdentity")
            if holder != self.identity:
                self._stop()
                raise Lost(f"Lease {self.namespace}/{self.name} is held by {holder or 'nobody'} now") from None
            await self._hold(body, acquired=False)

    async def _hold(self, body: Mapping[str, Any], *, acquired: bool) -> None:
        """Writes this replica's name and the time into the Lease. Stale if it was changed meanwhile."""
        spec, now, sent = dict(body.get("spec") or {}), _now(), self.clock()
        if acquired:
            changes = int(spec.get("holderIdentity") not in (None, self.identity))
            spec |= {"acquireTime": now, "leaseTransitions": int(spec.get("leaseTransitions") or 0) + changes}
        spec |= {"holderIdentity": self.identity, "leaseDurationSeconds": int(self.times.lasts), "renewTime": now}
        after_a_gap = self._body is not None and not acquired and not self.leading.is_set()
        await self._write({**body, "spec": spec})
        self._held_until = sent + self.times.deadline
        if after_a_gap:
            logger.info("renewed Lease %s/%s again", self.namespace, self.name)
            self.recovered()
        self.leading.set()

    async def _write(self, body: Mapping[str, Any]) -> None:
        exists = "resourceVersion" in body["metadata"]
        method, doing = ("PUT", "renew") if exists else ("POST", "create")
        path = LEASES.path(self.namespace, self.name if exists else None)
        seconds = self.times.request
        self._know(await self.client.once(method, f"{doing} Lease {self.namespace}/{self.name}", path, body, seconds))

    async def _sleep_while_held(self, seconds: float) -> None:
        """Sleeps, and stops leading on the second that the Lease may no longer be relied on."""
        left = self.write_seconds()
        if self.leading.is_set() and left < seconds:
            await asyncio.sleep(max(0.0, left))
            self._stop()
            seconds = max(0.0, seconds - max(0.0, left))
        await asyncio.sleep(seconds)

    def _stop(self) -> None:
        if self.leading.is_set():
            logger.error("Lease %s/%s could not be renewed: writing nothing until it is", self.namespace, self.name)
        self.leading.clear()
        self._held_until = float("-inf")

    def _know(self, body: dict[str, Any]) -> None:
        """A version of the Lease, by reading or writing it."""
        new = int(body["metadata"]["resourceVersion"])
        if self._body is None or int(self._body["metadata"]["resourceVersion"]) != new:
            self._changed_at = self.clock()
        self._body = body
        if new > self._watched and self._unseen_since is None:
            self._unseen_since = self.clock()


def _without_version(body: Mapping[str, Any]) -> dict[str, Any]:
    return {**body, "metadata": {name: body["metadata"][name] for name in ("name", "namespace")}}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
