"""What has happened to the documents of a task so far: the live form of its counts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from pretrain_stage.manifest import Counts


class Dropped(Counter[str]):
    """How many documents a block has dropped, by reason, and the UTF-8 bytes of the texts that they had then."""

    text_bytes = 0

    def add(self, reason: str, text: str) -> None:
        """One more."""
        self[reason] += 1
        self.text_bytes += len(text.encode())


@dataclass
class Tally:
    """What is read is counted where documents come in, what is kept where they are written, what is dropped by each block
    for itself: that the three add up is no identity but a check. Their bytes need not: blocks change texts.
    """

    read: int = 0
    read_bytes: int = 0
    kept: int = 0
    kept_bytes: int = 0
    dropped: dict[str, Dropped] = field(default_factory=dict)

    def take(self, text_bytes: int) -> None:
        """A document that was read."""
        self.read += 1
        self.read_bytes += text_bytes

    def keep(self, text_bytes: int) -> None:
        """A document that is kept."""
        self.kept += 1
        self.kept_bytes += text_bytes

    def reasons(self, block: str) -> Dropped:
        """The counter of a block, in which it counts what it drops."""
        return self.dropped.setdefault(block, Dropped())

    def counts(self) -> Counts:
        """The counts as the manifest keeps them; blocks that dropped nothing are left out."""
        dropped = self.dropped.copy()
        return Counts(
            read=self.read,
            kept=self.kept,
            dropped={
                block: {reason: number for reason, number in sorted(reasons.copy().items()) if number}
                for block, reasons in sorted(dropped.items())
                if reasons.total()
            },
            read_bytes=self.read_bytes,
            kept_bytes=self.kept_bytes,
            dropped_bytes=sum(reasons.text_bytes for reasons in dropped.values()),
        )
