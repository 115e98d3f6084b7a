"""What the processes of a training group tell each other while they may be blocked: beats, and that the group has to end.

It lies in the store of torch's elastic agent, in the process that launches node 0, over a connection of its own: no collective is
needed, so it works when one hangs, and no rank is needed, so it works when one is stopped.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, Protocol

STORE_SECONDS = 10.0
"""Longest wait for the store, which answers within milliseconds or is gone."""


class Store(Protocol):
    """What of torch.distributed.Store is used."""

    def set(self, key: str, value: str, /) -> None: ...
    def get(self, key: str, /) -> bytes: ...
    def check(self, keys: list[str], /) -> bool: ...
    def compare_set(self, key: str, expected: str, desired: str, /) -> bytes: ...


@dataclass(frozen=True)
class Beat:
    """What a rank says of itself about once a second."""

    number: int
    """Counts them, so that a rank which says nothing is told from one that has nothing new to say."""
    pid: int
    step: int
    phase: str
    seconds: float
    """For which that has lasted."""
    limit: float
    """Seconds after which the group is ended."""


class Board:
    """The beats of all ranks, and the sentence with which a group ends. Raises RuntimeError where the store is gone."""

    HANGS = "pretrain/hangs"

    def __init__(self, store: Store) -> None:
        self.store = store

    def beat(self, rank: int, beat: Beat) -> None:
        self.store.set(_key(rank), json.dumps(asdict(beat)))

    def beats(self, ranks: Iterable[int]) -> dict[int, Beat]:
        """The last beat of each of these ranks that has one."""
        return {rank: Beat(**json.loads(self.store.get(_key(rank)))) for rank in ranks if self.store.check([_key(rank)])}

    def declare(self, sentence: str) -> str:
        """Ends the group; returns the sentence that was the first."""
        return self.store.compare_set(self.HANGS, "", sentence).decode()

    def declared(self) -> str | None:
        """Why the group ends, if it does."""
        return self.store.get(self.HANGS).decode() if self.store.check([self.HANGS]) else None


def join(address: str, port: int, seconds: float = STORE_SECONDS) -> Board:
    """The board of the group whose store is at that address. Waits for the store for that long; raises RuntimeError then."""
    import torch.distributed as dist

    store: Any = dist.TCPStore(  # type: ignore[attr-defined]
        address, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=seconds)
    )
    store.set_timeout(timedelta(seconds=STORE_SECONDS))
    return Board(store)


def _key(rank: int) -> str:
    return f"pretrain/beat/{rank}"
