"""The stage examples-<name>: labelled records of any format to examples of three splits that share no text.

finetune/<name>/examples/<split>.jsonl    split: train, validation, test; an example a line, in the order of the files
    {"id", "text", "label"}        classification
    {"id", "words", "tags"}        token-classification
    {"id", "prompt", "answer"}     generation, or {"id", "messages"}

Labelled data are few and made by hand: a record that cannot be used is no loss to count but a mistake to mend, and ends the
stage with its place. Duplicates are kept once; texts that occur with several labels are dropped, as nobody knows which is right.
In memory are two hashes an example, less than 200 bytes. Bytes are counted of the lines that are written.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import orjson
import xxhash
from pretrain_stage.errors import UserError
from pretrain_stage.finetune import Finetune
from pydantic import JsonValue

from pretrain_preprocess.labelled.example import Example, Unusable, fields_of, read_example, shown
from pretrain_preprocess.labelled.records import read_records
from pretrain_preprocess.labelled.splits import (
    SPLITS,
    Split,
    check_contradictions,
    check_splits,
    missing_labels,
    split_of,
)
from pretrain_preprocess.labelled.stage import task_of
from pretrain_preprocess.sources import opened
from pretrain_preprocess.task import Outcome, Task

FAULTS = 5
"""Records that cannot be used and are told; after so many, reading ends."""
MOST_LABELS = 1_000
"""As in spec.finetune."""
BLOCK = "examples"
"""The block under which the manifest counts what was dropped."""
DIGEST_DIGITS = 32
"""Hexadecimal digits of an id that are held in memory: 16 bytes."""
ID_AT = slice(len(b'{"id":"'), len(b'{"id":"') + DIGEST_DIGITS)
"""Where these stand in a line that this module has written."""


@dataclass
class Pool:
    """What has been read so far: the different examples of each split in a file, and what is known of all of them."""

    folder: Path
    seen: dict[bytes, bytes] = field(default_factory=dict)
    """The id of the first example with a text, by the text's hash; both 16 bytes."""
    conflicting: dict[bytes, bytes] = field(default_factory=dict)
    """The ids of examples whose text has several labels, with the text's hash."""
    labels: dict[str, str] = field(default_factory=dict)
    """Where each label was first found."""

    def path(self, split: Split) -> Path:
        return self.folder / f"{split}.read"


@dataclass
class Kept:
    """What became of a split."""

    path: Path
    examples: int = 0
    labels: Counter[str] = field(default_factory=Counter)


def run(task: Task) -> Outcome:
    """The only task of the stage."""
    place = task_of(task.stage.name, task.spec)
    assert place is not None, f"{task.stage.name} is of no task in finetune"
    wanted, where = task.spec.finetune[place], f"finetune[{place}].examples"
    check_format(wanted, where)
    pool = collect(task, wanted, where)
    check_tags(wanted, where, pool)
    conflicts = contradictions(pool, wanted)
    check_contradictions(where, len(pool.seen), conflicts)
    kept = {split: keep(task, wanted, pool, split) for split in SPLITS}
    names = sorted(set(wanted.examples.labels) or pool.labels)
    labels = {split: {name: kept[split].labels[name] for name in names} for split in SPLITS}
    check_splits(where, wanted, {split: kept[split].examples for split in SPLITS}, labels)
    for split, missing in missing_labels(labels).items():
        task.events.warning(f"{where}: {split} has no example of {', '.join(missing)}; figures for these will say nothing")
    return Outcome(
        tuple((kept[split].path, f"finetune/{wanted.name}/examples/{split}.jsonl") for split in SPLITS),
        facts(task, kept, names, conflicts),
    )


def check_format(wanted: Finetune, where: str) -> None:
    """Raises UserError where lists are wanted from a table of strings."""
    lists = [name for name in fields_of(wanted.task, wanted.examples) if name in ("wordsField", "messagesField")]
    if wanted.examples.format == "csv" and lists:
        raise UserError(f"{where}.format: csv has no lists, which {lists[0]} is to hold; give jsonl or parquet")


def collect(task: Task, wanted: Finetune, where: str) -> Pool:
    """Reads all records: each different example once into its split's file. Raises UserError for records of no use."""
    pool = Pool(task.scratch)
    dropped = task.tally.reasons(BLOCK)
    files = {split: pool.path(split).open("wb") for split in SPLITS}
    try:
        for example, at in read_all(task, wanted, where):
            take_labels(pool, example, at, where)
            identifier = example.id
            line = orjson.dumps({"id": identifier, **example.content}, option=orjson.OPT_APPEND_NEWLINE)
            task.tally.take(len(line))
            if is_new(pool, example, identifier, wanted):
                files[split_of(example.given, wanted.examples)].write(line)
            else:
                dropped["duplicate"] += 1
                dropped.text_bytes += len(line)
    finally:
        for file in files.values():
            file.close()
    return pool


def read_all(task: Task, wanted: Finetune, where: str) -> Iterator[tuple[Example, str]]:
    """Every example with its place. Raises UserError that lists up to FAULTS records of no use."""
    fields = fields_of(wanted.task, wanted.examples)
    tell, done = task.progress(), 0
    faults: list[str] = []
    for file in task.listing.files:
        with opened(file, task.spec.storage, task.scratch) as raw:
            for at, record in read_records(file, raw, fields):
                tell(done + raw.tell(), task.listing.size, "bytes")
                try:
                    if isinstance(record, Unusable):
                        raise record
                    yield read_example(record, wanted.task, wanted.examples), at
                except Unusable as fault:
                    faults.append(f"{at}: {fault}")
                    if len(faults) == FAULTS:
                        raise unusable(where, faults) from None
        done += file.size
    if faults:
        raise unusable(where, faults)


