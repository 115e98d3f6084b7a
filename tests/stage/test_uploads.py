"""Uploads that were cut off, in a real S3 server and on disk: found, aborted, and nothing else touched."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pretrain_stage.config import Storage as StorageSection
from pretrain_stage.errors import StorageError
from pretrain_stage.storage import Storage, open_folder, open_storage
from pretrain_stage.uploads import Upload, _asked, abort, unfinished

from tests.seaweedfs import SeaweedFS

KEY = "checkpoints/step 1/ränk&<0>+.pt"


@pytest.fixture
def s3(s3_uri: str, seaweedfs: SeaweedFS) -> Storage:
    return open_storage(StorageSection(uri=s3_uri, endpointURL=seaweedfs.endpoint))


def begun(storage: Storage, path: str) -> str:
    """Begins an upload of several parts; returns its number."""
    said = _asked(storage, "POST", path, {"uploads": ""})
    found = re.search("<UploadId>(.*?)</UploadId>", said)
    assert found is not None, said
    return found[1]


def test_parts_in_s3(s3: Storage) -> None:
    numbers = {begun(s3, KEY) for _ in range(2)}
    elsewhere = begun(s3, "export/model.safetensors")
    s3.write("checkpoints/whole", b"1")
    assert set(unfinished(s3, "checkpoints")) == {Upload(KEY, number) for number in numbers}
    for upload in unfinished(s3, "checkpoints"):
        abort(s3, upload)
        abort(s3, upload)
    assert unfinished(s3, "checkpoints") == []
    assert unfinished(s3, "export") == [Upload("export/model.safetensors", elsewhere)]
    assert s3.read("checkpoints/whole") == b"1"


def test_a_key_that_does_not_fit_is_said(s3: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StorageError, match=r"unfinished uploads cannot be told \(HTTP 403\)"):
        unfinished(s3, "checkpoints")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert unfinished(s3, "checkpoints") == [], "a machine that is known by itself"


def test_files_on_disk(tmp_path: Path) -> None:
    """A program that is killed in the middle of an upload to a folder leaves a file that no listing has."""
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(4 * 2**30)
    code = (
        "import sys; from pathlib import Path; from pretrain_stage.storage import open_folder\n"
        "open_folder(Path(sys.argv[1])).upload(Path(sys.argv[2]), 'checkpoints/a/rank.pt')"
    )
    storage = open_folder(tmp_path / "storage")
    with subprocess.Popen([sys.executable, "-c", code, storage.uri, str(big)]) as program:
        give_up = time.monotonic() + 60
        while not list((tmp_path / "storage").rglob("*#*")):
            assert time.monotonic() < give_up
            time.sleep(0.01)
        os.kill(program.pid, signal.SIGKILL)
    assert storage.entries() == []
    (upload,) = unfinished(storage, "checkpoints")
    assert upload.path == "checkpoints/a/rank.pt"
    storage.write("checkpoints/b/rank.pt", b"1")
    abort(storage, upload)
    assert [path for path in (tmp_path / "storage").rglob("*") if path.is_file()] == [
        tmp_path / "storage/checkpoints/b/rank.pt"
    ]
    assert not (tmp_path / "storage/checkpoints/a").exists()
