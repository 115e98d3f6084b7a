"""What preflight finds before anything heavy starts."""

from __future__ import annotations

import gzip
import time
from pathlib import Path
from typing import Any

import obstore
import pytest
from pretrain_preprocess.preflight import PreflightSpec, preflight, probe
from pretrain_stage import config
from pretrain_stage.config import read_job
from pretrain_stage.errors import EXIT_USER_ERROR, StorageError, UserError
from pretrain_stage.storage import Storage, open_storage, s3_store

from tests.preprocess import texts
from tests.preprocess.stages import Event, Spec, events, program, spec, write_job, write_jsonl
from tests.preprocess.test_readers import as_parquet
from tests.preprocess.test_tokens import given_tokenizer
from tests.seaweedfs import BUCKET, SeaweedFS


def job_with(folder: Path, *sources: Spec, **fields: Any) -> Spec:
    if not sources:
        write_jsonl(folder / "raw" / "a.jsonl", texts.english()[:5])
    return {**spec(folder / "storage", *(sources or [{"uri": str(folder / "raw")}])), **fields}


def check(folder: Path, job: Spec) -> list[Event]:
    """Runs preflight in this process; errors are raised."""
    import io
    from contextlib import redirect_stdout

    said = io.StringIO()
    with redirect_stdout(said):
        preflight(read_job(write_job(folder, job), PreflightSpec))
    return events(said.getvalue().splitlines())


def test_it_tells_what_is_there_in_seconds_and_leaves_nothing(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "raw" / "a.jsonl", texts.english())
    (tmp_path / "raw" / "b.jsonl.gz").write_bytes(gzip.compress((tmp_path / "raw" / "a.jsonl").read_bytes()))
    job = job_with(
        tmp_path, {"uri": str(tmp_path / "raw")}, training={"tokens": 1_000, "other": 1}, model={"preset": "tiny"}
    )
    job["corpus"]["clean"] = ["extract", "normalize", "language", "quality", "pii"]
    started = time.monotonic()
    done = program(write_job(tmp_path, job), "preflight")
    assert done.returncode == 0, done.stdout + done.stderr
    assert time.monotonic() - started < 20
    (result,) = events(done.stdout.splitlines())
    sizes = [path.stat().st_size for path in (tmp_path / "raw").iterdir()]
    text = sum(len(text.encode()) for text in texts.english())
    assert result["facts"]["source_bytes"] == {"source-0": sum(sizes)}
    assert result["facts"]["source_files"] == {"source-0": 2}
    assert result["facts"]["tokens_estimate"] == pytest.approx(2 * text / 4, rel=0.01)
    assert list((tmp_path / "storage").rglob("*")) == []


@pytest.mark.parametrize(
    ("name", "content", "fields", "message"),
    [
        ("a.jsonl", b'{"body": 1}\n', {}, r"corpus\.sources\[1\]\.textField: 'text' is not a field of .*; it has body"),
        ("a.jsonl", b"", {}, r"corpus\.sources\[1\]\.uri: .*: no documents in .*a\.jsonl"),
        (
            "a.jsonl",
            b"x\n" * 5,
            {},
            r"corpus\.sources\[1\]\.uri: .*: none of the first 5 records can be used \(broken_json 5\)",
        ),
        (
            "a.csv",
            b"id,body\n1,x\n",
            {"format": "csv"},
            r"corpus\.sources\[1\]\.textField: 'text' is not .*; it has id, body",
        ),
        (
            "a.parquet",
            as_parquet(n=[1]),
            {"format": "parquet"},
            r"corpus\.sources\[1\]\.textField: 'text' is not .*; it has n",
        ),
        ("a.parquet", b"PAR1", {"format": "parquet"}, r".*a\.parquet: the parquet file is cut off or damaged"),
        ("a.jsonl.gz", gzip.compress(b"{}" * 9_000)[:20], {}, r".*a\.jsonl\.gz: the compressed file is cut off"),
        ("other.txt", b"x", {}, r"corpus\.sources\[1\]\.uri: .*holds no file with a name of format jsonl"),
    ],
    ids=["field", "empty", "no json", "column", "parquet column", "parquet", "gzip", "format"],
)
def test_a_source_that_cannot_be_used_is_named(
    tmp_path: Path, name: str, content: bytes, fields: dict[str, str], message: str
) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / name).write_bytes(content)
    write_jsonl(tmp_path / "raw" / "a.jsonl", ["good"])
    with pytest.raises(UserError, match=f"^{message}"):
        check(tmp_path, job_with(tmp_path, {"uri": str(tmp_path / "raw")}, {"uri": str(tmp_path / "bad"), **fields}))


def test_the_file_after_an_empty_one_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "0.jsonl").touch()
    write_jsonl(tmp_path / "raw" / "1.jsonl", ["x" * 400])
    (result,) = check(tmp_path, job_with(tmp_path, {"uri": str(tmp_path / "raw")}))
    assert result["facts"]["tokens_estimate"] == 100


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"model": {"vocabSize": 299}},
            r"model\.vocabSize: 299 does not hold the 400 entries of tokenizer\.train\.vocabSize; raise it",
        ),
        (
            {"tokenizer": {"train": {"vocabSize": 400, "algorithm": "unigram"}}},
            r"tokenizer\.train\.vocabSize: 400 is too small",
        ),
        (
            {"training": {"objective": "span-corruption", "sequenceLength": 128}},
            r"training\.objective: span-corruption takes 7 spans .* set tokenizer\.train\.sentinels to 7",
        ),
        ({"tokenizer": {"uri": "nowhere.json"}}, r"tokenizer\.uri: nowhere\.json: no such file"),
        ({"tokenizer": {"uri": "GIVEN", "endOfText": "</s>"}}, r"tokenizer\.endOfText: '</s>' is no token of"),
        (
            {"tokenizer": {"uri": "GIVEN"}, "model": {"vocabSize": 100}},
            r"model\.vocabSize: 100 does not hold the 151 entries of",
        ),
        (
            {"training": {"tokens": 10**12}},
            r"training\.tokens: 1,000,000,000,000 cannot come from about .* bytes of text in 100 passes",
        ),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    given_tokenizer(tmp_path / "given.json", 50)
    if fields.get("tokenizer", {}).get("uri") == "GIVEN":
        fields = {**fields, "tokenizer": {**fields["tokenizer"], "uri": str(tmp_path / "given.json")}}
    with pytest.raises(UserError, match=f"^{message}"):
        check(tmp_path, job_with(tmp_path, **fields))


