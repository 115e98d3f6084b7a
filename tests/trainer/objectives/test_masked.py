"""masked-lm: what is hidden, how often, and that words are hidden whole."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pretrain_stage.errors import UserError
from pretrain_trainer.objectives.masked import MaskedLM
from pretrain_trainer.order import chance_at
from pretrain_trainer.sample import IGNORED

from tests.trainer.texts import CLS, END, FIRST, MASK, PAD, SEP, documents, everything, special, text, training

LENGTH = 64
TEXT = text([documents(120), [], documents(80, seed=1)])


def objective(**masking: object) -> MaskedLM:
    return MaskedLM(training("masked-lm", LENGTH, **masking), special())


def test_a_sample_is_a_window_between_cls_and_sep() -> None:
    asked = objective()
    tokens = everything(TEXT)
    for place in range(5):
        sample = asked.sample(TEXT, place, chance_at("test", 0, place))
        read, targets = sample.inputs["tokens"], sample.targets["tokens"]
        assert (read[0], read[-1], targets[0], targets[-1]) == (CLS, SEP, IGNORED, IGNORED)
        assert list(sample.inputs) == ["tokens"], "a mask is for padding, and there is none"
        window = tokens[place * (LENGTH - 2) : (place + 1) * (LENGTH - 2)]
        kept = targets[1:-1] == IGNORED
        assert (read[1:-1][kept] == window[kept]).all()
        assert (targets[1:-1][~kept] == window[~kept]).all()
    assert asked.window.samples(len(tokens)) == len(tokens) // (LENGTH - 2)
    assert asked.targets is None, "it differs from sample to sample"


@pytest.mark.parametrize(("fraction", "whole_words"), [(0.15, True), (0.15, False), (0.4, True)])
def test_shares_are_those_asked_for(fraction: float, whole_words: bool) -> None:
    """Within four standard errors over thousands of samples; words are hidden together, so their number counts for that."""
    asked = objective(fraction=fraction, wholeWords=whole_words)
    tokens = everything(TEXT)
    places = asked.window.samples(len(tokens))
    ordinary = chosen = masked = replaced = 0
    for index in range(3000):
        place = index % places
        window = tokens[place * (LENGTH - 2) : (place + 1) * (LENGTH - 2)]
        sample = asked.sample(TEXT, place, chance_at("test", 1, index))
        read, wanted = sample.inputs["tokens"][1:-1], sample.targets["tokens"][1:-1] != IGNORED
        ordinary += int((window != END).sum())
        chosen += int(wanted.sum())
        masked += int((read[wanted] == MASK).sum())
        replaced += int(((read != window) & (read != MASK) & wanted).sum())
        assert (read[~wanted] == window[~wanted]).all()
        assert not wanted[window == END].any(), "the end of a document is no word"
        assert (read >= FIRST)[wanted & (read != MASK)].all(), "no special token is put in"
    tokens_of_a_word = 4 if whole_words else 1
    assert chosen / ordinary == pytest.approx(
        fraction, abs=4 * math.sqrt(fraction * (1 - fraction) * tokens_of_a_word / ordinary)
    )
    for count, share in ((masked, 0.8), (replaced, 0.1)):
        assert count / chosen == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / chosen))


def test_words_are_hidden_whole() -> None:
    asked = objective(fraction=0.3)
    several = 0
    for place in range(50):
        sample = asked.sample(TEXT, place, chance_at("test", 2, place))
        wanted = sample.targets["tokens"][1:-1] != IGNORED
        starts = TEXT.words(range(place * (LENGTH - 2), (place + 1) * (LENGTH - 2)))
        for word in np.split(wanted, np.flatnonzero(starts)):
            assert len(set(word.tolist())) < 2
            several += len(word) > 1 and bool(word[0])
    assert several > 100, "words of several tokens were among them"


def test_the_same_place_is_masked_otherwise_at_another_index() -> None:
    asked = objective()
    first, again, other = (asked.sample(TEXT, 3, chance_at("test", 0, index)) for index in (3, 3, 4))
    assert np.array_equal(first.inputs["tokens"], again.inputs["tokens"])
    assert np.array_equal(first.targets["tokens"], again.targets["tokens"])
    assert not np.array_equal(first.targets["tokens"], other.targets["tokens"])


def test_the_rest_of_a_text_is_filled_up() -> None:
    short = text([documents(1, sentences=(2, 2))])
    sample = objective().sample(short, 0, chance_at("test", 0, 0))
    mask = sample.inputs["mask"]
    assert mask.tolist() == [1] * (len(short) + 2) + [0] * (LENGTH - len(short) - 2)
    assert set(sample.inputs["tokens"][mask == 0]) == {PAD}
    assert set(sample.targets["tokens"][mask == 0]) == {IGNORED}
    assert len(sample.targets["tokens"]) == LENGTH


def test_a_tokenizer_without_a_mask_token_is_refused() -> None:
    with pytest.raises(UserError, match=r"spec.training.objective: it needs a token <\|mask\|> or \[MASK\]"):
        MaskedLM(training("masked-lm", LENGTH), special(mask_id=None))
