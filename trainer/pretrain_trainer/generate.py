"""Text from a model: one token at a time, with a cache of keys and values."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pretrain_trainer.model.language_model import LanguageModel


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. The filters work one after the other: temperature, top_k, top_p."""

    temperature: float = 0.0
    """0 takes the likeliest token."""
    top_k: int | None = None
    """So many of the likeliest tokens are kept (Fan et al. 2018); None keeps all."""
    top_p: float = 1.0
    """The likeliest tokens whose probabilities sum to it are kept (Holtzman et al. 2020)."""


def generate(
    model: LanguageModel,
    prompt: Sequence[int],
    *,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    end: int,
    generator: torch.Generator,
) -> list[int]:
    """Continues `prompt` (at least one token). Returns the new tokens, without `end`, at which it stops.

    generator: on CPU, so that a seed gives the same text on any device.
    """
    sampling = Sampling(temperature, None, top_p)
    return generate_batch(model, [prompt], [max_new_tokens], sampling, {end}, [generator])[0]


@torch.no_grad()
def generate_batch(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    limits: Sequence[int],
    sampling: Sampling,
    ends: Collection[int],
    generators: Sequence[torch.Generator],
    told: Callable[[int, int], bool] = lambda row, token: False,
) -> list[list[int]]:
    """Continues all `prompts` (at least one token each) at once; shorter ones are padded on the left.

    limits: most new tokens of each. ends: tokens at which a text stops; they are no part of it. generators: one for each
    prompt, on CPU, so that a text depends neither on the device nor on its neighbours. told: called with each prompt's place
    and its next token; when it returns True, that was the last one.
    """
    device = next(model.parameters()).device
    longest = max(map(len, prompts))
    padding = [longest - len(prompt) for prompt in prompts]
    cache = model.new_cache(len(prompts), longest + max(limits))
    if any(padding):
        cache.padding = torch.tensor(padding, device=device)
    tokens = torch.tensor([[0] * pad + list(prompt) for pad, prompt in zip(padding, prompts, strict=True)], device=device)
    new: list[list[int]] = [[] for _ in prompts]
    live = list(range(len(prompts)))
    while True:
        chosen = choose(model.next_logits(tokens, cache).float(), sampling, [generators[row] for row in live])
        staying = []
        for place, (row, token) in enumerate(zip(live, chosen, strict=True)):
            if token in ends:
                continue
            new[row].append(token)
            if not told(row, token) and len(new[row]) < limits[row]:
                staying.append(place)
        if not staying:
            return new
        if len(staying) < len(live):
            live, chosen = [live[place] for place in staying], [chosen[place] for place in staying]
            cache.keep(torch.tensor(staying, device=device))
        tokens = torch.tensor(chosen, device=device)[:, None]


def choose(logits: Tensor, sampling: Sampling, generators: Sequence[torch.Generator]) -> list[int]:
    """The next token of each text, from logits of shape (batch, vocabulary) in fp32."""
    if sampling.temperature == 0:
        return [int(token) for token in logits.argmax(-1).tolist()]
    probabilities = torch.softmax(filtered(logits, sampling), dim=-1).cpu()
    return [
        int(torch.multinomial(row, 1, generator=generator)) for row, generator in zip(probabilities, generators, strict=True)
    ]


def filtered(logits: Tensor, sampling: Sampling) -> Tensor:
    """The logits that are sampled from: divided by the temperature, and -inf where a token is not to be taken."""
    # A shift changes no probability, and keeps a low temperature from making infinities.
    logits = (logits - logits.amax(-1, keepdim=True)) / sampling.temperature
    if sampling.top_k is not None and sampling.top_k < logits.size(-1):
        least = logits.topk(sampling.top_k).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if sampling.top_p < 1:
        sorted_logits, order = logits.sort(dim=-1, descending=True, stable=True)
        probabilities = torch.softmax(sorted_logits, dim=-1)
        # The token that crosses the limit is kept, so there is always one.
        dropped = probabilities.cumsum(-1) - probabilities >= sampling.top_p
        logits = logits.masked_fill(torch.empty_like(dropped).scatter(-1, order, dropped), -torch.inf)
    return logits
