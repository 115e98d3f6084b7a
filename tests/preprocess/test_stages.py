"""Whole stages as the engines run them: restarts, bad input, S3, metrics."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
import urllib.request
from datetime import datetime
from pathlib import Path
from typing import Any

import obstore
import pytest
from pretrain_preprocess import catalogue
from pretrain_preprocess import task as task_module
from pretrain_preprocess.config import PreprocessSpec
from pretrain_preprocess.metrics import Metrics
from pretrain_preprocess.stages import STAGES, corpus_stage
from pretrain_stage.catalogue import STORAGE_ERRORS
from pretrain_stage.config import read_job
from pretrain_stage.errors import EXIT_TEMPORARY, EXIT_USER_ERROR, UserError
from pretrain_stage.metric import Metric
from pretrain_stage.storage import s3_store
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from tests.preprocess import texts
from tests.preprocess.stages import (
    Spec,
    contents,
    documents,
    events,
    load,
    manifest,
    program,
    run,
    spec,
    write_job,
    write_jsonl,
)
from tests.seaweedfs import BUCKET, SeaweedFS, free_ports

Series = tuple[str, frozenset[tuple[str, str]]]
"""Name and labels."""

CHAIN = ("clean", "minhash-signatures", "minhash-buckets", "minhash-cluster", "minhash-filter", "tokenizer", "tokenize")


def mixed_corpus(folder: Path) -> list[Spec]:
    """Chinese and English, jsonl and HTML, whole and compressed; some documents twice."""
    raw = folder / "raw"
    articles = [text for text in texts.chinese() if len(text) > 500][:40]
    write_jsonl(raw / "zh" / "a.jsonl", articles[:30])
    (raw / "zh" / "b.jsonl.gz").write_bytes(gzip.compress(write_jsonl(raw / "b", articles[20:]).read_bytes(), mtime=0))
    write_jsonl(raw / "en.jsonl", texts.english()[:10])
    (raw / "pages").mkdir()
    for number, page in enumerate(texts.pages()[:3]):
        (raw / "pages" / f"{number}.html").write_text(page)
    return [
        {"name": "zh", "uri": str(raw / "zh")},
        {"name": "en", "uri": str(raw / "en.jsonl")},
        {"name": "pages", "uri": str(raw / "pages"), "format": "html"},
    ]


def whole(folder: Path, storage: Path | str, tasks: int = 2) -> Spec:
    """A job with every block and near-duplicate detection."""
    job = spec(
        storage,
        *mixed_corpus(folder),
        clean=["extract", "normalize", "language", "quality", "pii"],
        quality={"rules": ["gopher-repetition"]},
        deduplicate={"method": "minhash", "minhash": {"buckets": 4, "hashesPerBucket": 4}},
        heldOutFraction=0.1,
        tasks=tasks,
    )
    return {**job, "tokenizer": {"train": {"vocabSize": 700}}}


def test_the_whole_chain_adds_up_and_is_not_run_twice(tmp_path: Path) -> None:
    job = whole(tmp_path, tmp_path / "storage")
    run(tmp_path, job, *CHAIN)
    clean, deduplicated = manifest(job, "clean"), manifest(job, "minhash-filter")
    assert clean.counts.read == 30 + 20 + 10 + 3
    assert clean.counts.dropped["quality"]
    assert deduplicated.counts.read == clean.counts.kept
    assert deduplicated.counts.dropped["deduplicate"]["minhash"] >= 8
    assert manifest(job, "tokenize").counts.read == manifest(job, "tokenizer").counts.read == deduplicated.counts.kept
    by_source = clean.facts["documents_by_source"]
    assert isinstance(by_source, dict)
    assert by_source["zh"] == 50
    assert clean.facts["source_bytes"] == sum(path.stat().st_size for path in (tmp_path / "raw" / "zh").iterdir()) + sum(
        path.stat().st_size for path in [tmp_path / "raw" / "en.jsonl", *(tmp_path / "raw" / "pages").iterdir()]
    )
    assert clean.inputs.keys() == {"sources"}
    assert deduplicated.inputs == {"clean": clean.digest, "minhash-cluster": manifest(job, "minhash-cluster").digest}
    assert "markup" not in json.dumps([documents(job, "clean")])

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "storage").rglob("*") if path.is_file()}
    said = run(tmp_path, job, *CHAIN)
    assert {event["unchanged"] for event in said if event["event"] == "result"} == {True}
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "storage").rglob("*") if path.is_file()}


def changed(said: list[dict[str, Any]]) -> set[str]:
    return {event["stage"] for event in said if event["event"] == "result" and not event["unchanged"]}


def test_a_change_runs_again_what_follows_from_it_and_nothing_else(tmp_path: Path) -> None:
    job = whole(tmp_path, tmp_path / "storage")
    run(tmp_path, job, *CHAIN)
    job["tokenizer"]["train"]["minFrequency"] = 3
    assert changed(run(tmp_path, job, *CHAIN)) == {"tokenizer", "tokenize"}
    job["corpus"]["maxBadRecordFraction"] = 0.5  # decides whether the stage is good, not what comes out
    job["corpus"]["parallelism"] = 2
    assert changed(run(tmp_path, job, *CHAIN)) == set()
    for source in job["corpus"]["sources"]:
        source["weight"] = 2  # decides how often training sees it
    assert changed(run(tmp_path, job, *CHAIN)) == set()
    job["corpus"]["language"] = {"keep": ["zh", "en", "fr"]}  # gives the same documents, but under another configuration
    assert changed(run(tmp_path, job, *CHAIN)) == set(CHAIN)
    job["corpus"]["deduplicate"]["minhash"]["ngram"] = 4
    assert changed(run(tmp_path, job, *CHAIN)) == set(CHAIN) - {"clean"}
    write_jsonl(tmp_path / "raw" / "en.jsonl", texts.english()[:11])
    assert changed(run(tmp_path, job, *CHAIN)) == set(CHAIN)
    (tmp_path / "storage" / "corpus" / "clean" / "00001.jsonl.zst").unlink()
    again = [event for event in run(tmp_path, job, *CHAIN) if event["event"] == "result" and not event["unchanged"]]
    assert [(event["stage"], event["index"]) for event in again] == [("clean", 1)]


def test_an_unchanged_stage_imports_nothing_heavy(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "raw" / "a.jsonl", texts.english()[:3])
    job = spec(tmp_path / "storage", {"uri": str(tmp_path / "raw")}, clean=["normalize"])
    run(tmp_path, job, "clean")
    code = (
        "import sys; from pretrain_preprocess.__main__ import main; code = main(); "
        "heavy = {'datatrove', 'numpy', 'spacy', 'tokenizers', 'pyarrow', 'trafilatura', 'zstandard'} & sys.modules.keys(); "
        "sys.exit(code or ', '.join(sorted(heavy)) or 0)"
    )
    path = write_job(tmp_path, job)
    done = subprocess.run([sys.executable, "-c", code, "clean", "--job", path], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert [event["unchanged"] for event in events(done.stdout.splitlines())] == [True]


def kill_somewhere(job: Path, stage: str, after: float) -> bool:
    """Starts the stage's program and kills it. Whether it was still at work."""
    with subprocess.Popen(
        [sys.executable, "-m", "pretrain_preprocess", stage, "--job", str(job), "--stride", "1"], stdout=subprocess.DEVNULL
    ) as process:
        time.sleep(after)
        process.send_signal(signal.SIGKILL)
        return process.wait() == -signal.SIGKILL


