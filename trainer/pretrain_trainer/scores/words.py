"""What counts as a word where answers are compared: each Han character, and each run of other letters and digits. Pure.

Tokenizers made for English drop Chinese or take a whole clause for one word; characters need no segmenter whose choices would enter
the score.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Iterable

HAN = "\u2e80-\u2fdf\u3005\u3007\u3021-\u3029\u3038-\u303b\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_HAN = re.compile(f"[{HAN}]")
_WORD = re.compile(rf"[{HAN}]|[^\W_{HAN}]+")
_ARTICLE = re.compile(r"\b(a|an|the)\b")


def is_chinese(texts: Iterable[str]) -> bool:
    """Whether Han characters outnumber words in other scripts."""
    han = other = 0
    for text in texts:
        of_text = len(_HAN.findall(text))
        han += of_text
        other += len(_WORD.findall(text)) - of_text
    return han > other


def words(text: str) -> list[str]:
    """The words of a text, in lower case, without punctuation."""
    return _WORD.findall(text.lower())


def answer_words(text: str, chinese: bool) -> list[str]:
    """The words that answers to questions are compared by (SQuAD: Rajpurkar et al. 2016): in lower case, without ASCII
    punctuation and articles. Of Chinese each character counts, and its punctuation does not.
    """
    text = "".join(character for character in text.lower() if not _dropped(character, chinese))
    text = _ARTICLE.sub(" ", text)
    return (_HAN.sub(r" \g<0> ", text) if chinese else text).split()


def _dropped(character: str, chinese: bool) -> bool:
    return character in string.punctuation or (chinese and unicodedata.category(character).startswith("P"))