def test_little_text_is_a_warning(tmp_path: Path) -> None:
    size = sum(len(text.encode()) for text in texts.english()[:5])
    said = check(tmp_path, job_with(tmp_path, training={"tokens": size, "maxEpochs": 2}))
    (warning,) = [event for event in said if event["event"] == "warning"]
    assert warning["message"].startswith(f"training.tokens: {size:,} may need more than 2 passes over roughly")
    assert all(
        e["event"] == "result" for e in check(tmp_path, job_with(tmp_path, training={"tokens": size, "maxEpochs": 5}))
    )


def test_pages_without_extraction_are_a_warning(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.html").write_text(texts.pages()[0])
    warning, _ = check(tmp_path, job_with(tmp_path, {"uri": str(tmp_path / "raw"), "format": "html"}))
    assert warning["message"].startswith("corpus.clean: has no block extract, so the pages of source-0 stay HTML")


@pytest.mark.parametrize(
    ("keep", "clean", "message"),
    [
        (["en", "xq"], ["language"], r"corpus\.language\.keep: 'xq' is no language that the detector knows; it knows .*zh"),
        (["ja"], ["language", "quality"], r"corpus\.language\.keep: 'ja' is written without spaces"),
    ],
)
def test_a_language_that_cannot_be_kept_is_named(tmp_path: Path, keep: list[str], clean: list[str], message: str) -> None:
    job = job_with(tmp_path)
    job["corpus"] |= {"clean": clean, "language": {"keep": keep}}
    with pytest.raises(UserError, match=f"^{message}"):
        check(tmp_path, job)


def test_s3_is_tried_before_it_is_needed(
    tmp_path: Path, seaweedfs: SeaweedFS, s3_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = s3_store(BUCKET, s3_uri.removeprefix(f"s3://{BUCKET}/"), seaweedfs.endpoint, None)
    obstore.put(store, "raw/a.parquet", as_parquet(text=list(texts.english())))
    obstore.put(store, "raw/b.jsonl.gz", gzip.compress(b'{"text": "some text"}\n' * 9))
    sources = [{"uri": f"{s3_uri}/raw", "format": "parquet"}, {"uri": f"{s3_uri}/raw/*.gz"}]
    job = {**job_with(tmp_path, *sources), "storage": {"uri": f"{s3_uri}/out", "endpointURL": seaweedfs.endpoint}}
    (result,) = check(tmp_path, job)
    assert result["facts"]["source_files"] == {"source-0": 1, "source-1": 1}
    assert result["facts"]["tokens_estimate"] > 10_000
    assert open_storage(config.Storage.model_validate(job["storage"])).entries() == []

    for name, value in seaweedfs.reader.environment().items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StorageError, match=r"^storage: not allowed to write s3://.*/out/preflight-.*check the credentials"):
        check(tmp_path, job)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    done = program(write_job(tmp_path, job), "preflight")
    assert done.returncode == EXIT_USER_ERROR
    assert "check the credentials" in done.stdout


def test_storage_that_lets_two_win_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = open_storage(config.Storage(uri=str(tmp_path / "storage")))
    probe(storage)

    def create(self: Storage, path: str, data: bytes) -> bool:
        self.write(path, data)
        return True

    monkeypatch.setattr(Storage, "create", create)
    with pytest.raises(StorageError, match=r"^storage\.uri: .*lets an object be created twice; use a service"):
        probe(storage)
    assert list((tmp_path / "storage").iterdir()) == []


def test_examples_that_are_not_there_are_named_before_anything_runs(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "labelled" / "a.jsonl", ["a"])
    there = {"name": "there", "task": "classification", "examples": {"uri": str(tmp_path / "labelled")}}
    (result,) = check(tmp_path, job_with(tmp_path, finetune=[there]))
    assert result["facts"]["example_bytes"] == {"there": len('{"text": "a"}\n')}
    for examples, message in (
        (
            {"uri": str(tmp_path / "nowhere")},
            f"{tmp_path}/nowhere: no such file or folder; correct it, or put the files there",
        ),
        (
            {"uri": str(tmp_path / "labelled"), "format": "csv"},
            f"{tmp_path}/labelled: holds no file with a name of format csv (.csv) (found a.jsonl); correct format, or give a pattern",
        ),
    ):
        job = job_with(tmp_path, finetune=[there, {**there, "name": "gone", "examples": examples}])
        with pytest.raises(UserError) as error:
            check(tmp_path, job)
        assert str(error.value) == f"finetune[1].examples.uri: {message}"
    tagged = {**there, "task": "token-classification", "examples": {"uri": str(tmp_path / "labelled"), "format": "csv"}}
    with pytest.raises(UserError, match=r"^finetune\[0\]\.examples\.format: csv has no lists, which wordsField is to hold"):
        check(tmp_path, job_with(tmp_path, finetune=[tagged]))
