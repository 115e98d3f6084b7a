"""A word-level vocabulary: each entry is a word, a punctuation mark or a Chinese word; anything else becomes <unk>.

Words between blanks are found by their characters, Chinese ones by segmentation: rjieba when words are counted, and afterwards
the likeliest way to cut a run of Chinese characters into entries of the vocabulary, as jieba does it with its own. That is what
a Unigram model computes, so the whole is one tokenizer.json, which needs no jieba where it is used.

A Unigram model would also cut an unknown word into the known ones inside it (zebra into ze, bra). So a normalizer sets each
word of letters and digits in brackets, ⟨zebra⟩: an entry with both brackets fits the whole word or nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

LEFT, RIGHT = "⟨", "⟩"
IN_WORD = r"[\p{L}\p{M}\p{N}_&&[^\p{Han}]]"
"""A character of a word between blanks, in Oniguruma's syntax."""


@dataclass
class Words:
    """How often each word occurs, and in how many of the texts."""

    times: Counter[str] = field(default_factory=Counter)
    texts_with: Counter[str] = field(default_factory=Counter)
    texts: int = 0

    def count(self, words: Sequence[str]) -> None:
        """The words of one more text."""
        self.times.update(words)
        self.texts_with.update(set(words))
        self.texts += 1


def count_words(texts: Iterable[str], case_fold: bool) -> Words:
    """The words of all texts, as entries of the vocabulary."""
    import rjieba

    found = Words()
    normalizer, splitter = word_normalizer(case_fold), word_splitter()
    for text in texts:
        words: list[str] = []
        for piece, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)):
            words += [piece] if piece.startswith(LEFT) or len(piece) == 1 else rjieba.cut(piece)
        found.count(words)
    return found


def choose(words: Words, room: int, min_frequency: int, max_document_share: float, stop_words: frozenset[str]) -> list[str]:
    """The most frequent words that are neither too rare nor in too many texts nor stop words, at most `room`."""
    most = max_document_share * words.texts
    chosen = [
        word
        for word, times in words.times.items()
        if times >= min_frequency
        and words.texts_with[word] <= most
        and word.removeprefix(LEFT).removesuffix(RIGHT).lower() not in stop_words
    ]
    return sorted(chosen, key=lambda word: (-words.times[word], word))[:room]


def word_tokenizer(special: list[str], unknown: str, entries: list[str], words: Words, case_fold: bool) -> Tokenizer:
    """The tokenizer with these entries behind its special tokens, `unknown` among them. Scores are logarithms of shares."""
    total = sum(words.times[entry] for entry in entries)
    scored = [(entry, math.log(words.times[entry] / total)) for entry in entries]
    tokenizer = Tokenizer(
        models.Unigram(
            [*((token, UNLIKELY) for token in special), *scored], unk_id=special.index(unknown), byte_fallback=False
        )
    )
    tokenizer.normalizer = word_normalizer(case_fold)
    tokenizer.pre_tokenizer = word_splitter()
    tokenizer.decoder = decoders.Sequence([decoders.Replace(LEFT, " "), decoders.Replace(RIGHT, ""), decoders.Fuse()])
    tokenizer.add_special_tokens(special)
    return tokenizer


UNLIKELY = -1e6
"""Score of special tokens; that of an unknown character is still lower, so known words always win."""


def word_normalizer(case_fold: bool) -> normalizers.Normalizer:
    """Sets each word between blanks in brackets; folds case first if asked."""
    fold = [normalizers.Lowercase()] if case_fold else []
    return normalizers.Sequence(
        [
            *fold,
            normalizers.Replace(Regex(f"(?<!{IN_WORD})(?={IN_WORD})"), LEFT),
            normalizers.Replace(Regex(f"(?<={IN_WORD})(?!{IN_WORD})"), RIGHT),
        ]
    )


def word_splitter() -> pre_tokenizers.PreTokenizer:
    """Words in brackets, runs of Chinese characters, and any other character by itself; white space goes."""
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\s+"), "removed"),
            pre_tokenizers.Split(Regex(rf"{LEFT}{IN_WORD}+{RIGHT}"), "isolated"),
            pre_tokenizers.Split(Regex(r"\p{Han}+"), "isolated"),
            pre_tokenizers.Split(Regex(rf"[^\p{{L}}\p{{M}}\p{{N}}_{LEFT}{RIGHT}]"), "isolated"),
        ]
    )


def stop_words(languages: Iterable[str]) -> frozenset[str]:
    """The stop words of those languages, as spaCy lists them."""
    import importlib

    return frozenset[str]().union(
        *(importlib.import_module(f"spacy.lang.{code}.stop_words").STOP_WORDS for code in languages)
    )
