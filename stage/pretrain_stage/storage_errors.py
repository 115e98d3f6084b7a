"""Requests to storage that failed, counted by this process: the metric pretrain_storage_errors_total.

Counted by Storage, whichever thread asks. What the S3 client repeats by itself is not seen here, whether it then succeeds or
not: obstore tells nobody of it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, get_args

from pretrain_stage.catalogue import STORAGE_ERRORS
from pretrain_stage.config import Metadata

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family

Operation = Literal["read", "write", "list", "delete"]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)

_counts = dict.fromkeys(OPERATIONS, 0)
_lock = threading.Lock()


def count_error(operation: Operation) -> None:
    """One more request that failed."""
    with _lock:
        _counts[operation] += 1


def storage_errors() -> dict[Operation, int]:
    """Requests that have failed since this process started, by operation; all operations are there."""
    with _lock:
        return dict(_counts)


class StorageErrors:
    """The counts as a collector of prometheus_client, labelled with the job: `registry.register(StorageErrors(metadata))`."""

    def __init__(self, metadata: Metadata) -> None:
        self._labels = (metadata.namespace, metadata.name)

    def collect(self) -> Iterator[Family]:
        """The counters as they stand; those that are 0 too, so that the first failure is a rise."""
        family = STORAGE_ERRORS.family()
        for operation, number in storage_errors().items():
            family.add_metric((*self._labels, operation), number)
        yield family
