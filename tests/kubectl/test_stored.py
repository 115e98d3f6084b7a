"""Checkpoints as they lie in a real S3 server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pretrain_operator.kubectl.stored import Stored, print_checkpoints, stored, table
from pretrain_stage import config
from pretrain_stage.errors import StorageError
from pretrain_stage.storage import Storage, open_storage
from pretrain_trainer import checkpoint
from pretrain_trainer.checkpoint import CheckpointManifest, Folder

from tests.kubectl.resources import resource
from tests.seaweedfs import SeaweedFS, free_ports


class OneJob:
    """A cluster that has one job."""

    def __init__(self, storage: dict[str, Any]) -> None:
        self.body = resource()
        self.body["spec"]["storage"] = storage

    def job(self, name: str, namespace: str) -> dict[str, Any]:
        return self.body


def listed(storage: dict[str, Any], endpoint: str | None = None, **options: bool) -> None:
    print_checkpoints(OneJob(storage), "demo", "team", endpoint, **({"deep": False, "as_json": False} | options))  # type: ignore[arg-type]


@pytest.fixture
def storage(s3_uri: str, seaweedfs: SeaweedFS, tmp_path: Path) -> Storage:
    """Checkpoints of steps 10, 20 and 30 of two processes."""
    made = open_storage(config.Storage(uri=s3_uri, endpointURL=seaweedfs.endpoint))
    attempt = checkpoint.begin(made, None)
    for step in (10, 20, 30):
        files = []
        for rank in range(2):
            path = tmp_path / f"rank_{rank}.pt"
            path.write_bytes(b"%d" % rank * 3 * 2**19)
            files.append(checkpoint.put_rank_file(made, checkpoint.folder(step, attempt), path, rank))
        checkpoint.commit(
            made,
            attempt,
            CheckpointManifest(
                step=step,
                attempt=attempt.number,
                tokens=step * 1000,
                next_sample=0,
                world_size=2,
                zero_stage=1,
                seed=1,
                identity={},
                measures={"loss": 40.0 / step},
                segments=(),
                files=tuple(files),
            ),
        )
    return made


def found(storage: Storage, *, deep: bool = False) -> dict[int, str]:
    """What is wrong with each checkpoint."""
    return {place.step: seen(storage, place.step, deep=deep).fault for place in checkpoint.folders(storage)}


def seen(storage: Storage, step: int, *, deep: bool = False) -> Stored:
    found = stored(storage, Folder(step, 1), deep=deep)
    assert found is not None
    return found


def test_the_table(storage: Storage) -> None:
    rows = [seen(storage, place.step) for place in checkpoint.folders(storage)]
    lines = table(rows)
    assert lines[0].split() == ["STEP", "TOKENS", "SIZE", "TIME", "PROCESSES", "LOSS", "VERIFIED"]
    assert [line.split()[:4] for line in lines[1:]] == [
        ["30", "30,000", "3.0", "MiB"], ["20", "20,000", "3.0", "MiB"], ["10", "10,000", "3.0", "MiB"],
    ]  # fmt: skip
    assert [line.split()[-3:] for line in lines[1:]] == [["2", f"{40 / step:.4f}", "yes"] for step in (30, 20, 10)]
    assert found(storage, deep=True) == {30: "", 20: "", 10: ""}


def test_what_does_not_verify(storage: Storage) -> None:
    newest = Folder(30, 1)
    content = storage.read(f"{newest}/rank_1.pt")
    assert content is not None
    storage.write(f"{newest}/rank_1.pt", content[:-1] + b"?")
    assert found(storage) == {30: "", 20: "", 10: ""}, "as large as it should be"
    assert "rank_1.pt: SHA-256 is" in found(storage, deep=True)[30]

    storage.write(f"{newest}/rank_1.pt", b"short")
    assert "rank_1.pt: 5 bytes, its manifest says 1572864" in found(storage)[30]
    storage.delete([f"{newest}/rank_1.pt"])
    assert found(storage)[30].endswith("rank_1.pt: missing")
    storage.write(f"{newest}/manifest.json", b"{}")
    assert "manifest.json: SHA-256 is" in found(storage)[30]
    storage.delete([f"{newest}/COMMITTED"])
    assert "never finished" in found(storage)[30]
    assert table([seen(storage, 30)])[1].split()[-1] == "no"
    assert [found(storage)[step] for step in (20, 10)] == ["", ""]

    checkpoint.remove(storage, checkpoint.begin(storage, None), Folder(20, 1))
    assert stored(storage, Folder(20, 1), deep=False) is None, "an empty folder that the server may still name"


def test_wrong_credentials(storage: Storage, seaweedfs: SeaweedFS, monkeypatch: pytest.MonkeyPatch) -> None:
    section = {"uri": storage.uri, "endpointURL": seaweedfs.endpoint}
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StorageError, match="check the credentials and their rights") as refused:
        listed(section)
    assert refused.value.exit_code == 65


def test_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    section = {"uri": "s3://models/demo", "endpointURL": "http://s3:8333", "credentialsSecretRef": {"name": "keys"}}
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    with pytest.raises(StorageError, match="AWS_ACCESS_KEY_ID not set in the environment") as missing:
        listed(section)
    assert "export AWS_ACCESS_KEY_ID=$(kubectl -n team get secret keys -o jsonpath=" in str(missing.value)
    assert "export AWS_SECRET_ACCESS_KEY" not in str(missing.value)


@pytest.mark.parametrize(
    ("endpoint", "way_in"),
    [
        ("http://s3.storage.svc.invalid.cluster.local:8333", "check that it runs"),
        ("http://s3.storage.svc:8333", "kubectl -n storage port-forward service/s3 8333:8333"),
        ("https://s3.storage.svc.cluster.local", "kubectl -n storage port-forward service/s3 443:443` beside this, and add --endpoint https://127.0.0.1:443"),
        ("http://s3-that-there-is-not:80", "kubectl -n team port-forward service/s3-that-there-is-not 80:80"),
    ],
)  # fmt: skip
def test_an_address_inside_the_cluster(endpoint: str, way_in: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    with pytest.raises(StorageError) as unreachable:
        listed({"uri": "s3://models/demo", "endpointURL": endpoint})
    assert way_in in str(unreachable.value)
    assert unreachable.value.exit_code == 75


def test_a_given_endpoint_counts(storage: Storage, seaweedfs: SeaweedFS, capsys: pytest.CaptureFixture[str]) -> None:
    section = {"uri": storage.uri, "endpointURL": "http://s3.storage.svc:8333"}
    listed(section, seaweedfs.endpoint)
    assert capsys.readouterr().out.count("yes") == 3
    with pytest.raises(StorageError, match=r"--endpoint: http://127\.0\.0\.1:\d+ does not answer from here"):
        listed(section, f"http://127.0.0.1:{free_ports(1)[0]}")


def test_no_checkpoints_yet(s3_uri: str, seaweedfs: SeaweedFS, capsys: pytest.CaptureFixture[str]) -> None:
    listed({"uri": s3_uri, "endpointURL": seaweedfs.endpoint})
    assert capsys.readouterr().err == f"no checkpoints in {s3_uri}/checkpoints\n"
