"""masked-lm+next-sentence: pairs of sentences of one document, and of two."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pretrain_trainer.objectives.pairs import MaskedPairs
from pretrain_trainer.order import chance_at
from pretrain_trainer.sample import IGNORED
from pretrain_trainer.text import Text

from tests.trainer.texts import CLS, END, MASK, PAD, SEP, documents, everything, special, text, training

LENGTH = 64
TEXT = text([documents(60), [], documents(40, seed=1)])
BORING = text([documents(60, sentences=(1, 1)), [[[1, 2], [1]]], documents(60, seed=2, sentences=(1, 1))])


def objective(length: int = LENGTH) -> MaskedPairs:
    return MaskedPairs(training("masked-lm+next-sentence", length), special())


@pytest.mark.parametrize("source", [TEXT, BORING])
@pytest.mark.parametrize("length", [8, LENGTH, 256])
def test_pairs_begin_with_sentences_and_lie_in_documents(source: Text, length: int) -> None:
    asked = objective(length)
    sentences = set(source.sentences(range(len(source))).tolist())
    for index in range(200):
        place = index % asked.window.samples(len(source))
        pair = asked.pair(source, place, chance_at("test", 0, index))
        whose, other = source.document_at(pair.first.start), source.document_at(pair.second.start)
        assert len(pair.first) > 0
        assert len(pair.second) > 0
        assert len(pair.first) + len(pair.second) <= length - 3
        assert pair.first.stop < whose.stop
        assert pair.second.stop < other.stop, "not even the end of its document"
        assert pair.second.start in sentences
        assert pair.first.stop in sentences
        assert pair.first.start in sentences or len(pair.first) == (length - 3) // 2
        assert (whose == other) == pair.follows
        if pair.follows:
            assert pair.second.start == pair.first.stop
        assert pair.second.stop == min(pair.second.start + length - 3 - len(pair.first), other.stop - 1), "as long as it may"


def test_half_of_the_pairs_follow() -> None:
    asked = objective()
    places = asked.window.samples(len(TEXT))
    follow = [asked.pair(TEXT, index % places, chance_at("test", 0, index)).follows for index in range(2000)]
    assert np.mean(follow) == pytest.approx(0.5, abs=4 * math.sqrt(0.25 / 2000))


def test_the_others_are_from_anywhere_else() -> None:
    """By documents: each in proportion to its length, for it is a token that is drawn."""
    asked = objective()
    pairs = [asked.pair(TEXT, 7, chance_at("test", 0, index)) for index in range(3000)]
    other = [TEXT.document_at(pair.second.start).start for pair in pairs if not pair.follows]
    counts = {start: other.count(start) for start in other}
    assert len(counts) > 80, "nearly all of the hundred"
    longest = max((TEXT.document_at(start) for start in counts), key=len)
    assert counts[longest.start] / len(other) == pytest.approx(len(longest) / len(TEXT), rel=0.4)


def test_a_sample_frames_tells_apart_and_fills_up() -> None:
    asked = objective()
    tokens = everything(TEXT)
    filled = hidden = 0
    for index in range(100):
        pair = asked.pair(TEXT, index, chance_at("test", 0, index))
        sample = asked.sample(TEXT, index, chance_at("test", 0, index))
        read, segments, mask = (sample.inputs[name] for name in ("tokens", "segments", "mask"))
        first, second, used = len(pair.first), len(pair.second), len(pair.first) + len(pair.second) + 3
        assert {len(row) for row in sample.inputs.values()} == {len(sample.targets["tokens"])} == {LENGTH}
        assert mask.tolist() == [1] * used + [0] * (LENGTH - used)
        assert segments.tolist() == [0] * (first + 2) + [1] * (second + 1) + [0] * (LENGTH - used)
        assert (read[0], read[first + 1], read[used - 1]) == (CLS, SEP, SEP)
        assert set(read[used:]) <= {PAD}
        whole = np.concatenate([[CLS], tokens[pair.first], [SEP], tokens[pair.second], [SEP]])
        targets = sample.targets["tokens"][:used]
        assert (read[:used] == whole)[targets == IGNORED].all()
        assert (targets == whole)[targets != IGNORED].all()
        assert set(targets[[0, first + 1, used - 1]]) == {IGNORED}
        assert set(sample.targets["tokens"][used:]) <= {IGNORED}
        assert sample.targets["next_sentence"].shape == ()
        assert int(sample.targets["next_sentence"]) == (0 if pair.follows else 1)
        assert END not in whole
        filled += used == LENGTH
        hidden += int((read == MASK).sum())
    assert filled > 20
    assert hidden > 100


def test_texts_of_which_no_pairs_can_be_made_are_named() -> None:
    asked = objective()
    assert asked.fault(TEXT) is None
    assert asked.fault(BORING) is None, "one document has two"
    assert "only one document" in str(asked.fault(text([documents(1, sentences=(9, 9))])))
    assert "no document with two sentences" in str(asked.fault(text([documents(50, sentences=(1, 1))])))
