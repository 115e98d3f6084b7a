"""Token shards as one stream."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pretrain_stage.config import Storage as StorageSection
from pretrain_stage.errors import CorruptError
from pretrain_stage.manifest import File, put_output, read_manifest
from pretrain_stage.storage import open_folder, open_storage
from pretrain_trainer import tokens
from pretrain_trainer.tokens import HELD_OUT, TRAIN, bring, open_stream, shard_files, shard_path

from tests.seaweedfs import SeaweedFS
from tests.trainer.jobs import folder_storage


def shard(folder: Path, number: int, ids: list[int], dtype: str = "<u2") -> Path:
    path = folder / f"{number:05d}.ds"
    path.write_bytes(np.array(ids, dtype=dtype).tobytes())
    return path


@pytest.mark.parametrize(("dtype", "stored"), [("uint16", "<u2"), ("uint32", "<u4")])
def test_windows_run_across_shards_and_empty_ones(tmp_path: Path, dtype: str, stored: str) -> None:
    high = 65_000 if dtype == "uint16" else 100_000
    pieces = [[high, 1, 2], [], [3], [4, 5, 6, 7]]
    stream = open_stream([shard(tmp_path, number, ids, stored) for number, ids in enumerate(pieces)], dtype)
    everything = [token for piece in pieces for token in piece]
    assert len(stream) == len(everything)
    for start in range(len(everything)):
        for stop in range(start, len(everything) + 1):
            window = stream.read(start, stop)
            assert window.tolist() == everything[start:stop]
            assert window.dtype == np.int64


def test_no_shards_are_an_empty_stream() -> None:
    assert len(open_stream([], "uint16")) == 0


def test_shards_are_taken_in_order_by_split(tmp_path: Path) -> None:
    storage = folder_storage(tmp_path, documents={"b": ["some text "] * 30, "a": ["other text "] * 9}, shards=3)
    tokenize = read_manifest(storage, "tokenize")
    assert tokenize is not None
    paths = [f"{source}/{number:05d}.ds" for source in ("a", "b") for number in range(3)]
    assert [file.path for file in shard_files(tokenize, TRAIN)] == [f"tokens/train/{path}" for path in paths]
    assert [file.path for file in shard_files(tokenize, HELD_OUT)] == [f"tokens/held-out/{path}" for path in paths[3:]]
    assert [file.path for file in shard_files(tokenize, TRAIN, "a")] == [f"tokens/train/{path}" for path in paths[:3]]
    assert shard_files(tokenize, TRAIN, "a", ".ds.index")[0].path == "tokens/train/a/00000.ds.index"
    assert shard_files(tokenize, HELD_OUT, "a") == [], "it has nothing held out"


def test_a_folder_is_read_in_place_and_verified(tmp_path: Path) -> None:
    storage = open_folder(tmp_path / "storage")
    file = put_output(storage, shard(tmp_path, 0, [1, 2, 3]), "tokens/train/00000.ds")
    bring(storage, [file], tmp_path / "cache")
    assert shard_path(storage, file, tmp_path / "cache") == tmp_path / "storage/tokens/train/00000.ds"
    assert not (tmp_path / "cache").exists()
    (tmp_path / "storage/tokens/train/00000.ds").write_bytes(np.array([1, 9, 3], dtype="<u2").tobytes())
    with pytest.raises(CorruptError, match=r"tokens/train/00000.ds: SHA-256"):
        bring(storage, [file], tmp_path / "cache")


def test_s3_is_copied_once_and_verified(
    tmp_path: Path, seaweedfs: SeaweedFS, s3_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = open_storage(StorageSection(uri=s3_uri, endpointURL=seaweedfs.endpoint))
    file = put_output(storage, shard(tmp_path, 0, [1, 2, 3]), "tokens/train/00000.ds")
    cache = tmp_path / "cache"
    bring(storage, [file], cache)
    assert open_stream([shard_path(storage, file, cache)], "uint16").read(0, 3).tolist() == [1, 2, 3]

    def fetched_again(*_: object) -> None:
        raise AssertionError("a verified copy is not fetched again")

    with monkeypatch.context() as patched:
        patched.setattr(tokens, "verify", fetched_again)
        bring(storage, [file], cache)

    shard_path(storage, file, cache).write_bytes(b"123456")  # the copy went bad: it is fetched again
    bring(storage, [file], cache)
    assert open_stream([shard_path(storage, file, cache)], "uint16").read(0, 3).tolist() == [1, 2, 3]
    with pytest.raises(CorruptError, match="SHA-256"):
        bring(storage, [File(path=file.path, size=file.size, sha256="0" * 64)], cache)
