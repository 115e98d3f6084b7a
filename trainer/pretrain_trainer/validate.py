"""Measures on the held-out text: the same numbers at any number of processes, to the last bit.

Held-out samples are drawn by a seed of their own, so that runs with different seeds are measured on the same. They are cut into
groups of fixed size, whoever computes them; each group's loss is summed on its own, and the sums are added in the order of
the groups.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from pretrain_trainer.objective import IGNORED, Tensors, answers, loss_sum, stacked
from pretrain_trainer.objectives.objective import Objective, window_at
from pretrain_trainer.order import chance_at
from pretrain_trainer.ranks import Group
from pretrain_trainer.sample import TOKENS
from pretrain_trainer.text import Text

GROUP_TOKENS = 4096
"""Most tokens of a group of samples; a longer sample is a group of its own."""
CHANCE, SEED = "held-out samples", 0

Item = tuple[int, int]
"""A sample: number of the text, and place in it."""


@dataclass(frozen=True)
class HeldOut:
    """Samples of held-out texts, in groups of one shape and one text."""

    objective: Objective
    texts: Sequence[Text]
    groups: tuple[tuple[Item, ...], ...]

    @property
    def samples(self) -> int:
        return sum(map(len, self.groups))

    def read(self, group: int) -> tuple[Tensors, Tensors]:
        """The samples of a group as a batch: inputs and targets."""
        return stacked(
            [
                self.objective.sample(self.texts[text], place, chance_at(f"{CHANCE} {self.texts[text].name}", SEED, place))
                for text, place in self.groups[group]
            ]
        )


@dataclass(frozen=True)
class Sums:
    """What a group of samples came to, in one head."""

    text: int
    loss: float
    targets: int
    right: int


def held_out(objective: Objective, texts: Sequence[Text], most: int | None = None) -> HeldOut:
    """The held-out texts as samples, the last one of each shorter where the text does not divide.

    most: samples to use, spread evenly over the texts. None uses all, so that causal-lm predicts each token of a text but the
    first once.
    """
    window = objective.window
    items = [
        (number, place)
        for number, text in enumerate(texts)
        for place in range(-(-len(text) // window.own))
        if len(window_at(window, text, place)) > 1
    ]
    if most is not None and len(items) > most:
        items = [items[place * len(items) // most] for place in range(most)]
    size = max(1, GROUP_TOKENS // window.read)
    groups: list[tuple[Item, ...]] = []
    for number, text in enumerate(texts):
        of_text = [item for item in items if item[0] == number]
        whole = [item for item in of_text if len(window_at(window, text, item[1])) == window.read]
        groups += [tuple(whole[first : first + size]) for first in range(0, len(whole), size)]
        groups += [(item,) for item in of_text[len(whole) :]]
    return HeldOut(objective, texts, tuple(groups))


def held_out_measures(model: nn.Module, data: HeldOut, device: torch.device, group: Group | None = None) -> dict[str, float]:
    """Measures by name. Called by all processes of `group` together; None is a single process.

    validation_loss is in nats, the mean over all targets of a head, summed over the heads; each head has its own loss too if there
    are several, and the share of its targets that the model finds likeliest is its accuracy. With several texts, each has
    a validation_loss of its own.
    model: called with inputs, returns logits by head. It is left in training mode if it was.
    """
    sums = held_out_sums(model, data, device, group)
    return _measures(sums, [text.name for text in data.texts])


@torch.no_grad()
def held_out_sums(
    model: nn.Module, data: HeldOut, device: torch.device, group: Group | None = None
) -> list[dict[str, Sums]]:
    """What each group of samples comes to, by head, in their order. Called as `held_out_measures`."""
    rank, world = (group.place.rank, group.place.world_size) if group else (0, 1)
    was_training = model.training
    model.eval()
    sums: dict[int, dict[str, Sums]] = {}
    for first in range(0, len(data.groups), world):
        # Under ZeRO 3 each forward pass gathers weights from all, so those left without a group compute one again.
        number = min(first + rank, len(data.groups) - 1)
        inputs, targets = data.read(number)
        logits = answers(model(**{name: rows.to(device) for name, rows in inputs.items()}))
        sums[number] = {
            head: _sums(data.groups[number][0][0], logits[head], asked.to(device)) for head, asked in targets.items()
        }
    model.train(was_training)
    for theirs in group.gather(sums) if group else []:
        sums |= theirs
    return [sums[number] for number in range(len(data.groups))]


def _sums(text: int, logits: torch.Tensor, asked: torch.Tensor) -> Sums:
    counts = asked != IGNORED
    right = (logits.argmax(-1) == asked) & counts
    return Sums(text, loss_sum(logits, asked).double().item(), int(counts.sum()), int(right.sum()))


def _measures(groups: Sequence[dict[str, Sums]], texts: Sequence[str]) -> dict[str, float]:
    """The measures of all groups, in their order."""
    heads = list(groups[0])
    losses = {head: mean_loss([group[head] for group in groups]) for head in heads}
    found = {"validation_loss": sum(losses.values())}
    for head in heads:
        right, targets = (sum(getattr(group[head], what) for group in groups) for what in ("right", "targets"))
        found["accuracy" if head == TOKENS else f"{head}_accuracy"] = right / max(1, targets)
        if len(heads) > 1:
            found[f"{head}_loss"] = losses[head]
    measured = sorted({group[heads[0]].text for group in groups})
    for number in measured if len(measured) > 1 else ():
        of_text = [group for group in groups if group[heads[0]].text == number]
        found[f"validation_loss_{texts[number]}"] = sum(mean_loss([group[head] for group in of_text]) for head in heads)
    return found


def mean_loss(sums: Sequence[Sums]) -> float:
    """Nats per target."""
    return float(np.sum([group.loss for group in sums])) / max(1, sum(group.targets for group in sums))


def perplexity(loss: float) -> float:
    """E to the loss; infinite where that cannot be written."""
    return math.exp(loss) if loss < 700 else math.inf
