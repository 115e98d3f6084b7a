"""The batch of a step, of a job in a cluster whose storage is a real S3 server."""

from __future__ import annotations

import json
from pathlib import Path
from unittest import mock

import pytest
import typer
from pretrain_operator.kubectl.completion import job_files_and_names
from pretrain_operator.kubectl.refusal import ClusterError
from pretrain_operator.kubectl.traced import print_trace, summary, table, trace_job
from pretrain_stage import config
from pretrain_stage.errors import StorageError
from pretrain_stage.storage import open_storage
from pretrain_trainer.trace import Piece, Sample, Trace

from tests.kubectl.resources import resource
from tests.seaweedfs import SeaweedFS
from tests.trainer import jobs
from tests.trainer.test_trace import list_documents


class OneJob:
    """A cluster that has one job: a model and a batch for the tokens of the trainer's tests, in that storage."""

    def __init__(self, storage: dict[str, str]) -> None:
        self.body = resource()
        small = jobs.job("s3://x/y")["spec"]
        self.body["spec"] |= {"storage": storage, "model": small["model"], "training": small["training"]}

    def job(self, name: str, namespace: str) -> dict[str, object]:
        return self.body


def test_a_job_of_a_cluster(s3_uri: str, seaweedfs: SeaweedFS, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its endpoint is one inside the cluster; --endpoint stands in for it."""
    storage = open_storage(config.Storage(uri=s3_uri, endpointURL=seaweedfs.endpoint))
    jobs.prepare(storage, tmp_path)
    list_documents(storage, tmp_path)
    cluster = OneJob({"uri": s3_uri, "endpointURL": "http://s3.inside.svc:8333"})
    found = trace_job(cluster, "demo", "team", 7, seaweedfs.endpoint)  # type: ignore[arg-type]
    assert [sample.index for sample in found.samples] == list(range(6 * jobs.SAMPLES, 7 * jobs.SAMPLES))
    assert all(sum(piece.tokens for piece in sample.documents) == jobs.SEQUENCE + 1 for sample in found.samples)
    print_trace(found, as_json=True)
    printed = json.loads(capsys.readouterr().out)
    assert list(printed) == ["name", "storage", "step", "steps", "sequence_length", "samples"]
    assert list(printed["samples"][0]) == ["index", "sample", "epoch", "rank", "micro_step", "documents"]
    assert list(printed["samples"][0]["documents"][0]) == ["source", "file", "record", "id", "first", "tokens"]
    with pytest.raises(StorageError, match=r"does not answer from here.*port-forward service/s3 8333:8333"):
        trace_job(cluster, "demo", "team", 7, None)  # type: ignore[arg-type]
    with pytest.raises(ClusterError, match="is a folder of some pod"):
        trace_job(OneJob({"uri": "/data"}), "demo", "team", 7, None)  # type: ignore[arg-type]


def test_what_documents_are_called_reaches_a_terminal_as_text() -> None:
    pieces = (Piece("web", "a\x1b]0;x\x07.jsonl", 3, "one\ntwo", 0, 30), Piece("wiki", "b", 0, "b#0", 5, 10))
    found = Trace("demo", "s3://x", 2, 9, 39, (Sample(8, 5, 0, 1, 0, pieces),))
    assert summary(found) == "step 2 of 9: 1 samples of 39 tokens, from 2 documents (web 75%, wiki 25%)"
    assert [line.split() for line in table(found)[1:]] == [
        ["8", "1", "0", "web", "one", "two", "a.jsonl", "3", "30"],
        ["8", "1", "0", "wiki", "b#0", "b", "0", "10"],
    ]


def test_tab_offers_files_and_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("job.yaml", "job.json", "jobs.txt", ".hidden.yaml"):
        (tmp_path / name).touch()
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "a.yml").touch()
    context = mock.Mock(spec=typer.Context, params={"kubeconfig": str(tmp_path / "none")})
    monkeypatch.chdir(tmp_path)
    assert job_files_and_names(context, "") == ["job.json", "job.yaml", "jobs/"]
    assert job_files_and_names(context, "jobs/") == ["jobs/a.yml"]
    assert job_files_and_names(context, "job.y") == ["job.yaml"]
    assert job_files_and_names(context, "nowhere/") == []
