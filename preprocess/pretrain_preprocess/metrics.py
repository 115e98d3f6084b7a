"""Counters for Prometheus, served while a process works, if a port is given: those of the two catalogues, and no others.

They are read from the tallies at the moment of a scrape, so documents pay nothing for them. Labels are bounded: stages,
blocks and reasons are fixed sets, the detector's languages among the reasons the largest.

What a task counts after the last scrape of its process is never seen, all of it if the process is short: totals are in the
manifests (pretrain_stage.manifest). A process whose task has failed waits for one more scrape, if it has seen any.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pretrain_stage.config import Metadata
from pretrain_stage.exposition import Exposition
from pretrain_stage.metric import Metric
from pretrain_stage.storage_errors import StorageErrors

from pretrain_preprocess.catalogue import BYTES, DOCUMENTS, TASKS
from pretrain_preprocess.tally import Tally

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family

Result = Literal["done", "unchanged", "failed"]


class Metrics:
    """The tallies of all tasks that this process has begun, by stage, and how its tasks have ended."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata
        self._tallies: list[tuple[str, Tally]] = []
        self._ended: Counter[tuple[str, Result]] = Counter()
        self._exposition: Exposition | None = None

    def begin(self, stage: str) -> Tally:
        """The tally of a new task."""
        tally = Tally()
        self._tallies.append((stage, tally))
        return tally

    def end(self, stage: str, result: Result) -> None:
        """A task of the stage has ended."""
        self._ended[stage, result] += 1

    def serve(self, address: str, port: int) -> None:
        """Answers GET /metrics from a thread until the process ends."""
        from prometheus_client import CollectorRegistry

        registry = CollectorRegistry()
        registry.register(self)
        registry.register(StorageErrors(self._metadata))
        self._exposition = Exposition(registry, address, port)

    def wait_until_read(self) -> None:
        """Waits until the counters have been read as they stand, a minute at most; not if nobody reads them."""
        if self._exposition is not None:
            self._exposition.wait_until_read()

    def collect(self) -> Iterator[Family]:
        """The counters as they stand (the interface of a prometheus_client collector)."""
        documents: Counter[tuple[str, ...]] = Counter()
        text: Counter[tuple[str, ...]] = Counter()
        for stage, tally in self._tallies.copy():
            counts = tally.counts()
            documents.update({(stage, "read", "", ""): counts.read, (stage, "kept", "", ""): counts.kept})
            for block, reasons in counts.dropped.items():
                documents.update({(stage, "dropped", block, reason): number for reason, number in reasons.items()})
            text.update(
                {
                    (stage, "read"): counts.read_bytes,
                    (stage, "kept"): counts.kept_bytes,
                    (stage, "dropped"): counts.dropped_bytes,
                }
            )
        yield self._family(DOCUMENTS, documents)
        yield self._family(BYTES, text)
        yield self._family(TASKS, self._ended.copy())

    def _family(self, metric: Metric, values: Counter[tuple[str, ...]] | Counter[tuple[str, Result]]) -> Family:
        family = metric.family()
        for labels, number in sorted(values.items()):
            family.add_metric((self._metadata.namespace, self._metadata.name, *labels), number)
        return family
