"""Lists of everything: before any work starts, and again where a watch may have missed something."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from pretrain_operator.cluster.client import Client
from pretrain_operator.cluster.stores import Key, Stores, key_of
from pretrain_operator.resources import STORED

AFTER_A_LIST_SECONDS = 5.0
"""From the last object that kopf lists to a list of our own, which finds what was deleted unseen before kopf's."""

logger = logging.getLogger(__name__)


class Listing:
    """Fills the stores. namespaces: empty for all."""

    def __init__(self, client: Client, stores: Stores, namespaces: Sequence[str]) -> None:
        self._client, self._stores = client, stores
        self._namespaces: list[str | None] = [*namespaces] or [None]
        self._wanted = asyncio.Event()
        self._delay = 0.0

    async def fill(self) -> set[Key]:
        """Lists everything once, children first. Returns the jobs that this concerns. Raises Failure."""
        concerned: set[Key] = set()
        for resource in STORED:
            for namespace in self._namespaces:
                listed: set[Key] = set()
                version = "0"
                async for page, list_version in self._client.pages(resource, namespace):
                    version = list_version
                    for body in page:
                        listed.add(key_of(body))
                        concerned |= self._stores.put(body)
                concerned |= self._stores.prune(resource, namespace, listed, version)
        return concerned

    def want(self, delay: float = 0.0) -> None:
        """Something may have been missed: list again, in `delay` seconds."""
        self._delay = max(self._delay, delay)
        self._wanted.set()

    async def wait(self, seconds: float) -> None:
        """Returns when a list is wanted, or after so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                await self._wanted.wait()
        except TimeoutError:
            pass
        while self._delay:  # what is wanted meanwhile, is wanted at the end
            delay, self._delay = self._delay, 0.0
            await asyncio.sleep(delay)
        self._wanted.clear()
