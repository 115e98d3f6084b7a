"""On one batch with the same weights, the loss of each objective is the one that transformers computes for it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pretrain_trainer.config.presets import Dimensions
from pretrain_trainer.config.window import window_of
from pretrain_trainer.mixture import Mixture
from pretrain_trainer.model import build_model
from pretrain_trainer.model.adapter import Adapter
from pretrain_trainer.objective import Tensors, answers, loss_sum
from pretrain_trainer.objectives import objective_of
from pretrain_trainer.samples import TextSamples
from transformers.models.marian.modeling_marian import shift_tokens_right

from tests.trainer.texts import OBJECTIVES, PAD, VOCABULARY, documents, special, text, training

LENGTH, BATCH = 40, 6
FAMILIES = {"causal-lm": "gpt2", "span-corruption": "marian"}
TOLERANCE = 1e-6
"""Relative, in fp32: the sums are the same, in another order."""


def model_of(objective: str) -> Adapter:
    torch.manual_seed(0)
    shape: dict[str, Any] = {"family": FAMILIES.get(objective, "bert"), "encoder_layers": 2, "positions": LENGTH + 1}
    found = Dimensions(32, 64, 2, 4, 4, 10_000.0, 1e-5, True, next_sentence=objective == "masked-lm+next-sentence", **shape)
    model = build_model(found.family, found, VOCABULARY)
    assert isinstance(model, Adapter)
    return model


def batch_of(objective: str) -> tuple[Tensors, Tensors]:
    whole = text([documents(40)])
    section = training(objective, LENGTH)
    mixture = Mixture(("a",), (window_of(section).samples(len(whole)),), (1,), 3)
    samples = TextSamples(objective_of(section, special()), [whole], mixture)
    return samples.together(samples.at(range(BATCH)))


def theirs(objective: str, model: Adapter, inputs: Tensors, targets: Tensors) -> Any:
    """Their loss, a tensor."""
    network = model.network
    if objective == "causal-lm":  # labels are the tokens themselves; it looks one further for each
        window = torch.cat([inputs["tokens"], targets["tokens"][:, -1:]], 1)
        return network(window, labels=window).loss
    if objective == "span-corruption":
        asked = targets["tokens"]
        assert torch.equal(inputs["decoder_tokens"], shift_tokens_right(asked, PAD, PAD)), "what it would make of the labels"
        decoder = inputs["decoder_tokens"]
        return network(inputs["tokens"], attention_mask=inputs["mask"], decoder_input_ids=decoder, labels=asked).loss
    named = {"attention_mask": inputs.get("mask"), "token_type_ids": inputs.get("segments")}
    if objective == "masked-lm+next-sentence":
        named["next_sentence_label"] = targets["next_sentence"]
    return network(inputs["tokens"], labels=targets["tokens"], **named).loss


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_loss_is_that_of_transformers(objective: str) -> None:
    model, (inputs, targets) = model_of(objective), batch_of(objective)
    with torch.no_grad():
        logits = answers(model(**inputs))
        means = [loss_sum(logits[head], asked) / (asked != -100).sum() for head, asked in targets.items()]
        expected = theirs(objective, model, inputs, targets)
    assert set(logits) == set(targets)
    assert sum(mean.item() for mean in means) == pytest.approx(expected.item(), rel=TOLERANCE)
