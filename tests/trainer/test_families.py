"""The families whose networks are transformers': the arithmetic of their shapes, their logits, and what is dropped."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from pretrain_trainer.config.presets import Dimensions
from pretrain_trainer.model import build_model
from pretrain_trainer.model.dropout import Draw, SeededDropout, numbers
from pretrain_trainer.model.language_model import LanguageModel, TrainedModel
from torch import Tensor

VOCAB = 320
GPT2 = Dimensions(64, 256, 2, 4, 4, 10_000.0, 1e-5, True, family="gpt2", positions=48)
BERT = replace(GPT2, family="bert", norm_eps=1e-12)
PAIRS = replace(BERT, next_sentence=True)
MARIAN = replace(GPT2, family="marian", encoder_layers=3, decoder_share=0.2)
SHAPES = {"gpt2": GPT2, "bert": BERT, "bert with pairs": PAIRS, "marian": MARIAN}
SHAPES |= {
    f"{name}, untied and odd": odd
    for name, odd in (
        (name, replace(shape, hidden_size=36, intermediate_size=50, layers=1, heads=4, tie_embeddings=False, positions=31))
        for name, shape in SHAPES.items()
    )
}


def model_of(shape: Dimensions, seed: int = 0) -> TrainedModel:
    torch.manual_seed(seed)
    return build_model(shape.family, shape, VOCAB)


def inputs_of(shape: Dimensions, batch: int = 2, length: int = 30) -> dict[str, Tensor]:
    torch.manual_seed(1)
    inputs = {"tokens": torch.randint(0, VOCAB, (batch, length))}
    if shape.family == "bert":
        inputs |= {"segments": torch.randint(0, 2, (batch, length))}
    if shape.family != "gpt2":
        inputs |= {"mask": torch.ones(batch, length, dtype=torch.int64)}
        inputs["mask"][0, -5:] = 0
    if shape.family == "marian":
        inputs |= {"decoder_tokens": torch.randint(0, VOCAB, (batch, 11))}
    return inputs


def logits_of(outputs: Any) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in (outputs.values() if isinstance(outputs, dict) else [outputs])])


@pytest.mark.parametrize("name", SHAPES)
def test_parameters_are_as_many_as_the_arithmetic_says(name: str) -> None:
    model = model_of(SHAPES[name])
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert sum(parameter.numel() for parameter in model.parameters()) == SHAPES[name].parameters(VOCAB)


@pytest.mark.parametrize("name", SHAPES)
def test_all_parameters_learn(name: str) -> None:
    shape = SHAPES[name]
    model = model_of(shape)
    logits_of(model(**inputs_of(shape))).square().sum().backward()  # type: ignore[no-untyped-call]
    for named, parameter in model.named_parameters():
        assert parameter.grad is not None, named
        assert parameter.grad.abs().sum() > 0, named


@pytest.mark.parametrize("name", SHAPES)
def test_weights_follow_from_the_seed(name: str) -> None:
    def weights(seed: int) -> Tensor:
        return torch.cat([parameter.flatten() for parameter in model_of(SHAPES[name], seed).parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize("name", ["gpt2", "bert", "marian"])
def test_weights_start_with_the_spread_that_is_asked_for(name: str) -> None:
    model = model_of(replace(SHAPES[name], init_std=0.1))
    matrices = model.embeddings()
    assert matrices[0].std().item() == pytest.approx(0.1, rel=0.05)


def dropping(share: float, seed: int = 0, place: int = 0) -> SeededDropout:
    dropout = SeededDropout(share, place, Draw(seed, torch.arange(8)))
    return dropout.train()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_as_many_fall_as_are_asked_for_and_the_mean_stays(share: float) -> None:
    x = torch.ones(8, 1000, 33)
    dropped = dropping(share)(x)
    assert (dropped == 0).float().mean().item() == pytest.approx(share, abs=0.005)
    assert dropped.mean().item() == pytest.approx(1, abs=0.02)
    assert dropped[dropped != 0].unique().numel() == 1


def test_numbers_of_seed_sample_and_place_have_nothing_to_do_with_each_other() -> None:
    def drawn(seed: int, sample: int, place: int) -> Tensor:
        return numbers(seed, torch.tensor([sample]), torch.tensor(place), 40_000)[0].double()

    one = drawn(0, 0, 0)
    assert one.mean().item() == pytest.approx(-0.5, abs=600), "of 65536 values"
    assert one.std().item() == pytest.approx(65536 / 12**0.5, rel=0.02)
    for other in (drawn(1, 0, 0), drawn(0, 1, 0), drawn(0, 0, 1), drawn(0, 2**40, 0), one.roll(1), one.roll(4)):
        assert torch.corrcoef(torch.stack([one, other]))[0, 1].abs() < 0.025


def test_a_mask_is_the_samples_own_whoever_stands_beside_it_and_however_long() -> None:
    dropout = dropping(0.3)
    whole = dropout(torch.ones(8, 12, 5))
    dropout.draw.samples = torch.tensor([6, 2])
    assert torch.equal(dropout(torch.ones(2, 12, 5)), whole[[6, 2]])
    assert torch.equal(dropout(torch.ones(2, 7, 5)), whole[[6, 2], :7])


@pytest.mark.parametrize("name", ["gpt2", "bert", "marian"])
class TestDropout:
    def test_masks_follow_from_seed_and_sample_alone(self, name: str) -> None:
        shape = replace(SHAPES[name], dropout=0.1)
        model = model_of(shape).train()
        inputs = inputs_of(shape)

        def logits(*samples: int, seed: int = 5) -> Tensor:
            model.seed_dropout(seed)
            outputs = model(**inputs, sample=torch.tensor(samples))
            assert isinstance(outputs, Tensor)
            return outputs

        assert torch.equal(logits(3, 4), logits(3, 4))
        assert not torch.equal(logits(3, 4), logits(3, 4, seed=6))
        other = logits(3, 9)
        assert torch.equal(other[0], logits(3, 4)[0])
        assert not torch.equal(other[1], logits(3, 4)[1])

    def test_evaluation_drops_nothing(self, name: str) -> None:
        shape = SHAPES[name]
        inputs = inputs_of(shape)
        dropping_model = model_of(replace(shape, dropout=0.5)).eval()
        assert torch.equal(logits_of(dropping_model(**inputs)), logits_of(model_of(shape)(**inputs)))

    def test_it_stands_in_as_many_places_as_theirs(self, name: str) -> None:
        shape = replace(SHAPES[name], dropout=0.1)
        places = [int(module.place) for module in model_of(shape).modules() if isinstance(module, SeededDropout)]
        layers = {"gpt2": 1 + 2 * 2, "bert": 1 + 2 * 2, "marian": 2 + 3 * 2 + 2 * 3}
        assert sorted(places) == list(range(layers[name]))

    def test_activations_computed_again_are_dropped_again(self, name: str) -> None:
        shape = replace(SHAPES[name], dropout=0.2)
        inputs = inputs_of(shape)

        def gradients(recompute: bool) -> list[Tensor]:
            model = model_of(shape).train()
            if recompute:
                model.recompute_activations()
            logits_of(model(**inputs, sample=torch.tensor([3, 4]))).square().sum().backward()  # type: ignore[no-untyped-call]
            return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]

        assert all(torch.equal(a, b) for a, b in zip(gradients(True), gradients(False), strict=True))


def test_gpt2_with_a_cache_continues_as_without_it() -> None:
    model = model_of(GPT2).eval()
    assert isinstance(model, LanguageModel)
    tokens = torch.randint(1, VOCAB, (3, 12))
    with torch.no_grad():
        whole = model(tokens)
        cache = model.new_cache(3, 12)
        torch.testing.assert_close(model.next_logits(tokens[:, :8], cache), whole[:, 7], rtol=0, atol=1e-5)
        cache.keep(torch.tensor([2, 0]))
        for place in range(8, 12):
            logits = model.next_logits(tokens[[2, 0], place : place + 1], cache)
            torch.testing.assert_close(logits, whole[[2, 0], place], rtol=0, atol=1e-5)


def test_gpt2_does_not_see_padding_before_a_text() -> None:
    model = model_of(GPT2).eval()
    assert isinstance(model, LanguageModel)
    tokens = torch.randint(1, VOCAB, (1, 7))
    cache = model.new_cache(2, 12)
    cache.padding = torch.tensor([4, 0])
    beside = torch.randint(1, VOCAB, (1, 11))
    padded = torch.cat([torch.nn.functional.pad(tokens, (4, 0)), beside])
    with torch.no_grad():
        logits = model.next_logits(padded, cache)
        torch.testing.assert_close(logits, torch.cat([model(tokens)[:, -1], model(beside)[:, -1]]), rtol=0, atol=1e-5)
        further = torch.tensor([[5], [6]])
        logits = model.next_logits(further, cache)
        alone = model(torch.cat([tokens, further[:1]], 1))[:, -1]
        torch.testing.assert_close(logits[:1], alone, rtol=0, atol=1e-5)
