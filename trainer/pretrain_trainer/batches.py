"""The samples of each step: read ahead by one step, so that training does not wait for the disk."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from pretrain_trainer.objective import IGNORED, Samples, Tensors
from pretrain_trainer.plan import RunPlan
from pretrain_trainer.ranks import Group
from pretrain_trainer.watch.rollback import past

Example = tuple[Tensors, Tensors]
"""Inputs by argument and targets by head of one micro-batch, int64; inputs are (micro-batch, length)."""


class Batches:
    """This process's micro-batches, by step. Steps are counted from 1, sample indices from 0."""

    def __init__(
        self,
        plan: RunPlan,
        samples: Samples,
        group: Group,
        record: Path | None = None,
        skipped: Collection[tuple[int, int]] = (),
    ) -> None:
        """skipped: windows of samples that are left out; each is of whole steps."""
        self.skipped = skipped
        self.plan, self.samples, self.group, self.record = plan, samples, group, record
        self.reader = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self.ahead: tuple[int, Future[list[Example]]] | None = None

    def take(self, step: int) -> tuple[list[Example], dict[str, int], float]:
        """The micro-batches of `step`, on the process's device; how many targets the step has over all processes, by head;
        and the seconds that were waited.
        """
        started = time.monotonic()
        future = self.ahead[1] if self.ahead and self.ahead[0] == step else self.reader.submit(self._read, step)
        examples = future.result()
        waited = time.monotonic() - started
        if step < self.plan.batch.steps:
            self.ahead = step + 1, self.reader.submit(self._read, step + 1)
        if self.record is not None:
            self._write_record(self.record, step)
        return (
            [(self._moved(inputs), self._moved(targets)) for inputs, targets in examples],
            self._targets(step, examples),
            waited,
        )

    def close(self) -> None:
        """Ends the reading thread."""
        self.reader.shutdown(wait=True, cancel_futures=True)

    def _read(self, step: int) -> list[Example]:
        return [self._example(indices) for indices in self._indices(step)]

    def _indices(self, step: int) -> Iterator[range]:
        """The global sample indices of this process's micro-batches."""
        batch = self.plan.batch
        for accumulated in range(batch.accumulation):
            first = past(self.skipped, batch.first_sample(step - 1, self.group.place.rank, accumulated))
            yield range(first, first + batch.micro)

    def _example(self, indices: range) -> Example:
        inputs, targets = self.samples.together(self.samples.at(indices))
        if self.group.device.type == "cuda":
            return {name: row.pin_memory() for name, row in inputs.items()}, {
                name: row.pin_memory() for name, row in targets.items()
            }
        return inputs, targets

    def _moved(self, tensors: Tensors) -> Tensors:
        return {name: tensor.to(self.group.device, non_blocking=True) for name, tensor in tensors.items()}

    def _targets(self, step: int, examples: list[Example]) -> dict[str, int]:
        first = past(self.skipped, (step - 1) * self.plan.batch.samples)
        known = self.samples.targets(range(first, first + self.plan.batch.samples))
        if known is not None:
            return known
        heads = examples[0][1]
        counted = [sum(int((targets[head] != IGNORED).sum()) for _, targets in examples) for head in heads]
        return dict(zip(heads, self.group.sum(counted), strict=True))

    def _write_record(self, folder: Path, step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        indices = [index for of_micro in self._indices(step) for index in of_micro]
        places = [place for of_micro in self._indices(step) for place in self.samples.places(of_micro)]
        with (folder / f"rank-{self.group.place.rank}.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, "indices": indices, "samples": places}) + "\n")
