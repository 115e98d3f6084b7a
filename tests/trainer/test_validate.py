"""Measures on held-out text: all tokens once, and the same numbers whoever computes them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from pretrain_trainer import validate
from pretrain_trainer.objective import IGNORED
from pretrain_trainer.objectives import objective_of
from pretrain_trainer.objectives.objective import Objective
from pretrain_trainer.ranks import Group, Place
from pretrain_trainer.validate import held_out, held_out_measures
from torch import Tensor, nn
from torch.nn import functional

from tests.trainer.texts import OBJECTIVES, VOCABULARY, documents, everything, special, text, training

CPU = torch.device("cpu")


LENGTH = 16
TEXTS = [text([documents(6), documents(3, seed=1)], "a"), text([documents(4, seed=2)], "b")]


def objective(name: str, length: int = LENGTH) -> Objective:
    return objective_of(training(name, length), special())


class Judge(nn.Module):
    """Stands in for a model of any family: fixed logits for each token that it reads, of both heads."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(VOCABULARY, 8)
        self.answer = nn.Linear(8, VOCABULARY)

    def forward(self, tokens: Tensor, decoder_tokens: Tensor | None = None, **_: Tensor) -> dict[str, Tensor]:
        read = self.embedding(tokens if decoder_tokens is None else decoder_tokens)
        return {"tokens": self.answer(read), "next_sentence": read.mean(1)[:, :2]}


@pytest.mark.parametrize("length", [8, 32, 1000, 5000])
def test_every_token_of_a_text_but_the_first_is_predicted_once(length: int) -> None:
    data = held_out(objective("causal-lm", length), TEXTS)
    predicted: list[list[int]] = [[], []]
    for number, group in enumerate(data.groups):
        _, targets = data.read(number)
        predicted[group[0][0]] += targets["tokens"].flatten().tolist()
    assert predicted == [everything(one)[1:].tolist() for one in TEXTS]
    assert data.samples == sum(-(-(len(one) - 1) // length) for one in TEXTS)


def test_fewer_samples_are_spread_over_the_texts() -> None:
    data = held_out(objective("causal-lm"), TEXTS, most=5)
    items = [item for group in data.groups for item in group]
    whole = [item for group in held_out(objective("causal-lm"), TEXTS).groups for item in group]
    assert items == [whole[place * len(whole) // 5] for place in range(5)]
    assert {number for number, _ in items} == {0, 1}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_measures_are_those_of_all_samples(name: str) -> None:
    model, data = Judge(), held_out(objective(name), TEXTS)
    logits: dict[str, list[Tensor]] = {}
    targets: dict[str, list[Tensor]] = {}
    with torch.no_grad():
        for group in range(len(data.groups)):
            inputs, asked = data.read(group)
            found = model(**inputs)
            for head, rows in asked.items():
                logits.setdefault(head, []).append(found[head].flatten(0, -2))
                targets.setdefault(head, []).append(rows.flatten())
    measures = held_out_measures(model, data, CPU)
    assert model.training, "it was in training mode and still is"
    heads = {head: (torch.cat(logits[head]), torch.cat(targets[head])) for head in logits}
    losses = {head: functional.cross_entropy(*pair).item() for head, pair in heads.items()}
    assert measures["validation_loss"] == pytest.approx(sum(losses.values()), rel=1e-5)
    for head, (scores, wanted) in heads.items():
        counts = wanted != IGNORED
        share = (scores.argmax(-1) == wanted)[counts].double().mean().item()
        assert measures["accuracy" if head == "tokens" else f"{head}_accuracy"] == pytest.approx(share)
        assert ("next_sentence" in heads) == (f"{head}_loss" in measures)
        if f"{head}_loss" in measures:
            assert measures[f"{head}_loss"] == pytest.approx(losses[head], rel=1e-5)
    for number, name_of_text in enumerate(("a", "b")):
        alone = held_out_measures(model, held_out(objective(name), [TEXTS[number]]), CPU)
        assert measures[f"validation_loss_{name_of_text}"] == alone["validation_loss"]
        assert not any(measure.startswith("validation_loss_") for measure in alone)


def test_what_is_held_out_is_the_same_whatever_the_seed_of_training() -> None:
    one, other = (
        held_out(objective_of(section, special()), TEXTS)
        for section in (training("masked-lm", LENGTH), training("masked-lm", LENGTH).model_copy(update={"seed": 7}))
    )
    assert all(torch.equal(one.read(group)[1]["tokens"], other.read(group)[1]["tokens"]) for group in range(len(one.groups)))


class WaitsForOthers(Exception):
    """A process has computed its share and cannot go on alone."""


class Peers:
    """The processes of a group, one after the other: the last one is told what all of them computed."""

    def __init__(self, world_size: int) -> None:
        self.world_size = world_size
        self.sums: list[dict[int, Any]] = []

    def process(self, rank: int) -> Group:
        place = Place(rank, self.world_size, rank, self.world_size, 0)
        return cast(Group, SimpleNamespace(place=place, gather=self._gather))

    def _gather(self, sums: dict[int, Any]) -> list[dict[int, Any]]:
        self.sums.append(sums)
        if len(self.sums) < self.world_size:
            raise WaitsForOthers
        return self.sums


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("world", [2, 3, 7, 40])
def test_any_number_of_processes_finds_the_same_to_the_last_bit(
    name: str, world: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validate, "GROUP_TOKENS", 64)
    model = Judge()
    data = held_out(objective(name), TEXTS, most=60)
    alone = held_out_measures(model, data, CPU)
    peers, passes = Peers(world), list[int]()
    model.register_forward_hook(lambda *_: passes.append(len(peers.sums)))
    for rank in range(world - 1):
        with pytest.raises(WaitsForOthers):
            held_out_measures(model, data, CPU, peers.process(rank))
    assert held_out_measures(model, data, CPU, peers.process(world - 1)) == alone
    each = {passes.count(rank) for rank in range(world)}
    assert each == {-(-len(data.groups) // world)}, "as many passes each: under ZeRO 3 they go together"