@pytest.mark.slow
def test_a_killed_stage_ends_with_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    job = whole(tmp_path, tmp_path / "undisturbed", tasks=4)
    run(tmp_path, job, *CHAIN)
    disturbed = {**job, "storage": {"uri": str(tmp_path / "killed")}}
    path = write_job(tmp_path, disturbed, "killed.json")
    chance, killed = random.Random(7), 0
    for stage in CHAIN:
        started = time.monotonic()
        killed += kill_somewhere(path, stage, 0.5 + 1.5 * chance.random())
        done = program(path, stage, "--stride", "1")
        assert done.returncode == 0, done.stdout + done.stderr
        assert time.monotonic() - started < 60
    assert killed >= len(CHAIN) // 2, "most were killed at work"
    assert contents(tmp_path / "killed") == contents(tmp_path / "undisturbed")
    for stage in CHAIN:
        assert manifest(disturbed, stage).digest == manifest(job, stage).digest


def test_a_task_that_dies_before_its_part_leaves_nothing_that_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_jsonl(tmp_path / "raw" / "a.jsonl", texts.english()[:4])
    write_jsonl(tmp_path / "raw" / "b.jsonl", texts.english()[4:8])
    job = spec(tmp_path / "storage", {"uri": str(tmp_path / "raw")}, tasks=2)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(task_module, "leave_part", die)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, job, "clean")
    assert (tmp_path / "storage" / "corpus" / "clean" / "00000.jsonl.zst").exists()
    assert not (tmp_path / "storage" / "stages").exists()
    said = run(tmp_path, job, "clean")
    assert [event["unchanged"] for event in said if event["event"] == "result"] == [False, False]


