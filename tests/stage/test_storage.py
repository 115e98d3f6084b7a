"""What every storage promises, asked of a folder and of a real S3 server."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pretrain_stage import config
from pretrain_stage.config import Metadata
from pretrain_stage.errors import EXIT_TEMPORARY, EXIT_USER_ERROR, CorruptError, StorageError
from pretrain_stage.storage import Storage, open_storage, verify
from pretrain_stage.storage_errors import StorageErrors, storage_errors
from prometheus_client import CollectorRegistry

from tests.cut_proxy import CutProxy
from tests.seaweedfs import SeaweedFS, free_ports

LARGE = bytes(range(256)) * 80_000
"""20 MB: several chunks of a download, several parts of an upload."""


@pytest.fixture(params=["folder", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "folder":
        return open_storage(config.Storage(uri=str(tmp_path / "storage")))
    uri = request.getfixturevalue("s3_uri")
    return open_storage(config.Storage(uri=uri, endpointURL=request.getfixturevalue("seaweedfs").endpoint))


def test_what_is_written_is_read(storage: Storage) -> None:
    storage.write("a/b", b"first")
    storage.write("a/b", b"second")
    storage.write("empty", b"")
    assert storage.read("a/b") == b"second"
    assert storage.read("empty") == b""
    assert storage.size("a/b") == 6


def test_what_is_not_there_is_none(storage: Storage) -> None:
    assert storage.read("nothing") is None
    assert storage.size("nothing") is None
    assert storage.entry("nothing") is None
    assert storage.entries("nothing") == []
    storage.delete(["nothing"])


def test_of_many_creators_one_wins(storage: Storage) -> None:
    with ThreadPoolExecutor(16) as threads:
        won = list(threads.map(lambda number: storage.create("marker", b"%d" % number), range(16)))
    assert won.count(True) == 1
    assert storage.read("marker") == b"%d" % won.index(True)
    assert storage.create("marker", b"late") is False


def test_folders_and_entries(storage: Storage) -> None:
    for path in ("steps/step-2/a", "steps/step-10/a", "steps/step-2/b", "other"):
        storage.write(path, path.encode())
    assert storage.folders("steps") == ["step-10", "step-2"]
    assert {entry.path: entry.size for entry in storage.entries("steps/step-2")} == {
        "steps/step-2/a": 14,
        "steps/step-2/b": 14,
    }
    storage.delete(entry.path for entry in storage.entries("steps"))
    assert [entry.path for entry in storage.entries()] == ["other"]


def test_a_large_file_comes_back_whole(storage: Storage, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(LARGE)
    storage.upload(source, "large")
    digest = hashlib.sha256(LARGE).hexdigest()
    assert storage.sha256("large") == digest
    target = tmp_path / "deep" / "target"
    assert verify(storage, "large", len(LARGE), digest, target) == target
    assert target.read_bytes() == LARGE
    assert [path.name for path in target.parent.iterdir()] == ["target"]


@pytest.mark.parametrize("download", [False, True], ids=["in place", "downloaded"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (LARGE[:-1] + bytes([LARGE[-1] ^ 1]), "SHA-256 is"),
        (LARGE[:-1], "20479999 bytes, its manifest says 20480000"),
        (LARGE + b"x", "20480001 bytes, its manifest says 20480000"),
        (None, "missing, though its manifest lists it"),
    ],
    ids=["one bit flipped", "one byte short", "one byte long", "missing"],
)
def test_damage_is_found(storage: Storage, tmp_path: Path, damage: bytes | None, message: str, download: bool) -> None:
    if damage is not None:
        storage.write("shard", damage)
    target = tmp_path / "target" if download else None
    with pytest.raises(CorruptError, match=message) as raised:
        verify(storage, "shard", len(LARGE), hashlib.sha256(LARGE).hexdigest(), target)
    assert f"{storage.uri}/shard" in str(raised.value)
    assert "delete" in str(raised.value)
    assert not (tmp_path / "target").exists()


def test_a_reader_may_not_write(seaweedfs: SeaweedFS, s3_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in seaweedfs.reader.environment().items():
        monkeypatch.setenv(name, value)
    storage = open_storage(config.Storage(uri=s3_uri, endpointURL=seaweedfs.endpoint))
    assert storage.read("nothing") is None
    with pytest.raises(StorageError, match=r"not allowed to write s3://.*/result .*check the credentials") as raised:
        storage.write("result", b"data")
    assert raised.value.exit_code == EXIT_USER_ERROR


def test_a_wrong_key_is_named(seaweedfs: SeaweedFS, s3_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    storage = open_storage(config.Storage(uri=s3_uri, endpointURL=seaweedfs.endpoint))
    with pytest.raises(StorageError, match="check the credentials"):
        storage.read("anything")


def test_a_missing_bucket_is_named(seaweedfs: SeaweedFS, s3_uri: str) -> None:
    storage = open_storage(config.Storage(uri="s3://no-such-bucket/x", endpointURL=seaweedfs.endpoint))
    with pytest.raises(StorageError, match=r"no-such-bucket.*create the bucket or correct storage.uri") as raised:
        storage.entries()
    assert raised.value.exit_code == EXIT_USER_ERROR


def test_an_endpoint_that_does_not_answer_is_named(s3_uri: str) -> None:
    endpoint = f"http://127.0.0.1:{free_ports(1)[0]}"
    storage = open_storage(config.Storage(uri=s3_uri, endpointURL=endpoint))
    with pytest.raises(StorageError, match=r"storage\.endpointURL answers") as raised:
        storage.read("anything")
    assert raised.value.exit_code == EXIT_TEMPORARY


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"storage\.uri: folder .*file cannot be used"):
        open_storage(config.Storage(uri=str(tmp_path / "file")))


def test_failed_requests_are_counted(seaweedfs: SeaweedFS, s3_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in seaweedfs.reader.environment().items():
        monkeypatch.setenv(name, value)
    storage = open_storage(config.Storage(uri=s3_uri, endpointURL=seaweedfs.endpoint))
    before = storage_errors()
    assert storage.read("nothing") is None  # no failure
    with ThreadPoolExecutor(4) as threads:
        refused = [threads.submit(storage.write, "result", b"data") for _ in range(4)]
    assert all(isinstance(one.exception(), StorageError) for one in refused)
    with pytest.raises(StorageError):
        storage.delete(["result"])
    assert {name: number - before[name] for name, number in storage_errors().items()} == {
        "read": 0,
        "write": 4,
        "list": 0,
        "delete": 1,
    }
    registry = CollectorRegistry()
    registry.register(StorageErrors(Metadata(name="small", namespace="team")))
    labels = {"namespace": "team", "name": "small", "operation": "delete"}
    assert registry.get_sample_value("pretrain_storage_errors_total", labels) == before["delete"] + 1


@pytest.mark.parametrize("name", ["read", "write", "upload", "download", "sha256", "size", "entries", "folders", "delete"])
def test_an_outage_is_waited_for(
    seaweedfs: SeaweedFS, s3_uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """The server takes no connections until the first request has failed; each failure is counted and said."""
    open_storage(config.Storage(uri=s3_uri, endpointURL=seaweedfs.endpoint)).write("there", b"data")
    (tmp_path / "file").write_bytes(b"data")
    with CutProxy(seaweedfs.endpoint) as proxy:
        storage = open_storage(config.Storage(uri=s3_uri, endpointURL=proxy.endpoint))
        request: Callable[[], object] = {
            "read": lambda: storage.read("there"),
            "write": lambda: storage.write("new", b""),
            "upload": lambda: storage.upload(tmp_path / "file", "new"),
            "download": lambda: storage.download("there", tmp_path / "target"),
            "sha256": lambda: storage.sha256("there"),
            "size": lambda: storage.size("there"),
            "entries": lambda: storage.entries(),
            "folders": lambda: storage.folders(""),
            "delete": lambda: storage.delete(["there"]),
        }[name]
        operation = {"upload": "write", "write": "write", "entries": "list", "folders": "list", "delete": "delete"}.get(
            name, "read"
        )
        assert storage.read("nothing") is None  # it has answered
        before = storage_errors()
        proxy.down = True
        proxy.cut()
        with ThreadPoolExecutor(1) as thread:
            waits = thread.submit(request)
            while storage_errors() == before:
                assert not waits.done(), waits.exception()
                time.sleep(0.05)
            proxy.down = False
            waits.result(timeout=60)
    found = {key: number - before[key] for key, number in storage_errors().items() if number != before[key]}
    assert found == {operation: len(caplog.messages)}
    assert f"storage: cannot {operation} {s3_uri}" in caplog.messages[0]
    assert caplog.messages[0].endswith("; trying again in 1 s")


def test_an_outage_is_not_waited_for_without_end(seaweedfs: SeaweedFS, s3_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pretrain_stage.storage.RETRY_SECONDS", 0.5)
    with CutProxy(seaweedfs.endpoint) as proxy:
        storage = open_storage(config.Storage(uri=s3_uri, endpointURL=proxy.endpoint))
        assert storage.read("nothing") is None
        proxy.down = True
        proxy.cut()
        before = storage_errors()["write"]
        with pytest.raises(StorageError, match="start again: what is finished is kept") as raised:
            storage.write("new", b"")
    assert raised.value.exit_code == EXIT_TEMPORARY
    assert storage_errors()["write"] == before + 1


def test_what_is_settled_is_what_was_created_first(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    assert storage.settle("slot", b"mine") == b"mine"
    assert storage.settle("slot", b"theirs") == b"mine"
    assert storage.settle("slot", b"mine") == b"mine", "the answer to the first may have been lost"

    monkeypatch.setattr("pretrain_stage.storage.RETRY_SECONDS", 2.0)
    answers = iter([None, b"theirs"])
    monkeypatch.setattr(Storage, "read", lambda *_: next(answers))
    assert storage.settle("slot", b"mine") == b"theirs", "refused while the other was not done"


def test_what_is_deleted_while_it_is_read(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.write("file", b"12345")
    size = Storage.size

    def deleted(self: Storage, path: str) -> int | None:
        found = size(self, path)
        self.delete([path])
        return found

    monkeypatch.setattr(Storage, "size", deleted)
    with pytest.raises(CorruptError, match="file: was deleted while it was read"):
        verify(storage, "file", 5, "0" * 64)
