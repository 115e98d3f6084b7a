"""The generation loop against transformers, and texts of a batch against each alone."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from pretrain_trainer.generate import Sampling, choose, filtered, generate, generate_batch
from pretrain_trainer.model.language_model import LanguageModel
from pretrain_trainer.model.llama import Llama
from transformers import LlamaForCausalLM, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from tests.trainer.test_model import SHAPES, VOCAB, theirs

PROMPTS = [[5, 6, 7, 8, 9], [300], list(range(40, 77)), [12, 13, 14, 15, 16], [7] * 20]


def lively(name: str) -> LanguageModel:
    """A model whose next token depends on all before it: fresh weights say nearly the same whatever they are asked."""
    torch.manual_seed(0)
    model = Llama(SHAPES[name], VOCAB).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8)
    return model


def greedily(model: LanguageModel, prompts: list[list[int]], limits: list[int]) -> list[list[int]]:
    return generate_batch(model, prompts, limits, Sampling(), (), [torch.Generator() for _ in prompts])


@pytest.mark.parametrize("name", SHAPES)
def test_greedy_tokens_are_those_of_transformers(name: str) -> None:
    model = lively(name)
    other: LlamaForCausalLM = theirs(SHAPES[name]).eval()
    other.load_state_dict(model.state_dict())
    prompt = torch.tensor([PROMPTS[2]])
    expected = other.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=100,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    made = greedily(model, [PROMPTS[2]], [100])[0]
    assert made == expected[0, len(PROMPTS[2]) :].tolist()
    assert len(set(made)) > 20, "a model that repeats itself shows nothing"


@pytest.mark.parametrize("name", SHAPES)
def test_a_batch_answers_as_each_prompt_alone(name: str) -> None:
    model = lively(name)
    limits = [60, 3, 60, 25, 60]
    together = greedily(model, PROMPTS, limits)
    assert together == [greedily(model, [prompt], [limit])[0] for prompt, limit in zip(PROMPTS, limits, strict=True)]
    assert [len(new) for new in together] == limits


def test_padding_changes_no_logits() -> None:
    model = lively("untied, grouped")
    prompt = torch.tensor([PROMPTS[0]])
    cache = model.new_cache(1, 12)
    cache.padding = torch.tensor([7])
    with torch.no_grad():
        padded = model(torch.cat([torch.zeros(1, 7, dtype=torch.long), prompt], dim=1), cache)[:, 7:]
        torch.testing.assert_close(padded, model(prompt), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", SHAPES)
def test_the_cache_changes_no_token(name: str) -> None:
    model = lively(name)
    prompt = PROMPTS[0]
    made = generate(model, prompt, max_new_tokens=20, temperature=0, top_p=1, end=-1, generator=torch.Generator())
    tokens = list(prompt)
    for _ in range(20):
        tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
    assert made == tokens[len(prompt) :]
    with torch.no_grad():
        cache = model.new_cache(1, 25)
        pieces = [model(torch.tensor([prompt]), cache)] + [model(torch.tensor([[token]]), cache) for token in made[:-1]]
        torch.testing.assert_close(torch.cat(pieces, dim=1), model(torch.tensor([prompt + made[:-1]])), rtol=1e-4, atol=1e-3)


def test_generation_stops_at_the_end_of_text() -> None:
    greedy = partial(
        generate,
        lively("tied, grouped"),
        [5, 6],
        max_new_tokens=20,
        temperature=0.0,
        top_p=1.0,
        generator=torch.Generator(),
    )
    made = greedy(end=-1)
    assert greedy(end=made[3]) == made[: made.index(made[3])]


def test_who_is_told_of_tokens_may_end_a_text() -> None:
    model = lively("tied, grouped")
    heard: list[tuple[int, int]] = []

    def told(row: int, token: int) -> bool:
        heard.append((row, token))
        return row == 1 and len([place for place, _ in heard if place == 1]) == 4

    generators = [torch.Generator() for _ in range(3)]
    made = generate_batch(model, PROMPTS[:3], [9, 9, 9], Sampling(), (), generators, told)
    assert [len(new) for new in made] == [9, 4, 9]
    assert [[token for place, token in heard if place == row] for row in range(3)] == made


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("top_k", [None, 1, 7, 5000])
@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.3, 1e-6])
def test_sampling_keeps_what_transformers_keeps(temperature: float, top_k: int | None, top_p: float) -> None:
    torch.manual_seed(5)
    logits = torch.randn(16, 500) * 3
    expected = TemperatureLogitsWarper(temperature)(torch.empty(0), logits)
    expected = expected if top_k is None else TopKLogitsWarper(top_k)(torch.empty(0), expected)
    expected = expected if top_p == 1 else TopPLogitsWarper(top_p)(torch.empty(0), expected)
    ours = filtered(logits, Sampling(temperature, top_k, top_p))
    assert torch.equal(ours.isinf(), expected.isinf())
    torch.testing.assert_close(torch.softmax(ours, -1), torch.softmax(expected, -1))


def test_sampling_is_seeded_and_keeps_to_the_likeliest() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))

    def drawn(top_p: float, temperature: float = 1.0, seed: int = 3) -> list[int]:
        generator = torch.Generator().manual_seed(seed)
        return [choose(logits, Sampling(temperature, None, top_p), [generator])[0] for _ in range(400)]

    assert drawn(1.0) == drawn(1.0)
    assert drawn(1.0) != drawn(1.0, seed=4)
    assert set(drawn(1.0)) == {0, 1, 2, 3}
    assert set(drawn(0.7)) == {0, 1}
    assert set(drawn(0.5)) == {0}
    assert drawn(1.0).count(0) / 400 == pytest.approx(0.5, abs=0.07)
    assert drawn(1.0, temperature=0.25).count(0) / 400 > 0.8
    assert drawn(1.0, temperature=1e-30).count(0) == 400
    assert choose(logits, Sampling(0), [torch.Generator()]) == [0]


def test_a_sampled_text_does_not_depend_on_its_neighbours() -> None:
    model = lively("tied, grouped")

    def sampled(rows: list[int]) -> list[list[int]]:
        generators = [torch.Generator().manual_seed(row) for row in rows]
        limits = [30] * len(rows)
        return generate_batch(model, [PROMPTS[row] for row in rows], limits, Sampling(0.7, 50, 0.9), (), generators)

    assert sampled([0, 1, 2]) == [sampled([row])[0] for row in range(3)]
