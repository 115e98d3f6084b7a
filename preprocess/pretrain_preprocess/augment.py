"""The block augment: copies of training documents with small changes, word by word.

It is named in corpus.clean and does its work in the stage tokenize, for two reasons. Duplicates are dropped after clean: copies
made there would go again as near duplicates, or stay while their original goes. And whether a document is held out is decided
by its text: a copy has another text, so it must follow its original. Here only documents that survived and are trained on
have copies, so none has its original in the held-out text.

A copy is called <id>#augmented-<number>; what was done to it stands in the list of documents (origins.py). It is a pure function of
the document's text, the options and its number. After Wei and Zou (2019), who found such copies to help classifiers on some
hundred examples, and little beyond.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import xxhash
from datatrove.data import Document

from pretrain_preprocess.blocks.language import LANGUAGE
from pretrain_preprocess.blocks.words import word_spans
from pretrain_preprocess.config import Augment
from pretrain_preprocess.documents import TEXT_BYTES
from pretrain_preprocess.origins import AUGMENTED

Spans = Sequence[tuple[int, int]]
"""Begin and end of each word."""


def copies(document: Document, options: Augment) -> Iterator[Document]:
    """The copies of a document. One in which no word was changed is left out."""
    spans = word_spans(document.text, document.metadata.get(LANGUAGE))
    synonyms = synonyms_of(options.synonyms)
    for number in range(1, options.copies + 1):
        text, done = change(document.text, spans, options, synonyms, generator(document.text, options.seed, number))
        if done:
            metadata = {**document.metadata, TEXT_BYTES: len(text.encode()), AUGMENTED: dict(sorted(done.items()))}
            yield Document(text=text, id=f"{document.id}#augmented-{number}", metadata=metadata)


def generator(text: str, seed: int, number: int) -> np.random.Generator:
    """The random numbers of one copy of a text."""
    return np.random.Generator(np.random.Philox(key=[xxhash.xxh3_64_intdigest(text, seed), number]))


def synonyms_of(groups: Iterable[Sequence[str]]) -> dict[str, list[str]]:
    """For each word the others of its groups."""
    found: dict[str, list[str]] = {}
    for group in groups:
        for word in group:
            found.setdefault(word, []).extend(other for other in group if other != word)
    return found


def change(
    text: str, spans: Spans, options: Augment, synonyms: dict[str, list[str]], random: np.random.Generator
) -> tuple[str, Counter[str]]:
    """The text with some words changed, and how often each operation was carried out.

    Each word that is no punctuation is drawn for one operation at most. A word that is deleted goes with the blanks before it; one
    that is swapped changes places with the next word; a word without synonyms stays as it is. All else of the text stays.
    """
    words = [text[begin:end] for begin, end in spans]
    gaps = [
        text[end:begin]
        for end, begin in zip([0, *(end for _, end in spans)], [*(begin for begin, _ in spans), len(text)], strict=True)
    ]
    real = [number for number, word in enumerate(words) if any(map(str.isalnum, word))]
    bounds = np.cumsum([options.delete, options.swap, options.synonym, options.noise])
    drawn = np.searchsorted(bounds, random.random(len(real)), side="right").tolist()
    done: Counter[str] = Counter()
    place = 0
    while place < len(real):
        number = real[place]
        match drawn[place]:
            case 0:
                words[number] = ""
                gaps[number] = gaps[number].rstrip(" ") if number else gaps[number]
                done["delete"] += 1
            case 1 if place + 1 < len(real):
                after = real[place + 1]
                words[number], words[after] = words[after], words[number]
                done["swap"] += 1
                place += 1  # the other one has had its operation
            case 2 if words[number] in synonyms:
                others = synonyms[words[number]]
                words[number] = others[random.integers(len(others))]
                done["synonym"] += 1
            case 3:
                words[number] = misspelled(words[number], random)
                done["noise"] += 1
        place += 1
    return "".join(gap + word for gap, word in zip(gaps, [*words, ""], strict=True)), done


def misspelled(word: str, random: np.random.Generator) -> str:
    """The word with one character doubled, left out, or changed with the next; of one character, doubled."""
    place = int(random.integers(len(word)))
    kind = int(random.integers(3)) if len(word) > 1 else 0
    if kind == 0:
        return word[: place + 1] + word[place:]
    if kind == 1:
        return word[:place] + word[place + 1 :]
    place = min(place, len(word) - 2)
    return word[:place] + word[place + 1] + word[place] + word[place + 2 :]
