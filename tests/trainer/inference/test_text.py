"""Tokens to text as they come, with tokenizers that cut characters and ones that take spaces away."""

from __future__ import annotations

import pytest
from pretrain_trainer.inference.text import INCOMPLETE, TextStream
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers import models as tokenizer_models

from tests.trainer.inference.models import CHINESE, tokenizer

TEXT = f"def f(x): return x\n{CHINESE} 🎉 end"


@pytest.fixture(scope="module")
def bytewise() -> Tokenizer:
    return tokenizer(framed=False)


def test_pieces_are_whole_characters_and_make_the_text(bytewise: Tokenizer) -> None:
    tokens = bytewise.encode(TEXT).ids
    stream = TextStream(bytewise.decode)
    pieces = [stream.feed(token) for token in tokens]
    assert not any(INCOMPLETE in piece for piece in pieces)
    assert pieces.count("") > 2 * len(CHINESE) - 8, "most tokens of a Chinese character are no character"
    assert (stream.end(), stream.text, "".join(pieces)) == ("", TEXT, TEXT)


def test_what_never_becomes_a_character_comes_at_the_end(bytewise: Tokenizer) -> None:
    tokens = bytewise.encode("a好").ids[:-1]
    stream = TextStream(bytewise.decode)
    assert [stream.feed(token) for token in tokens] == ["a", *[""] * (len(tokens) - 1)]
    assert stream.end() == INCOMPLETE
    assert stream.text == bytewise.decode(tokens)


def test_a_space_at_the_beginning_of_an_answer_stays() -> None:
    """Metaspace's decoder takes it from the first word that it is given."""
    words = {"▁one": 0, "▁two": 1, "▁three": 2, "[UNK]": 3}
    made = Tokenizer(tokenizer_models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    assert made.decode([1, 2]) == "two three"
    stream = TextStream(made.decode, prompt=[0])
    assert [stream.feed(1), stream.feed(2)] == [" two", " three"]
    stream = TextStream(made.decode)
    assert [stream.feed(1), stream.feed(2)] == ["two", " three"]


@pytest.mark.parametrize(
    ("stops", "text", "told"),
    [
        (("公园",), "我们去公园散步", "我们去"),
        (("\n\n", "END"), "one\ntwo END three", "one\ntwo "),
        (("ab", "b"), "xxab", "xx"),
        (("aab",), "aaaab!", "aa"),
        (("never",), "to the end of neve", "to the end of neve"),
    ],
)
def test_a_text_ends_at_a_stop_and_nothing_of_it_is_told(
    bytewise: Tokenizer, stops: tuple[str, ...], text: str, told: str
) -> None:
    stream = TextStream(bytewise.decode, stop=stops)
    pieces = []
    for token in bytewise.encode(text).ids:
        pieces.append(stream.feed(token))
        assert told.startswith("".join(pieces)), "what was told cannot be taken back"
        if stream.stopped:
            break
    pieces.append(stream.end())
    assert (stream.text, "".join(pieces), stream.stopped) == (told, told, told != text)