def unusable(where: str, faults: list[str]) -> UserError:
    """The error for records that cannot be used."""
    many = (
        f"at least {FAULTS} records"
        if len(faults) == FAULTS
        else "a record"
        if len(faults) == 1
        else f"{len(faults)} records"
    )
    return UserError("\n".join([f"{where}: {many} cannot be used, none is left out silently:", *faults]))


def take_labels(pool: Pool, example: Example, at: str, where: str) -> None:
    """Notes the labels of an example. Raises UserError if there are too many to be labels."""
    for label in example.labels:
        if label not in pool.labels:
            pool.labels[label] = at
            if len(pool.labels) > MOST_LABELS:
                name = "tagsField" if "tags" in example.content else "labelField"
                raise UserError(
                    f"{where}.{name}: more than {MOST_LABELS:,} different labels up to {at} (such as {shown(label)}); name the field "
                    "that holds labels"
                )


def is_new(pool: Pool, example: Example, identifier: str, wanted: Finetune) -> bool:
    """Whether no equal example came before. One whose text came with another label is new, and both are noted."""
    own = bytes.fromhex(identifier[:DIGEST_DIGITS])
    text = own if wanted.task == "generation" else xxhash.xxh3_128_digest(" ".join(example.given.split()))
    first = pool.seen.setdefault(text, own)
    if first is own:
        return True
    if first == own or own in pool.conflicting:
        return False
    pool.conflicting[first] = pool.conflicting[own] = text
    return True


def check_tags(wanted: Finetune, where: str, pool: Pool) -> None:
    """Raises UserError for other tags than those of IOB2 where some are: S-PER or E-PER would each become a kind of entity."""
    if wanted.task != "token-classification":
        return
    entity = next((tag for tag in pool.labels if is_entity_tag(tag)), None)
    for tag, at in pool.labels.items():
        if entity is not None and tag != "O" and not is_entity_tag(tag):
            raise UserError(
                f"{where}.tagsField: {shown(tag)} ({at}) beside {entity} is not IOB2, which has B-, I- and O; write it as one of these"
            )


def is_entity_tag(tag: str) -> bool:
    """Whether a tag is of the first or a later word of an entity."""
    return tag.startswith(("B-", "I-"))


def contradictions(pool: Pool, wanted: Finetune) -> dict[str, int]:
    """How many texts occur with several labels, by these labels; whole rows of tags are not told apart."""
    labels: dict[bytes, set[str]] = {}
    for split in SPLITS if pool.conflicting else ():
        for own, line in lines(pool.path(split)):
            if own in pool.conflicting:
                label = orjson.loads(line)["label"] if wanted.task == "classification" else "different tags"
                labels.setdefault(pool.conflicting[own], set()).add(label)
    return dict(sorted(Counter(" / ".join(sorted(found)) for found in labels.values()).items()))


def keep(task: Task, wanted: Finetune, pool: Pool, split: Split) -> Kept:
    """Writes what remains of a split: without texts that have several labels, and of train no more than is wanted."""
    dropped = task.tally.reasons(BLOCK)
    most = wanted.examples.max_train_examples if split == "train" else None
    last = None if most is None else last_of_first(pool, split, most)
    kept = Kept(task.scratch / f"{split}.jsonl")
    with kept.path.open("wb") as file:
        for own, line in lines(pool.path(split)):
            if own in pool.conflicting or (last is not None and own > last):
                dropped["contradiction" if own in pool.conflicting else "over_max_train_examples"] += 1
                dropped.text_bytes += len(line)
                continue
            file.write(line)
            task.tally.keep(len(line))
            kept.examples += 1
            kept.labels.update(labels_of(line, wanted))
    pool.path(split).unlink()
    return kept


def last_of_first(pool: Pool, split: Split, most: int) -> bytes | None:
    """The id of the last of the first `most` examples, in the order of ids; None if there are none."""
    ids = (own for own, _ in lines(pool.path(split)) if own not in pool.conflicting)
    return max(heapq.nsmallest(most, ids), default=None)


def lines(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """The lines of a file that this module has written, each with its id."""
    with path.open("rb") as file:
        for line in file:
            yield bytes.fromhex(line[ID_AT].decode()), line


def labels_of(line: bytes, wanted: Finetune) -> list[str]:
    """The labels in a line that this module has written."""
    if wanted.task == "generation":
        return []
    content = orjson.loads(line)
    return content["tags"] if "tags" in content else [content["label"]]


def facts(task: Task, kept: Mapping[Split, Kept], names: list[str], conflicts: dict[str, int]) -> dict[str, JsonValue]:
    """What the manifest tells besides the counts."""
    return {
        "examples": {split: kept[split].examples for split in SPLITS},
        "labels": [*names],
        "label_counts": {split: {name: kept[split].labels[name] for name in names} for split in SPLITS},
        "duplicates": task.tally.reasons(BLOCK)["duplicate"],
        "contradictions": {**conflicts},
    }
