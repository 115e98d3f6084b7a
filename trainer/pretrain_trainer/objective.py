"""The seam between the data and the loss.

Samples say what the model reads, and what it should answer, as a pure function of (seed, global sample index). There is no
stream of random numbers, so a resumed run goes on exactly, at any number of processes. A model may have several heads (masked
tokens, and whether two sentences follow each other); a sample has targets for each. The loss of a step is the mean over all
targets of a head, whichever process holds them, summed over the heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pretrain_trainer.sample import IGNORED as IGNORED
from pretrain_trainer.sample import TOKENS as TOKENS
from pretrain_trainer.sample import Row as Row
from pretrain_trainer.sample import Sample as Sample

Tensors = dict[str, Tensor]


class Samples(Protocol):
    """What a run learns from, by global sample index."""

    def at(self, indices: range) -> list[Sample]:
        """The samples at those global indices, counted from 0."""
        ...

    def places(self, indices: range) -> list[int]:
        """Which samples of the data stand there, for records."""
        ...

    def targets(self, samples: range) -> dict[str, int] | None:
        """How many targets count in the samples at those global indices, by head; None if that takes looking at them."""
        ...

    def together(self, samples: Sequence[Sample]) -> tuple[Tensors, Tensors]:
        """Samples as a micro-batch: inputs and targets."""
        ...


def stacked(samples: Sequence[Sample]) -> tuple[Tensors, Tensors]:
    """Samples of one shape, one below the other."""
    inputs = {name: as_tensor([sample.inputs[name] for sample in samples]) for name in samples[0].inputs}
    targets = {name: as_tensor([sample.targets[name] for sample in samples]) for name in samples[0].targets}
    return inputs, targets


def answers(outputs: Tensor | Tensors) -> Tensors:
    """Logits by head; a model with one head may return its logits as they are."""
    return {TOKENS: outputs} if isinstance(outputs, Tensor) else outputs


def loss_sum(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy in nats, summed over the targets that count, in fp32.

    logits: (..., vocabulary), any floating type. targets: (...), int64, IGNORED where nothing is asked.
    """
    return functional.cross_entropy(
        logits.float().reshape(-1, logits.size(-1)), targets.reshape(-1), ignore_index=IGNORED, reduction="sum"
    )


def as_tensor(rows: Sequence[Row]) -> Tensor:
    """Rows of numbers as one int64 tensor (rows, length)."""
    return torch.from_numpy(np.stack(rows))
