"""Copies with small changes: what each operation does, and that nothing of the held-out text is ever copied."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from datatrove.data import Document
from pretrain_preprocess.augment import change, copies, generator, misspelled, synonyms_of
from pretrain_preprocess.blocks.words import word_spans
from pretrain_preprocess.config import Augment, Corpus
from pretrain_preprocess.origins import AUGMENTED
from pretrain_preprocess.split import is_held_out
from pydantic import ValidationError
from tokenizers import Tokenizer

from tests.preprocess import texts
from tests.preprocess.stages import Spec, contents, manifest, run, spec, write_jsonl
from tests.preprocess.test_stages import changed

STAGES = ("clean", "exact-signatures", "exact-find", "exact-filter", "tokenizer", "tokenize")
NOTHING = {"delete": 0, "swap": 0, "synonym": 0, "noise": 0}


def changed_text(text: str, **options: Any) -> tuple[str, dict[str, int]]:
    given = Augment.model_validate({**NOTHING, **options})
    result, done = change(text, word_spans(text), given, synonyms_of(given.synonyms), generator(text, 1, 1))
    return result, dict(done)


@pytest.mark.parametrize(
    ("text", "options", "expected", "done"),
    [
        ("One two, three.", {"delete": 1}, ",.", {"delete": 3}),
        ("One two, three.\n  Four", {"swap": 1}, "two One, Four.\n  three", {"swap": 2}),
        ("我们在学习。", {"swap": 1}, "在我们学习。", {"swap": 1}),
        ("  ... !", {"delete": 0.5, "swap": 0.5}, "  ... !", {}),
        ("", {"noise": 1}, "", {}),
        ("One two", {}, "One two", {}),
    ],
)
def test_operations(text: str, options: dict[str, float], expected: str, done: dict[str, int]) -> None:
    assert changed_text(text, **options) == (expected, done)


def test_synonyms() -> None:
    groups = [["big", "large"], ["学习", "用功"], ["big", "huge"]]
    assert synonyms_of(groups)["big"] == ["large", "huge"]
    text, done = changed_text("A big house. 我们在学习。", synonyms=groups, synonym=1)
    assert text in ("A large house. 我们在用功。", "A huge house. 我们在用功。")
    assert done == {"synonym": 2}


def test_noise_is_one_character_a_word() -> None:
    random = np.random.Generator(np.random.Philox(key=[1, 2]))
    found = {misspelled("abc", random) for _ in range(200)}
    assert found == {"aabc", "abbc", "abcc", "bc", "ac", "ab", "bac", "acb"}
    assert {misspelled("字", random) for _ in range(20)} == {"字字"}


def test_words_are_changed_as_often_as_asked() -> None:
    text = " ".join(texts.english()[:40])
    words = len([1 for begin, end in word_spans(text) if any(map(str.isalnum, text[begin:end]))])
    _, done = changed_text(text, delete=0.1, swap=0.05, noise=0.02)
    assert done["delete"] / words == pytest.approx(0.1, rel=0.1)
    assert done["swap"] / words == pytest.approx(0.05, rel=0.15)
    assert done["noise"] / words == pytest.approx(0.02, rel=0.2)


def test_copies_are_a_function_of_text_seed_and_number() -> None:
    text = next(text for text in texts.chinese() if len(text) > 300)
    document = Document(text=text, id="a", metadata={"source": "s"})

    def made(**options: int) -> list[str]:
        return [copy.text for copy in copies(document, Augment(**options))]

    assert made(copies=3) == made(copies=3)
    assert made(copies=3)[:2] == made(copies=2)
    assert len({text, *made(copies=3)}) == 4
    assert made(seed=1) != made(seed=2)
    assert list(copies(Document(text="。", id="b"), Augment())) == [], "nothing to change"


def job_with_copies(folder: Path, **augment: Any) -> Spec:
    articles = [text for text in texts.chinese() if len(text) > 200][:60]
    write_jsonl(folder / "raw" / "a.jsonl", [*articles, articles[0]])
    write_jsonl(folder / "raw" / "b.jsonl", texts.english()[:20])
    job = spec(
        folder / "storage",
        {"uri": str(folder / "raw")},
        clean=["normalize", "augment"],
        augment={"copies": 2, **augment},
        deduplicate={"method": "exact"},
        heldOutFraction=0.3,
        tasks=2,
    )
    return {**job, "tokenizer": {"train": {"vocabSize": 600}}}


def test_only_what_is_trained_on_is_copied(tmp_path: Path) -> None:
    job = job_with_copies(tmp_path)
    run(tmp_path, job, *STAGES)
    storage = tmp_path / "storage"
    tokenizer = Tokenizer.from_file(str(storage / "tokenizer" / "tokenizer.json"))
    found: dict[str, list[tuple[dict[str, Any], str]]] = {"train": [], "held-out": []}
    for split, rows in found.items():
        for path in sorted((storage / "tokens" / split).rglob("*.ds")):
            ids = np.fromfile(path, "<u2").tolist()
            start = 0
            for row in pq.read_table(f"{path}.documents.parquet").to_pylist():
                rows.append((row, tokenizer.decode(ids[start : row["end"] - 1])))
                start = row["end"]
    assert found["held-out"]
    assert all(row[AUGMENTED] is None and is_held_out(text, 0.3) for row, text in found["held-out"])
    originals = {row["id"]: text for row, text in found["train"] if row[AUGMENTED] is None}
    assert not any(is_held_out(text, 0.3) for text in originals.values())
    made = [(row, text) for row, text in found["train"] if row[AUGMENTED] is not None]
    assert Counter(row["id"].partition("#augmented-")[0] for row, _ in made) == dict.fromkeys(originals, 2)
    for row, text in made:
        original, _, number = row["id"].partition("#augmented-")
        options = Augment.model_validate(job["corpus"]["augment"])
        spans = word_spans(originals[original])
        random = generator(originals[original], 42, int(number))
        wanted, done = change(originals[original], spans, options, {}, random)
        assert (text, json.loads(row[AUGMENTED])) == (wanted, done)
        assert text != originals[original]
    assert any(is_held_out(text, 0.3) for _, text in made), "its own text would have put it on the other side"
    facts = manifest(job, "tokenize").facts
    assert facts["train_documents"] == len(originals) * 3
    assert facts["sources"]["source-0"]["train_copies"] == len(made)  # type: ignore[index, call-overload]
    counts = manifest(job, "tokenize").counts
    assert counts.kept == counts.read == len(originals) + len(found["held-out"]) == 80, "the duplicate is gone"


def test_copies_come_after_everything_but_tokens(tmp_path: Path) -> None:
    """Another seed makes other tokens; the text is not cleaned again, nor the tokenizer trained again."""
    job = job_with_copies(tmp_path)
    run(tmp_path, job, *STAGES)
    before = contents(tmp_path / "storage")
    job["corpus"]["augment"] = {"copies": 2, "seed": 43}
    assert changed(run(tmp_path, job, *STAGES)) == {"tokenize"}
    after = contents(tmp_path / "storage")
    differ = {path for path in before if before[path] != after[path]}
    assert differ
    assert all(path.startswith("tokens/train/") for path in differ), "held-out text stays as it was"
    job["corpus"]["clean"] = ["normalize"]
    assert changed(run(tmp_path, job, *STAGES)) == {"tokenize"}


@pytest.mark.parametrize(
    ("corpus", "message"),
    [
        ({"clean": ["augment", "normalize"]}, "augment must be the last block of clean; move it to the end"),
        ({"augment": {"delete": 0.6, "swap": 0.5}}, "must not exceed 1 in sum"),
        ({"augment": {"synonym": 0.1}}, "synonym needs synonyms; give some"),
    ],
)
def test_what_cannot_be(corpus: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Corpus.model_validate({"sources": [{"name": "a", "uri": "b"}], **corpus})