def test_a_stage_that_read_less_than_its_input_kept_fails(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "raw" / "a.jsonl", texts.english()[:4])
    job = spec(tmp_path / "storage", {"uri": str(tmp_path / "raw")}, deduplicate={"method": "exact"})
    run(tmp_path, job, "clean")
    path = tmp_path / "storage" / "stages" / "clean" / "00000.json"
    part = json.loads(path.read_text())
    part["counts"] = {"read": 5, "kept": 5, "dropped": {}}
    path.write_text(json.dumps(part))
    with pytest.raises(UserError, match=r"corpus/clean/00000\.jsonl\.zst: holds 4 documents, but stage clean kept 5"):
        run(tmp_path, job, "exact-signatures")


@pytest.mark.parametrize(
    ("method", "stage", "missing"),
    [
        ("exact", "exact-signatures", "clean"),
        ("minhash", "minhash-filter", "clean"),
        ("none", "tokenizer", "clean"),
        ("none", "tokenize", "clean"),
    ],
)
def test_a_stage_waits_for_those_before_it(tmp_path: Path, method: str, stage: str, missing: str) -> None:
    write_jsonl(tmp_path / "raw" / "a.jsonl", ["text"])
    job = spec(tmp_path / "storage", {"uri": str(tmp_path / "raw")}, deduplicate={"method": method})
    with pytest.raises(
        UserError, match=f"^stage {stage} reads stage {missing}, which has not finished in .*storage; run that"
    ):
        run(tmp_path, job, stage)


def test_a_barrier_is_not_passed_while_a_task_is_missing(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "raw" / "a.jsonl", texts.english()[:2])
    job = spec(tmp_path / "storage", {"uri": str(tmp_path / "raw")}, tasks=3, deduplicate={"method": "exact"})
    run(tmp_path, job, "clean", order=[0, 2])
    with pytest.raises(UserError, match="reads stage clean, which has not finished"):
        run(tmp_path, job, "exact-signatures")
    run(tmp_path, job, "clean", order=[1])
    run(tmp_path, job, "exact-signatures")


BAD = b'{"text": "good"}\n' * 990 + b"broken\n" * 6 + b'{"text": "\xff"}\n' * 4


