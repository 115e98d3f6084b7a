"""Loss on the held-out text: the same number at any number of processes, to the last bit.

Held-out windows are cut into groups of fixed size, whoever computes them; each group's loss is summed on its own, and the
sums are added in the order of the groups.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from pretrain_trainer.objective import TOKENS, answers, as_tensor, loss_sum
from pretrain_trainer.ranks import Group
from pretrain_trainer.tokens import TokenStream

GROUP_TOKENS = 4096
"""Most tokens of a group of windows; a longer window is a group of its own."""


@dataclass(frozen=True)
class HeldOut:
    """Windows of the held-out text, as (start, targets): each predicts `targets` tokens after the one at `start`."""

    stream: TokenStream
    groups: tuple[tuple[tuple[int, int], ...], ...]

    @property
    def targets(self) -> int:
        return sum(targets for group in self.groups for _, targets in group)


def held_out(stream: TokenStream, sequence_length: int, most: int | None = None) -> HeldOut:
    """The held-out text as windows of `sequence_length` targets; the last one is shorter where the text does not divide.

    most: windows to use, spread evenly over the text. None uses all, so that each token but the first is predicted once.
    """
    predicted = len(stream) - 1
    windows = [(start, min(sequence_length, predicted - start)) for start in range(0, predicted, sequence_length)]
    if most is not None and len(windows) > most:
        windows = [windows[place * len(windows) // most] for place in range(most)]
    size = max(1, GROUP_TOKENS // sequence_length)
    whole = [window for window in windows if window[1] == windows[0][1]]
    groups = [tuple(whole[first : first + size]) for first in range(0, len(whole), size)]
    groups += [(window,) for window in windows[len(whole) :]]
    return HeldOut(stream, tuple(groups))


@torch.no_grad()
def held_out_loss(model: nn.Module, data: HeldOut, device: torch.device, group: Group | None = None) -> float:
    """Mean loss in nats per token. Called by all processes of `group` together; None is a single process.

    model: maps tokens (batch, length) to logits. It is left in training mode if it was.
    """
    rank, world = (group.place.rank, group.place.world_size) if group else (0, 1)
    was_training = model.training
    model.eval()
    sums: dict[int, float] = {}
    for first in range(0, len(data.groups), world):
        # Under ZeRO 3 each forward pass gathers weights from all, so those left without a group compute one again.
        number = min(first + rank, len(data.groups) - 1)
        tokens = as_tensor([data.stream.read(start, start + targets + 1) for start, targets in data.groups[number]]).to(
            device
        )
        logits = answers(model(tokens[:, :-1]))[TOKENS]
        sums[number] = loss_sum(logits, tokens[:, 1:]).double().item()
    model.train(was_training)
    for theirs in group.gather(sums) if group else []:
        sums |= theirs
    return float(np.sum([sums[number] for number in range(len(data.groups))])) / data.targets


def perplexity(loss: float) -> float:
    """E to the loss; infinite where that cannot be written."""
    return math.exp(loss) if loss < 700 else math.inf
