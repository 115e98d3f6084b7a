"""Makes questions for lm-eval of local text: which of four endings belongs to a beginning, and the same texts as they are.

    endings.jsonl    {"beginning", "endings": four, "right": 0 to 3}; three are endings of other texts
    texts.jsonl      {"text"}

Chance answers a quarter of them. The texts are to be ones that the model was not trained on: the test split of a task's examples,
or any other JSON lines with a field text.

    python examples/course/lm-eval/questions.py STORAGE/finetune/NAME/examples/test.jsonl build/course/lm-eval
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

CHOICES = 4
SHORTEST, LONGEST = 10, 60
"""Characters of a beginning and of an ending. lm-eval refuses endings of more tokens than a model has positions."""
SEED = 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("examples", type=Path, help="JSON lines with a field text")
    parser.add_argument("folder", type=Path, help="where the questions go")
    options = parser.parse_args()
    with options.examples.open(encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    options.folder.mkdir(parents=True, exist_ok=True)
    found = questions(texts)
    write(options.folder / "endings.jsonl", found)
    write(options.folder / "texts.jsonl", [{"text": text} for text in texts])
    print(f"{len(found):,} questions and {len(texts):,} texts are in {options.folder}")
    return 0


def questions(texts: Iterable[str]) -> list[dict[str, Any]]:
    """A question for each text that can be divided; the wrong endings are of others, drawn by SEED."""
    halves = [half for half in map(divided, texts) if half is not None]
    draw = random.Random(SEED)  # noqa: S311
    found = []
    for number, (beginning, ending) in enumerate(halves):
        others = [
            halves[place][1] for place in draw.sample(range(len(halves)), min(len(halves), 4 * CHOICES)) if place != number
        ]
        wrong = [other for other in dict.fromkeys(others) if other != ending][: CHOICES - 1]
        if len(wrong) < CHOICES - 1:
            continue
        right = draw.randrange(CHOICES)
        found.append({"beginning": beginning, "endings": [*wrong[:right], ending, *wrong[right:]], "right": right})
    return found


def divided(text: str) -> tuple[str, str] | None:
    """The text up to the punctuation that is nearest to its middle, and what follows it; None if a side is too short or too long."""
    places = [match.end() for match in re.finditer(r"[，。！？；,.!?;]+\s*", text)]
    fitting = [place for place in places if all(SHORTEST <= side <= LONGEST for side in (place, len(text) - place))]
    if not fitting:
        return None
    place = min(fitting, key=lambda place: abs(2 * place - len(text)))
    return text[:place], text[place:]


def write(path: Path, records: Iterable[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


if __name__ == "__main__":
    sys.exit(main())