def test_bad_records_are_tolerated_up_to_the_limit(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.jsonl").write_bytes(BAD)
    job = spec(tmp_path / "storage", {"uri": str(tmp_path / "raw")}, maxBadRecordFraction=0.009)
    message = (
        r"^corpus\.maxBadRecordFraction: 10 of 1000 records \(1\.00%\) are unreadable \(broken_json 6, undecodable 4\), "
        r"0\.90% are allowed; mend the sources"
    )
    for _ in range(2):
        with pytest.raises(UserError, match=message):
            run(tmp_path, job, "clean")
        assert not (tmp_path / "storage" / "stages" / "clean.json").exists()
    job["corpus"]["maxBadRecordFraction"] = 0.01
    said = run(tmp_path, job, "clean")
    assert changed(said) == set(), "the limit decides nothing about the documents"
    assert manifest(job, "clean").counts.dropped == {"read": {"broken_json": 6, "undecodable": 4}}


@pytest.mark.parametrize(
    ("content", "corpus", "message"),
    [
        (b"", {}, r"corpus\.sources: their files hold no documents; check uri, format"),
        (b"\n\n", {}, r"corpus\.sources: their files hold no documents"),
        (
            b'{"text": "short"}\n{"text": " "}\n',
            {"clean": ["quality"]},
            r"corpus\.clean: all 2 documents were dropped \(quality\.gopher_short_doc 1, read\.empty 1\); loosen the block",
        ),
        (b'{"body": "x"}\n', {}, r"corpus\.sources\[0\]\.textField: 'text' is not a field of .*a\.jsonl; it has body"),
        (gzip.compress(b'{"text": "x"}\n' * 999)[:-9], {}, r".*a\.jsonl\.gz: the compressed file is cut off or damaged"),
    ],
    ids=["empty file", "empty lines", "all dropped", "no such field", "cut off"],
)
def test_a_source_that_is_of_no_use_ends_the_program(
    tmp_path: Path, content: bytes, corpus: dict[str, Any], message: str
) -> None:
    (tmp_path / "raw").mkdir()
    name = "a.jsonl.gz" if content.startswith(b"\x1f\x8b") else "a.jsonl"
    (tmp_path / "raw" / name).write_bytes(content)
    job = spec(tmp_path / "storage", {"uri": str(tmp_path / "raw")}, **corpus)
    done = program(write_job(tmp_path, job), "clean")
    assert done.returncode == EXIT_USER_ERROR, done.stdout + done.stderr
    (error,) = [event for event in events(done.stdout.splitlines()) if event["event"] == "error"]
    assert re.match(message, error["message"]), error["message"]
    assert "traceback" not in error
    assert not (tmp_path / "storage" / "stages" / "clean.json").exists()


def test_a_source_that_changes_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_jsonl(tmp_path / "raw" / "a.jsonl", ["text"])
    job = spec(tmp_path / "storage", {"uri": str(tmp_path / "raw")})
    plan = task_module.plan_stage(load(tmp_path, job), STAGES["clean"])
    monkeypatch.setattr(task_module, "plan_stage", lambda *_: plan)
    path.write_text('{"text": "another text"}\n')
    with pytest.raises(UserError, match=r"a\.jsonl: changed since this stage began; leave the sources alone"):
        run(tmp_path, job, "clean")
    path.unlink()
    with pytest.raises(UserError, match=r"a\.jsonl: gone since this stage began"):
        run(tmp_path, job, "clean")


def test_a_full_disk_is_named_and_leaves_nothing_that_counts(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "raw" / "a.jsonl", [*texts.english(), *texts.chinese()[:300]])
    job = spec(tmp_path / "storage", {"uri": str(tmp_path / "raw")})
    path = write_job(tmp_path, job)

    def no_large_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as where the disk is full, writing fails
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    done = subprocess.run(
        [sys.executable, "-m", "pretrain_preprocess", "clean", "--job", path],
        capture_output=True,
        text=True,
        preexec_fn=no_large_files,
    )
    assert done.returncode == EXIT_TEMPORARY, done.stdout + done.stderr
    (error,) = [event for event in events(done.stdout.splitlines()) if event["event"] == "error"]
    assert "free some space, or set TMPDIR to a larger disk. What is finished is kept" in error["message"]
    assert not (tmp_path / "storage" / "stages").exists()
    assert program(path, "clean").returncode == 0


def mount_tmpfs(folder: Path, size: str) -> bool:
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    return os.geteuid() == 0 and subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.parametrize("full", ["scratch", "storage"])
def test_a_disk_that_is_really_full(tmp_path: Path, full: str) -> None:
    disk = tmp_path / "disk"
    if not mount_tmpfs(disk, "96k"):
        pytest.skip("mounting a small disk takes root")
    try:
        write_jsonl(tmp_path / "raw" / "a.jsonl", [*texts.english(), *texts.chinese()[:300]])
        job = spec(disk if full == "storage" else tmp_path / "storage", {"uri": str(tmp_path / "raw")})
        done = program(write_job(tmp_path, job), "clean", TMPDIR=str(disk if full == "scratch" else tmp_path))
        assert done.returncode == EXIT_TEMPORARY, done.stdout + done.stderr
        (error,) = [event for event in events(done.stdout.splitlines()) if event["event"] == "error"]
        assert "No space left on device" in error["message"]
        assert "free some space" in error["message"]
        assert not list(tmp_path.rglob("stages/clean*"))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.slow
def test_everything_may_be_in_s3(tmp_path: Path, seaweedfs: SeaweedFS, s3_uri: str) -> None:
    here = whole(tmp_path, tmp_path / "storage")
    run(tmp_path, here, *CHAIN)
    store = s3_store(BUCKET, s3_uri.removeprefix(f"s3://{BUCKET}/"), seaweedfs.endpoint, None)
    for path in (tmp_path / "raw").rglob("*"):
        if path.is_file():
            obstore.put(store, f"raw/{path.relative_to(tmp_path / 'raw')}", path)
    there = json.loads(json.dumps(here).replace(str(tmp_path / "raw"), f"{s3_uri}/raw"))
    there["storage"] = {"uri": f"{s3_uri}/out", "endpointURL": seaweedfs.endpoint}
    for stage in CHAIN:
        done = program(write_job(tmp_path, there, "s3.json"), stage, "--stride", "1")
        assert done.returncode == 0, done.stdout + done.stderr
        assert manifest(there, stage).outputs == manifest(here, stage).outputs, stage
    given = {**there, "tokenizer": {"uri": f"{s3_uri}/out/tokenizer/tokenizer.json"}}
    run(tmp_path, given, "tokenizer")
    assert manifest(given, "tokenizer").facts["sha256"] == manifest(here, "tokenizer").facts["sha256"]
    missing = {**there, "tokenizer": {"uri": f"{s3_uri}/out/nothing.json"}}
    with pytest.raises(UserError, match=r"^tokenizer\.uri: s3://.*nothing\.json: no such file"):
        run(tmp_path, missing, "tokenizer")


def test_the_command_line_is_checked(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "raw" / "a.jsonl", ["text"])
    job = write_job(tmp_path, spec(tmp_path / "storage", {"uri": str(tmp_path / "raw")}, tasks=2))
    done = program(job, "clean", "--index", "2")
    assert done.returncode == EXIT_USER_ERROR
    assert "--index: 2, but stage clean of this job has 2 tasks, from 0 on" in done.stdout
    for wrong in (["clear"], ["clean", "--index", "-1"], ["clean", "--stride", "0"]):
        assert program(job, *wrong).returncode == 2
    assert program(tmp_path / "nothing.json", "clean").returncode == EXIT_USER_ERROR
    shown = program(job, "clean", "--help").stdout
    assert all(stage in shown for stage in STAGES)


def test_a_stride_shares_the_tasks(tmp_path: Path) -> None:
    for number in range(5):
        write_jsonl(tmp_path / "raw" / f"{number}.jsonl", texts.english()[number : number + 1])
    job = write_job(tmp_path, spec(tmp_path / "storage", {"uri": str(tmp_path / "raw")}, tasks=5))
    done = [program(job, "clean", "--index", str(index), "--stride", "2") for index in range(2)]
    results = [[e["index"] for e in events(d.stdout.splitlines()) if e["event"] == "result"] for d in done]
    assert results == [[0, 2, 4], [1, 3]]
    assert (tmp_path / "storage" / "stages" / "clean.json").exists()


def test_documents_are_counted_for_prometheus(tmp_path: Path) -> None:
    """Exactly the metrics of the catalogues, labelled with the job, while tasks run one after another."""
    write_jsonl(tmp_path / "raw" / "a.jsonl", ["too short", *texts.english(), *texts.chinese()[:400]])
    write_jsonl(tmp_path / "raw" / "b.jsonl", texts.chinese()[400:800])
    job = spec(
        tmp_path / "storage",
        {"uri": str(tmp_path / "raw")},
        clean=["language", "quality"],
        language={"keep": ["zh"]},
        tasks=2,
    )
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "pretrain_preprocess", "clean", "--job", str(write_job(tmp_path, job)), "--stride", "1"]
    with subprocess.Popen([*command, "--metrics-port", str(port)], stdout=subprocess.PIPE, text=True) as process:
        seen: dict[Series, float] = {}
        while process.poll() is None:
            with contextlib.suppress(OSError):
                seen |= scraped(urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode())
            time.sleep(0.02)
    assert process.returncode == 0
    of_job = {"namespace": "default", "name": "test"}
    assert all(of_job.items() <= dict(labels).items() for _, labels in seen)
    assert {name for name, _ in seen} == {metric.name for metric in (*catalogue.METRICS, STORAGE_ERRORS)}

    def value(metric: Metric, **labels: str) -> float:
        assert {*of_job, *labels} == {*metric.labels}
        return seen[metric.name, frozenset({**of_job, **labels}.items())]

    counts = manifest(job, "clean").counts
    document = {"stage": "clean", "outcome": "read", "block": "", "reason": ""}
    dropped = value(catalogue.DOCUMENTS, **document | {"outcome": "dropped", "block": "language", "reason": "language_en"})
    assert dropped == counts.dropped["language"]["language_en"] >= len(texts.english())
    assert 0 < value(catalogue.DOCUMENTS, **document) <= counts.read
    assert 0 < value(catalogue.BYTES, stage="clean", outcome="read") <= counts.read_bytes
    assert 0 < value(catalogue.BYTES, stage="clean", outcome="kept") <= counts.kept_bytes
    assert 0 < value(catalogue.BYTES, stage="clean", outcome="dropped") <= counts.dropped_bytes
    assert value(catalogue.TASKS, stage="clean", result="done") >= 1
    assert value(STORAGE_ERRORS, operation="write") == 0


