"""The form of a block: one decision about one document, and the count of what it dropped."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from typing import ClassVar

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from pretrain_preprocess.tally import Dropped


class Block(PipelineStep):  # type: ignore[misc]  # datatrove has no types
    """A pipeline step that keeps or drops each document by itself: a pure function of the document.

    `dropped` counts by reason; reasons are few and fixed, for they become labels of a metric.
    """

    type = "block"
    name: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.dropped = Dropped()

    @abstractmethod
    def apply(self, document: Document) -> str | None:
        """Changes the document in place; returns the reason to drop it, or None to keep it."""

    def run(self, data: Iterable[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """The documents that are kept."""
        for document in data:
            reason = self.apply(document)
            if reason is None:
                yield document
            else:
                self.dropped.add(reason, document.text)
