"""Predictions of a split, by all processes together: the same at any number of them.

Examples are cut into groups of fixed content, whoever computes them; each group's loss is summed on its own, and the sums are
added in the order of the groups.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pretrain_trainer.finetune.network import TaskModel
from pretrain_trainer.finetune.samples import filled
from pretrain_trainer.finetune.tasks import Encoded, LearnedTask
from pretrain_trainer.objective import IGNORED, loss_sum
from pretrain_trainer.ranks import Group

GROUP_TOKENS = 8192
"""Most tokens of a group, padding included; a longer example is a group of its own."""


@dataclass(frozen=True)
class Measured:
    """What a model says of a split."""

    loss: float
    """Mean over all targets, in nats."""
    predictions: list[Any]
    """In the order of the examples; none of a generation whose answers were not asked for."""
    probabilities: NDArray[np.float32] | None
    """classification: (examples, labels)."""


@torch.no_grad()
def measure(
    model: nn.Module,
    task: LearnedTask,
    encoded: Sequence[Encoded],
    pad: int,
    device: torch.device,
    group: Group | None = None,
) -> Measured:
    """Loss of the split, and predictions where they follow from logits. Called by all processes of `group` together.

    model: a TaskModel, or the engine around it. It is left in training mode if it was.
    """
    groups = grouped(encoded)
    was_training = model.training
    model.eval()
    found: dict[int, tuple[float, int, list[Any], Any]] = {}
    for number in shares(len(groups), group):
        rows = [encoded[place] for place in groups[number]]
        inputs = {
            name: filled([row.inputs[name] for row in rows], pad if name.endswith("input_ids") else 0).to(device)
            for name in rows[0].inputs
        }
        targets = filled([row.target for row in rows], IGNORED).to(device)
        logits = model(**inputs)[task.head]
        asked = int((targets != IGNORED).sum())
        predicted, probabilities = _read(task, logits, rows)
        found[number] = loss_sum(logits, targets).double().item(), asked, predicted, probabilities
    model.train(was_training)
    for theirs in group.gather(found) if group else []:
        found |= theirs
    ordered = [found[number] for number in range(len(groups))]
    loss = float(np.sum([one[0] for one in ordered])) / max(1, sum(one[1] for one in ordered))
    return Measured(
        loss,
        _in_order(groups, [one[2] for one in ordered]) if ordered[0][2] else [],
        np.stack(_in_order(groups, [list(one[3]) for one in ordered])) if ordered[0][3] is not None else None,
    )


@torch.no_grad()
def answers(
    model: TaskModel, encoded: Sequence[Encoded], settings: Answering, device: torch.device, group: Group | None = None
) -> list[str]:
    """The model's answers, each next token the likeliest. Called by all processes of `group` together."""
    groups = grouped(encoded, settings.most_new)
    was_training = model.training
    model.eval()
    found: dict[int, list[str]] = {}
    for number in shares(len(groups), group):
        found[number] = _answer(model.network, [encoded[place].prompt for place in groups[number]], settings, device)
    model.train(was_training)
    for theirs in group.gather(found) if group else []:
        found |= theirs
    return _in_order(groups, [found[number] for number in range(len(groups))])


@dataclass(frozen=True)
class Answering:
    """How answers are generated."""

    tokenizer: Any
    most_new: int
    positions: int | None
    pad: int
    end: int
    encoder_decoder: bool
    sliced: bool = False
    """Whether ZeRO 3 has sliced the parameters, so that all processes must take as many steps."""


def grouped(encoded: Sequence[Encoded], more: int = 0) -> list[list[int]]:
    """Places of examples, those of about the same length together. more: tokens that each will have besides."""
    order = sorted(range(len(encoded)), key=lambda place: (_length(encoded[place]), place))
    groups: list[list[int]] = []
    for place in order:
        if groups and (len(groups[-1]) + 1) * (_length(encoded[place]) + more) <= GROUP_TOKENS:
            groups[-1].append(place)
        else:
            groups.append([place])
    return groups


def shares(groups: int, group: Group | None) -> Iterable[int]:
    """The groups that this process computes. Under ZeRO 3 each pass gathers weights from all, so all have as many: those
    left without a group compute the last one again.
    """
    rank, world = (group.place.rank, group.place.world_size) if group else (0, 1)
    return (min(first + rank, groups - 1) for first in range(0, groups, world))


def _length(one: Encoded) -> int:
    return max(row.size for row in one.inputs.values())


def _read(task: LearnedTask, logits: Tensor, rows: Sequence[Encoded]) -> tuple[list[Any], Any]:
    match task.peft_type:
        case "SEQ_CLS":
            return task.predictions(logits.cpu(), rows), torch.softmax(logits.float(), -1).cpu().numpy()
        case "TOKEN_CLS":
            return task.predictions(logits.cpu(), rows), None
        case _:
            return [], None


def _answer(network: Any, prompts: Sequence[Sequence[int]], settings: Answering, device: torch.device) -> list[str]:
    longest = max(map(len, prompts))
    fill = [longest - len(prompt) for prompt in prompts]
    if settings.encoder_decoder:
        ids = [[*prompt, *[settings.pad] * missing] for prompt, missing in zip(prompts, fill, strict=True)]
        mask = [[1] * len(prompt) + [0] * missing for prompt, missing in zip(prompts, fill, strict=True)]
    else:
        ids = [[*[settings.pad] * missing, *prompt] for prompt, missing in zip(prompts, fill, strict=True)]
        mask = [[0] * missing + [1] * len(prompt) for prompt, missing in zip(prompts, fill, strict=True)]
    room = settings.most_new
    if settings.positions is not None:
        room = min(room, settings.positions - (1 if settings.encoder_decoder else longest))
    if room < 1:
        return ["" for _ in prompts]
    made = network.generate(
        input_ids=torch.tensor(ids, device=device),
        attention_mask=torch.tensor(mask, device=device),
        max_new_tokens=room,
        do_sample=False,
        num_beams=1,
        use_cache=True,
        pad_token_id=settings.pad,
        eos_token_id=settings.end,
        synced_gpus=settings.sliced,
    )
    new = made if settings.encoder_decoder else made[:, longest:]
    return [settings.tokenizer.decode(row, skip_special_tokens=True) for row in new.tolist()]


def _in_order(groups: list[list[int]], values: Sequence[Sequence[Any]]) -> list[Any]:
    """What was found of each example, in the order of the examples."""
    found = {
        place: value
        for places, of_group in zip(groups, values, strict=True)
        for place, value in zip(places, of_group, strict=True)
    }
    return [found[place] for place in range(len(found))]
