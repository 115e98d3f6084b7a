"""How text is split into words: spaCy's rules, jieba for Chinese, as datatrove does it, several times faster.

The decisions of the quality rules depend on every word, so a faster splitter is only of use if it returns the same words.
Two ways do:

- spaCy's rules look at one white-space-separated chunk at a time, and a language repeats its chunks: each is split once
  and remembered (datatrove empties spaCy's own cache after each document).
- rjieba is jieba in Rust. They differ only on points, hyphens and underscores inside numbers and names, and on rare
  characters; lines with any of these go to jieba itself.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jieba
import rjieba
import spacy
from datatrove.utils.word_tokenizers import SpaCyTokenizer, WordTokenizer
from pretrain_stage.errors import UserError
from spacy.lang.lex_attrs import is_punct
from spacy.pipeline import Sentencizer

HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]")
LETTER = re.compile(r"[^\W\d_]")
LEAST_HAN = 0.2
"""Share of Chinese characters among the letters from which a text counts as Chinese."""

WITHOUT_SPACES = frozenset({"bo", "dz", "ja", "km", "lo", "my", "th"})
"""Languages that put no space between words, and for which no splitter is installed."""
OWN_RULES_NEED_MORE = frozenset({"ko", "vi"})
"""Languages whose spaCy class wants further packages. They separate words by spaces, so the rules for any language serve."""

RJIEBA_DIFFERS = re.compile(r"[-._\u3400-\u4dbf\u9fd6-\u9fff\uf900-\ufaff\U00020000-\U000323af]")
"""Found by comparing both on every character of the basic plane in several surroundings, and on random mixtures of those."""
LONGEST_CHUNK = 64
MOST_CHUNKS = 500_000


class SpacedWords(SpaCyTokenizer):  # type: ignore[misc]  # datatrove has no types
    """Words and sentences of a language that separates words by spaces: the same as SpaCyTokenizer's."""

    def __init__(self, language: str) -> None:
        super().__init__(language)
        self._split: Callable[[str], Any] = spacy.blank(language).tokenizer
        self._chunks: dict[str, list[str]] = {}

    def word_tokenize(self, text: str) -> list[str]:
        words: list[str] = []
        known = self._chunks
        for chunk in text.split():
            found = known.get(chunk)
            words += found if found is not None else self._split_chunk(chunk)
        return words

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        """Begin and end of each sentence, by the rule of spaCy's sentencizer: a sentence ends at a stop and the
        punctuation that follows it.
        """
        spans: list[tuple[int, int]] = []
        start = position = 0
        after_stop = False
        for word, begin, end in self._words_with_space(text):
            is_stop = word in SENTENCE_STOPS
            if after_stop and not is_stop and not is_punct(word):
                spans.append((start, position))
                start, after_stop = begin, False
            elif is_stop:
                after_stop = True
            position = end
        if position:
            spans.append((start, position))
        return spans

    def sent_tokenize(self, text: str) -> list[str]:
        return [sentence for begin, end in self.span_tokenize(text) if (sentence := text[begin:end].strip())]

    def _words_with_space(self, text: str) -> list[tuple[str, int, int]]:
        """Each word with its place. As in spaCy, white space is a word of its own, but for one blank after a word."""
        words: list[tuple[str, int, int]] = []
        for match in CHUNK_OR_SPACE.finditer(text):
            chunk, position = match.group(), match.start()
            if chunk.isspace():
                if position and chunk[0] == " ":
                    chunk, position = chunk[1:], position + 1
                if chunk:
                    words.append((chunk, position, match.end()))
                continue
            for word in self._chunks.get(chunk) or self._split_chunk(chunk):
                position = text.index(word, position)
                words.append((word, position, position + len(word)))
                position += len(word)
        return words

    def _split_chunk(self, chunk: str) -> list[str]:
        """The words of a chunk, remembered unless it is long. spaCy keeps every word it has seen: at the limit, both
        begin anew.
        """
        if len(self._chunks) >= MOST_CHUNKS:
            self._chunks.clear()
            self._split = spacy.blank(self.language).tokenizer
        try:
            words = [token.text for token in self._split(chunk)]
        except Exception:
            # "IS_ALPHA" is a reserved name that makes spaCy raise; datatrove takes it out of the text.
            if "IS_ALPHA" not in chunk:
                raise
            words = [token.text for token in self._split(chunk.replace("IS_ALPHA", ""))]
        if len(chunk) <= LONGEST_CHUNK:
            self._chunks[chunk] = words
        return words


class ChineseWords(SpaCyTokenizer):  # type: ignore[misc]
    """Words of Chinese text: the same as SpaCyTokenizer("zh")'s, which are jieba's."""

    def __init__(self) -> None:
        super().__init__("zh")
        jieba.setLogLevel("ERROR")
        # By itself jieba reads its dictionary from /tmp/jieba.cache, where any user of the machine may put another.
        with tempfile.TemporaryDirectory() as folder:
            jieba.dt.tmp_dir = folder
            jieba.initialize()

    def word_tokenize(self, text: str) -> list[str]:
        words: list[str] = []
        for line in text.split("\n"):
            cut = jieba.cut if RJIEBA_DIFFERS.search(line) else rjieba.cut
            words += [word for token in cut(line) if (word := token.strip())]
        return words


@cache
def splitter(language: str) -> WordTokenizer:
    """The splitter for an ISO 639 code; one that spaCy does not know gets the rules for any language.

    Raises UserError for languages without spaces between words other than Chinese.
    """
    if language == "zh":
        return ChineseWords()
    if language in WITHOUT_SPACES:
        raise UserError(
            f"corpus.language.keep: {language!r} is written without spaces between words, and no splitter for it is built in; "
            "leave it out, or drop the blocks quality and augment, deduplicate by method exact and learn by no masked-lm objective"
        )
    has_rules = language not in OWN_RULES_NEED_MORE and spacy_knows(language)
    return SpacedWords(language if has_rules else "xx")


def word_spans(text: str, language: str | None = None) -> list[tuple[int, int]]:
    """Where each word begins and ends, in characters. `language` is what the block language found, if it has seen the text."""
    spans, end = [], 0
    for word in splitter(language or language_by_script(text)).word_tokenize(text):
        begin = text.find(word, end)
        if begin >= 0:  # datatrove takes a word that makes spaCy raise out of the text
            end = begin + len(word)
            spans.append((begin, end))
    return spans


def spacy_knows(language: str) -> bool:
    """Whether spaCy has rules for the language."""
    return (Path(spacy.__file__).parent / "lang" / language).is_dir()


def language_by_script(text: str) -> str:
    """Chinese if a fifth of the letters are Chinese characters, else English: for documents that no block language has seen."""
    letters = len(LETTER.findall(text))
    return "zh" if letters and len(HAN.findall(text)) >= LEAST_HAN * letters else "en"


CHUNK_OR_SPACE = re.compile(r"\S+|\s+")
SENTENCE_STOPS = frozenset(Sentencizer.default_punct_chars)
