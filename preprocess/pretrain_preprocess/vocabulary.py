"""The stage vocabulary: one task that looks at what the tokenizer makes of the text.

reports/vocabulary.json    the most frequent entries, how the others are spread, rare and unused ones; by split and source tokens a
                           character, byte and word, unknown tokens, and how much of the held-out text training has seen
reports/vocabulary.tsv     every entry: rank, id, count in training, count in held-out text, entry, its text
reports/vocabulary.svg     rank and frequency, and tokens a word by source

End-of-text tokens are not counted: they stand for no text. Bytes, characters and words were counted when tokens were made.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pretrain_stage.manifest import File
from pydantic import JsonValue
from tokenizers import Tokenizer

from pretrain_preprocess.task import Outcome, Task
from pretrain_preprocess.tokenizer import PATH
from pretrain_preprocess.tokens import COUNTS, SPLITS, name
from pretrain_preprocess.vocabulary_picture import picture

MOST_LISTED = 1_000
"""Entries in the table of the report; the whole is in the .tsv."""
EXAMPLES = 100
"""Rare and unused entries that the report names."""
RARE = 10
"""Entries that occur less often than this in the training text are called rare: their embedding hardly moves."""
HEADS = (10, 100, 1_000, 10_000)
"""Of so many most frequent entries it is told how much of the text they are."""
TOKENS_AT_ONCE = 1 << 24

Counts = NDArray[np.int64]
"""How often each id occurs."""
Figures = dict[str, Any]
BySource = dict[str, dict[str, Figures]]
"""By source and split."""


@dataclass(frozen=True)
class Entries:
    """The entries of a tokenizer by id; ids of a given one may have gaps."""

    size: int
    token: Mapping[int, str]
    text: Mapping[int, str]
    special: frozenset[int]
    unknown: int | None

    @property
    def plain(self) -> NDArray[np.int64]:
        """The ids of entries that stand for text."""
        return np.array(sorted(self.token.keys() - self.special), np.int64)


def run(task: Task) -> Outcome:
    """The report on the vocabulary."""
    entries = read_entries(task)
    end_of_text = int(str(task.inputs["tokenizer"].facts["end_of_text_id"]))
    counts = count(task, entries.size)
    for found in counts.values():
        found[end_of_text] = 0
    train, held_out = (total(counts, split, entries.size) for split in SPLITS)
    sources = by_source(counts, task.inputs["tokenize"].facts, entries, train)
    report = {**table(train, entries), "sources": sources, "all": in_all(sources, train, held_out, entries)}
    files = {
        "json": json.dumps(report, ensure_ascii=False, indent=1),
        "tsv": "".join(rows(train, held_out, entries)),
        "svg": picture(np.sort(train[train > 0])[::-1], tokens_a_word(sources)),
    }
    outputs = []
    for ending, content in files.items():
        path = task.scratch / f"vocabulary.{ending}"
        path.write_text(content, encoding="utf-8")
        outputs.append((path, f"reports/vocabulary.{ending}"))
    told = ("entries", "used", "rare", "unused")
    return Outcome(tuple(outputs), {key: report[key] for key in told} | {"all": report["all"]})


def read_entries(task: Task) -> Entries:
    """The entries of the job's tokenizer."""
    file = next(file for file in task.inputs["tokenizer"].outputs if file.path == PATH)
    tokenizer = Tokenizer.from_file(str(task.bring(file)))
    model = json.loads(tokenizer.to_str())["model"]
    token = {number: entry for entry, number in tokenizer.get_vocab(with_added_tokens=True).items()}
    unknown = model.get("unk_id", tokenizer.token_to_id(model.get("unk_token") or ""))
    special = frozenset(number for number, added in tokenizer.get_added_tokens_decoder().items() if added.special)
    text = {number: tokenizer.decode([number], skip_special_tokens=False) for number in token}
    return Entries(int(str(task.inputs["tokenizer"].facts["vocab_size"])), token, text, special - {unknown}, unknown)


def count(task: Task, size: int) -> dict[tuple[str, str], Counts]:
    """How often each id occurs, by split and source."""
    tokenize = task.inputs["tokenize"]
    files = [file for file in tokenize.outputs if file.path.endswith(".ds")]
    tell = task.progress()
    counts: dict[tuple[str, str], Counts] = {}
    for number, file in enumerate(files):
        _, split, source, _ = file.path.split("/")
        found = counts.setdefault((split, source), np.zeros(size, np.int64))
        found += count_file(task, file, str(tokenize.facts["dtype"]), size)
        tell(number + 1, len(files), "files")
    return counts


def count_file(task: Task, file: File, dtype: str, size: int) -> Counts:
    """How often each id occurs in one token file."""
    path = task.bring(file)
    tokens = np.memmap(path, np.dtype(dtype).newbyteorder("<"), mode="r")
    found = np.zeros(size, np.int64)
    for start in range(0, len(tokens), TOKENS_AT_ONCE):
        found += np.bincount(tokens[start : start + TOKENS_AT_ONCE], minlength=size)
    if path.is_relative_to(task.scratch):
        path.unlink()  # one downloaded file at a time
    return found


def total(counts: Mapping[tuple[str, str], Counts], split: str, size: int) -> Counts:
    """How often each id occurs in a split."""
    return sum((found for (of, _), found in counts.items() if of == split), np.zeros(size, np.int64))