def scraped(page: str) -> dict[Series, float]:
    """The series of a page in Prometheus' text format."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def test_tasks_are_counted_by_how_they_end(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "raw" / "a.jsonl", texts.english()[:3])
    (tmp_path / "raw" / "b.jsonl.gz").write_bytes(b"no gzip")
    path = write_job(tmp_path, spec(tmp_path / "storage", {"uri": str(tmp_path / "raw")}, tasks=2))
    job = read_job(path, PreprocessSpec)
    metrics, registry = Metrics(job.metadata), CollectorRegistry()
    registry.register(metrics)
    with pytest.raises(UserError, match="cut off or damaged"):
        task_module.run_tasks(job, STAGES["clean"], 0, 1, metrics)
    (tmp_path / "raw" / "b.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a whole file now"}'))
    task_module.run_tasks(job, STAGES["clean"], 0, 1, metrics)
    task_module.run_tasks(job, STAGES["clean"], 0, 1, metrics)
    labels = {"namespace": "default", "name": "test", "stage": "clean"}
    ended = {
        result: registry.get_sample_value(catalogue.TASKS.name, {**labels, "result": result})
        for result in ("failed", "done", "unchanged")
    }
    assert ended["failed"] == 1
    assert ended["unchanged"] == 2
    assert ended["done"] in (2, 3)  # whichever task had the damaged file


def test_bytes_are_of_the_texts_as_they_go_in_and_out(tmp_path: Path) -> None:
    kept, again, dropped = "中文 and English\u00a0text", "中文 and english text", " " * 3
    write_jsonl(tmp_path / "raw" / "a.jsonl", [kept, again, dropped, 'a "quoted"\\ line'])
    job = spec(
        tmp_path / "storage", {"uri": str(tmp_path / "raw")}, clean=["normalize"], deduplicate={"method": "exact"},
        heldOutFraction=0.0,
    )  # fmt: skip
    run(tmp_path, job, "clean", "exact-signatures", "exact-find", "exact-filter", "tokenizer", "tokenize")
    clean, hashed, unique = (manifest(job, name).counts for name in ("clean", "exact-signatures", "exact-filter"))
    written = [text for _, text in documents(job, "clean")]
    last = [text for _, text in documents(job, "exact-filter")]
    assert (clean.read, clean.kept, unique.kept) == (4, 3, 2)
    assert clean.read_bytes == sum(len(text.encode()) for text in (kept, again, 'a "quoted"\\ line'))  # not what is empty
    assert clean.kept_bytes == hashed.read_bytes == hashed.kept_bytes == unique.read_bytes == utf8(written)
    assert clean.kept_bytes == clean.read_bytes - 1  # the no-break space has become a blank
    assert (unique.kept_bytes, unique.dropped_bytes) == (utf8(last), utf8(written) - utf8(last))
    assert manifest(job, "tokenize").counts.kept_bytes == manifest(job, "tokenize").facts["train_bytes"] == utf8(last)


def utf8(texts: list[str]) -> int:
    return sum(len(text.encode()) for text in texts)


def test_progress_is_told_at_most_once_a_second(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "raw" / "a.jsonl", texts.chinese()[:1_200])
    job = spec(tmp_path / "storage", {"uri": str(tmp_path / "raw")}, clean=["quality"])
    said = [event for event in run(tmp_path, job, "clean") if event["event"] == "progress"]
    assert said
    times = [datetime.fromisoformat(event["time"]).timestamp() for event in said]
    assert all(later - earlier > 0.9 for earlier, later in itertools.pairwise(times))
    size = (tmp_path / "raw" / "a.jsonl").stat().st_size
    assert all(0 < event["done"] <= event["total"] == size and event["unit"] == "bytes" for event in said)


def test_the_last_corpus_is_what_becomes_tokens() -> None:
    assert [
        corpus_stage(load(Path("/tmp"), spec("/tmp/x", {"uri": "x"}, deduplicate={"method": method})).spec)
        for method in ("none", "exact", "minhash")
    ] == ["clean", "exact-filter", "minhash-filter"]
