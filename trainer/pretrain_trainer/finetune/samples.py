"""The examples of a split: read, encoded, and in the order of training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pretrain_stage.errors import UserError
from pretrain_stage.manifest import fetch
from pretrain_stage.storage import Storage

from pretrain_trainer.finetune.plan import FinetunePlan, below
from pretrain_trainer.finetune.tasks import Encoded, LearnedTask
from pretrain_trainer.objective import IGNORED, Row, Sample, Tensors
from pretrain_trainer.order import sample_order

SAMPLE = "sample"
"""The input with the global sample index, which dropout is drawn by."""
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Split:
    """The examples of a split, as they are stored and as numbers."""

    examples: list[dict[str, Any]]
    encoded: list[Encoded]

    def longer_than(self, most: int) -> int:
        """How many were cut."""
        return sum(one.length > most for one in self.encoded)


def bring_examples(plan: FinetunePlan, storage: Storage, split: str, folder: Path) -> Path:
    """Copies a split to a local folder and verifies it."""
    path = f"{below(plan.name)}/examples/{split}.jsonl"
    file = next(file for file in plan.examples.outputs if file.path == path)
    return fetch(storage, file, folder / f"{split}.jsonl")


def read_split(path: Path, task: LearnedTask, plan: FinetunePlan) -> Split:
    """The examples in that file. Raises UserError if some are too long and the job refuses these."""
    examples = [json.loads(line) for line in path.read_bytes().splitlines()]
    split = Split(examples, [task.encode(example) for example in examples])
    most = plan.section.sequence_length
    longer = split.longer_than(most)
    if longer and plan.section.examples.too_long == "refuse":
        longest = max(one.length for one in split.encoded)
        raise UserError(
            f"{plan.field}.sequenceLength: {most}, but {longer} of {len(examples)} examples in {path.name} are longer, the longest "
            f"{longest} tokens; raise it, shorten them, or set examples.tooLong: truncate"
        )
    return split


class ExampleSamples:
    """Labelled examples as training takes them. A pass is a permutation of them."""

    def __init__(self, encoded: Sequence[Encoded], head: str, pad: int, seed: int) -> None:
        self.encoded, self.head, self.pad, self.seed = encoded, head, pad, seed

    def at(self, indices: range) -> list[Sample]:
        return [
            Sample({**self.encoded[place].inputs, SAMPLE: np.array(index)}, {self.head: self.encoded[place].target})
            for index, place in zip(indices, self.places(indices), strict=True)
        ]

    def places(self, indices: range) -> list[int]:
        places: list[int] = sample_order(self.seed, len(self.encoded), np.arange(indices.start, indices.stop)).tolist()
        return places

    def targets(self, samples: range) -> dict[str, int] | None:
        return None

    def together(self, samples: Sequence[Sample]) -> tuple[Tensors, Tensors]:
        inputs = {name: filled([one.inputs[name] for one in samples], self._filler(name)) for name in samples[0].inputs}
        targets = {name: filled([one.targets[name] for one in samples], IGNORED) for name in samples[0].targets}
        return inputs, targets

    def _filler(self, name: str) -> int:
        return self.pad if name.endswith("input_ids") else 0


def filled(rows: Sequence[Row], filler: int) -> torch.Tensor:
    """Rows of different lengths as one int64 tensor, filled up on the right: (rows, longest); (rows,) of single numbers."""
    longest = max(row.size for row in rows)
    if rows[0].ndim == 0:
        return torch.from_numpy(np.stack(rows).astype(np.int64))
    return torch.from_numpy(np.stack([np.pad(row, (0, longest - row.size), constant_values=filler) for row in rows]))