def table(train: Counts, entries: Entries) -> Figures:
    """The most frequent entries of the training text, and how the others are spread."""
    ids = ranked(train, entries)
    times = train[ids]
    tokens = int(times.sum())
    tail = times[MOST_LISTED:]
    used = ids[times > 0]
    return {
        "entries": len(ids),
        "used": len(used),
        "unused": len(ids) - len(used),
        "rare": int((times[times > 0] < RARE).sum()),
        "rare_below": RARE,
        "tokens": tokens,
        "covered_by": {str(head): share(int(times[:head].sum()), tokens) for head in HEADS if head < len(ids)},
        "entries_by_count": by_decade(times),
        "most_frequent": [
            {
                "rank": rank,
                "id": number,
                "token": entries.token[number],
                "text": entries.text[number],
                "count": int(train[number]),
            }
            for rank, number in enumerate(ids[:MOST_LISTED].tolist(), 1)
        ],
        "others": {"entries": len(tail), "tokens": int(tail.sum()), "share": share(int(tail.sum()), tokens)},
        "rarest_used": [entries.text[number] for number in used[::-1][:EXAMPLES].tolist()],
        "unused_examples": [entries.text[number] for number in ids[times == 0][:EXAMPLES].tolist()],
    }


def ranked(train: Counts, entries: Entries) -> NDArray[np.int64]:
    """The ids of entries that stand for text, the most frequent first, then by id."""
    plain = entries.plain
    return plain[np.lexsort((plain, -train[plain]))]


def by_decade(times: Counts) -> dict[str, JsonValue]:
    """How many entries occur not at all, once, up to 9 times, up to 99 times, ..."""
    found: dict[str, JsonValue] = {"0": int((times == 0).sum()), "1": int((times == 1).sum())}
    low = 2
    while low <= times.max(initial=0):
        high = 10 ** len(str(low))
        found[f"{low}-{high - 1}"] = int(((times >= low) & (times < high)).sum())
        low = high
    return found


def by_source(
    counts: Mapping[tuple[str, str], Counts], tokenize: Mapping[str, JsonValue], entries: Entries, train: Counts
) -> BySource:
    """The figures of each split of each source; of held-out text, how much of it is in the training text of any source."""
    told = tokenize["sources"]
    assert isinstance(told, dict), "the stage tokenize tells by source"
    nothing = np.zeros(entries.size, np.int64)
    sources: BySource = {}
    for source, facts in told.items():
        assert isinstance(facts, dict)
        splits: dict[str, Figures] = {}
        for split in SPLITS:
            sizes = {what: int(str(facts[name(split, what)])) for what in COUNTS[split]}
            found = counts.get((split, source), nothing)
            splits[split.replace("-", "_")] = figures(found, sizes, entries, None if split == "train" else train)
        sources[source] = splits
    return sources


def figures(found: Counts, sizes: Mapping[str, int], entries: Entries, train: Counts | None) -> Figures:
    """What the tokens of a text are like. sizes: its documents, bytes, characters and maybe words.

    With `train`, the counts of the training text, also how much of it that one has seen.
    """
    tokens = int(found.sum())
    unknown = 0 if entries.unknown is None else int(found[entries.unknown])
    types = found > 0
    result: Figures = {
        **{key: number for key, number in sizes.items() if key != "tokens"},
        "tokens": tokens,
        "types": int(types.sum()),
        "unknown_share": share(unknown, tokens),
        **{
            f"tokens_per_{what.removesuffix('s')}": share(tokens, sizes[what])
            for what in ("characters", "bytes", "words")
            if what in sizes
        },
    }
    if train is not None:
        seen = types & (train > 0)
        result["types_seen_share"] = share(int(seen.sum()), int(types.sum()))
        result["tokens_seen_share"] = share(int(found[seen].sum()), tokens)
    return result


def in_all(sources: BySource, train: Counts, held_out: Counts, entries: Entries) -> dict[str, Figures]:
    """The figures of all sources together."""
    result: dict[str, Figures] = {}
    for split, found, seen in (("train", train, None), ("held-out", held_out, train)):
        key = split.replace("-", "_")
        sizes = {what: sum(of[key][what] for of in sources.values()) for what in COUNTS[split]}
        result[key] = figures(found, sizes, entries, seen)
    return result


def tokens_a_word(sources: BySource) -> dict[str, float]:
    """Tokens a word of each source's held-out text, as far as it has words."""
    values = {source: splits["held_out"]["tokens_per_word"] for source, splits in sources.items()}
    return {source: value for source, value in values.items() if value is not None}


def rows(train: Counts, held_out: Counts, entries: Entries) -> Iterator[str]:
    """The lines of the table of all entries; what may hold a tab or a line feed is written as JSON does it."""
    yield "rank\tid\ttrain\theld_out\ttoken\ttext\n"
    for rank, number in enumerate(ranked(train, entries).tolist(), 1):
        written = "\t".join(json.dumps(text, ensure_ascii=False) for text in (entries.token[number], entries.text[number]))
        yield f"{rank}\t{number}\t{train[number]}\t{held_out[number]}\t{written}\n"


def share(part: int, whole: int) -> float | None:
    """Part of whole, None of nothing."""
    return round(part / whole, 6) if whole else None
