"""span-corruption: encoder and decoder together hold the text, and shapes are the same for all samples."""

from __future__ import annotations

import numpy as np
import pytest
from pretrain_stage.errors import UserError
from pretrain_trainer.objectives.spans import SpanCorruption, composition
from pretrain_trainer.order import chance_at
from pretrain_trainer.sample import IGNORED

from tests.trainer.texts import END, PAD, SENTINELS, documents, everything, special, text, training

LENGTH = 128
TEXT = text([documents(120), [], documents(80, seed=1)])


def objective(**masking: object) -> SpanCorruption:
    return SpanCorruption(training("span-corruption", LENGTH, **masking), special())


def put_together(read: list[int], asked: list[int]) -> list[int]:
    """The text again: what stands behind each sentinel of the decoder, in the place of that sentinel at the encoder."""
    spans: dict[int, list[int]] = {}
    for token in asked:
        if token in SENTINELS:
            spans[token] = []
        else:
            spans[next(reversed(spans))].append(token)
    assert list(spans) == [token for token in read if token in SENTINELS], "each once, in order"
    return [token for one in read for token in spans.get(one, [one])]


@pytest.mark.parametrize(("fraction", "mean"), [(0.15, 3.0), (0.5, 3.0), (0.15, 1.0), (0.3, 10.0)])
def test_encoder_and_decoder_hold_the_text_between_them(fraction: float, mean: float) -> None:
    asked = objective(fraction=fraction, meanSpan=mean)
    window = asked.window.read
    tokens = everything(TEXT)
    for place in range(asked.window.samples(len(tokens))):
        sample = asked.sample(TEXT, place, chance_at("test", 0, place))
        read, wanted = sample.inputs["tokens"].tolist(), sample.targets["tokens"].tolist()
        assert len(read) == LENGTH
        assert {len(read), len(sample.inputs["mask"])} == {LENGTH}
        assert asked.targets == {"tokens": len(wanted)}
        assert sample.inputs["decoder_tokens"].tolist() == [PAD, *wanted[:-1]], "one place later, behind a pad token"
        assert wanted.pop() == END
        used = int(sample.inputs["mask"].sum())
        assert used >= LENGTH - 1, "the encoder is filled"
        assert read[used - 1] == END
        assert put_together(read[: used - 1], wanted) == tokens[place * window : (place + 1) * window].tolist()
        assert sum(token not in SENTINELS for token in wanted) == round(window * fraction)
        assert IGNORED not in wanted


def test_spans_are_anywhere_and_of_any_length() -> None:
    """All cuts of 5 into 3 parts are equally likely."""
    counts: dict[tuple[int, ...], int] = {}
    for index in range(6000):
        found = tuple(composition(5, 3, chance_at("test", 0, index)).tolist())
        counts[found] = counts.get(found, 0) + 1
    assert len(counts) == 6
    assert all(sum(found) == 5 and min(found) > 0 for found in counts)
    assert set(counts.values()) <= set(range(1000 - 120, 1000 + 120)), counts
    assert composition(4, 1, chance_at("test", 0, 0)).tolist() == [4]
    assert composition(4, 4, chance_at("test", 0, 0)).tolist() == [1, 1, 1, 1]


def test_any_token_may_be_taken_but_the_first() -> None:
    asked = objective()
    tokens = everything(TEXT)[: asked.window.read]
    drawn = [asked.sample(TEXT, 0, chance_at("test", 0, index)).targets["tokens"] for index in range(1000)]
    taken = np.sum([np.isin(tokens, targets) for targets in drawn], axis=0)
    assert (taken[0], taken[-1]) == (0, 1000), "it begins with what is kept and ends with what is taken"
    assert taken[20:-20].min() > 80
    assert taken[20:-20].max() < 200


@pytest.mark.parametrize("tokens", [2, 3, 17])
def test_the_rest_of_a_text_is_filled_up(tokens: int) -> None:
    short = text([[[[tokens - 1]]]])
    sample = objective().sample(short, 0, chance_at("test", 0, 0))
    used, wanted = int(sample.inputs["mask"].sum()), sample.targets["tokens"]
    asked = wanted[wanted != IGNORED].tolist()
    assert put_together(sample.inputs["tokens"][: used - 1].tolist(), asked[:-1]) == everything(short).tolist()
    assert set(sample.inputs["tokens"][used:]) == {PAD}
    assert len(wanted) == len(sample.inputs["decoder_tokens"]) == objective().spans.decoder


def test_too_few_sentinels_are_refused() -> None:
    spans = objective().spans.count
    with pytest.raises(
        UserError, match=rf"tokenizer has 2 sentinels, but a sample of span-corruption has {spans} spans; set"
    ):
        SpanCorruption(training("span-corruption", LENGTH), special(sentinel_ids=(5, 6)))
