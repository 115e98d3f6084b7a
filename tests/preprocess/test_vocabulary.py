"""The report on the vocabulary: checked against counting the tokens of each document by hand."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from pretrain_preprocess.split import is_held_out
from pretrain_preprocess.tokens import words_of
from pretrain_preprocess.vocabulary import by_decade
from pretrain_preprocess.vocabulary_picture import picture
from tokenizers import Tokenizer

from tests.preprocess import texts
from tests.preprocess.stages import Spec, manifest, run, spec, write_jsonl
from tests.seaweedfs import SeaweedFS

STAGES = ("clean", "tokenizer", "tokenize", "vocabulary")


def corpus(folder: Path, **train: Any) -> tuple[Spec, dict[str, tuple[str, ...]]]:
    """English and Chinese as sources of their own, in two tasks."""
    of_source = {"en": texts.english()[:40], "zh": texts.chinese()[:60]}
    for source, documents in of_source.items():
        write_jsonl(folder / source / "a.jsonl", documents)
    sources = ({"name": source, "uri": str(folder / source)} for source in of_source)
    job = spec(folder / "storage", *sources, tasks=2, heldOutFraction=0.2)
    return {**job, "tokenizer": {"train": train}}, of_source


def report(folder: Path, job: Spec) -> dict[str, Any]:
    run(folder, job, *STAGES)
    found: dict[str, Any] = json.loads((folder / "storage" / "reports" / "vocabulary.json").read_text())
    return found


def table(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "storage" / "reports" / "vocabulary.tsv").read_text().splitlines()
    rows = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    whole = ("rank", "id", "train", "held_out")
    return [
        {key: int(value) if key in whole else json.loads(value) for key, value in row.items() if value is not None}
        for row in rows
    ]


@pytest.mark.parametrize(
    ("train", "unknown"),
    [
        ({"vocabSize": 600}, None),
        ({"vocabSize": 700, "algorithm": "wordpiece"}, "<unk>"),
        ({"vocabSize": 2_000, "algorithm": "word"}, "<unk>"),
    ],
    ids=["bpe", "wordpiece", "word"],
)
def test_all_is_counted(tmp_path: Path, train: dict[str, Any], unknown: str | None) -> None:
    job, of_source = corpus(tmp_path, **train)
    found = report(tmp_path, job)
    tokenizer = Tokenizer.from_file(str(tmp_path / "storage" / "tokenizer" / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    seen: Counter[int] = Counter()
    held_out: Counter[int] = Counter()
    for source, documents in of_source.items():
        for split, chosen in (("train", False), ("held_out", True)):
            mine = [text for text in documents if is_held_out(text, 0.2) is chosen]
            counts = Counter(number for text in mine for number in tokenizer.encode(text).ids)
            (held_out if chosen else seen).update(counts)
            figures = found["sources"][source][split]
            assert figures["tokens"] == counts.total() > 0
            assert (figures["documents"], figures["types"]) == (len(mine), len(counts))
            assert figures["tokens_per_character"] == pytest.approx(counts.total() / sum(map(len, mine)), rel=1e-4)
            assert figures["tokens_per_byte"] == pytest.approx(counts.total() / sum(len(t.encode()) for t in mine), rel=1e-4)
            share = counts[tokenizer.get_vocab()[unknown]] / counts.total() if unknown else 0
            assert figures["unknown_share"] == pytest.approx(share, abs=1e-6)
            assert ("tokens_per_word" in figures) is chosen
            if chosen:
                words = sum(map(words_of, mine))
                assert figures["tokens_per_word"] == pytest.approx(counts.total() / words, rel=1e-4)
    assert found["tokens"] == seen.total()
    chinese = Counter(number for text in of_source["zh"] if is_held_out(text, 0.2) for number in tokenizer.encode(text).ids)
    for figures, unseen in ((found["all"]["held_out"], held_out), (found["sources"]["zh"]["held_out"], chinese)):
        assert figures["types_seen_share"] == pytest.approx(len(unseen.keys() & seen.keys()) / len(unseen), abs=1e-6)
        known = sum(number for token, number in unseen.items() if token in seen)
        assert figures["tokens_seen_share"] == pytest.approx(known / unseen.total(), abs=1e-6)
    figures = found["all"]["held_out"]
    if unknown:
        assert figures["unknown_share"] > 0

    entries = tokenizer.get_vocab_size() - 5  # the special tokens, of which <unk> is none: it stands for text
    rows = table(tmp_path)
    assert len(rows) == found["entries"] == entries
    assert [row["rank"] for row in rows] == list(range(1, entries + 1))
    assert {row["id"]: row["train"] for row in rows if row["train"]} == dict(seen)
    assert {row["id"]: row["held_out"] for row in rows if row["held_out"]} == dict(held_out)
    assert [row["train"] for row in rows] == sorted((row["train"] for row in rows), reverse=True)
    assert all(row["token"] == tokenizer.id_to_token(row["id"]) for row in rows)
    assert found["used"] == len(seen)
    assert found["unused"] == entries - len(seen) == found["entries_by_count"]["0"]
    assert found["rare"] == sum(number < 10 for number in seen.values())
    assert sum(found["entries_by_count"].values()) == entries
    assert found["covered_by"]["100"] == pytest.approx(sum(row["train"] for row in rows[:100]) / seen.total(), abs=1e-6)
    first = found["most_frequent"][0]
    assert (first["rank"], first["count"]) == (1, seen.most_common(1)[0][1])
    assert len(found["most_frequent"]) == min(1_000, entries)
    assert found["others"]["tokens"] == sum(row["train"] for row in rows[1_000:])


def test_chinese_entries_can_be_read(tmp_path: Path) -> None:
    """Byte-level BPE writes its entries in signs that nobody reads; beside them stands their text."""
    job, _ = corpus(tmp_path, vocabSize=2_000)
    found = report(tmp_path, job)
    by_text = {row["text"]: row["token"] for row in found["most_frequent"]}
    assert by_text["的"] == "çļĦ"
    assert " the" in by_text


def test_it_is_run_again_for_other_tokens_only(tmp_path: Path) -> None:
    job, _ = corpus(tmp_path, vocabSize=400)
    report(tmp_path, job)
    facts = manifest(job, "vocabulary").facts
    assert facts["unused"] == 400 - 5 - int(str(facts["used"]))
    said = [event for event in run(tmp_path, job, *STAGES) if event["event"] == "result"]
    assert all(event["unchanged"] for event in said)
    job["tokenizer"]["train"]["vocabSize"] = 401
    said = [event for event in run(tmp_path, job, *STAGES) if event["event"] == "result" and not event["unchanged"]]
    assert [event["stage"] for event in said] == ["tokenizer", "tokenize", "tokenize", "vocabulary"]


def test_tokens_in_s3_are_counted_too(tmp_path: Path, seaweedfs: SeaweedFS, s3_uri: str) -> None:
    here, _ = corpus(tmp_path, vocabSize=400)
    there = {**here, "storage": {"uri": s3_uri, "endpointURL": seaweedfs.endpoint}}
    for job in (here, there):
        run(tmp_path, job, *STAGES)
    assert manifest(there, "vocabulary").outputs == manifest(here, "vocabulary").outputs


def test_the_picture_is_xml_with_a_line_and_bars(tmp_path: Path) -> None:
    job, _ = corpus(tmp_path, vocabSize=600)
    report(tmp_path, job)
    root = ElementTree.parse(tmp_path / "storage" / "reports" / "vocabulary.svg").getroot()
    assert root is not None
    tag = "{http://www.w3.org/2000/svg}"
    words = [text.text for text in root.iter(f"{tag}text")]
    assert {"en", "zh"} <= set(words)
    (line,) = root.iter(f"{tag}polyline")
    heights = [float(point.split(",")[1]) for point in line.attrib["points"].split()]
    assert len(heights) > 50
    assert heights == sorted(heights), "it falls with the rank"
    assert len([bar for bar in root.iter(f"{tag}rect") if bar.get("class") == "bar"]) == 2


@pytest.mark.parametrize("times", [[], [1], [10, 1], [5] * 1_000])
def test_a_picture_of_little(times: list[int]) -> None:
    drawn = picture(np.array(times, np.int64), {"a < b": 1.5} if times else {})
    ElementTree.fromstring(drawn)
    assert "nan" not in drawn


def test_entries_by_how_often_they_occur() -> None:
    assert by_decade(np.array([0, 0, 1, 2, 9, 10, 99, 100])) == {"0": 2, "1": 1, "2-9": 2, "10-99": 2, "100-999": 1}
    assert by_decade(np.array([], np.int64)) == {"0": 0, "1": 0}
