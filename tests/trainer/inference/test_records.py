"""The files of records that a stage answers, and how its tasks share them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pretrain_stage.config import Storage as StorageSection
from pretrain_stage.errors import UserError
from pretrain_stage.storage import open_storage
from pretrain_trainer.inference.records import bring_records, digest_of, list_records, share

from tests.seaweedfs import SeaweedFS

HERE = StorageSection(uri="/nowhere")
FILES = ("a.jsonl", "b/c.jsonl", "b/d.json", "b/e.txt", ".hidden.jsonl", "_done/f.jsonl")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in FILES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("", ["a.jsonl", "b/c.jsonl", "b/d.json"]),
        ("/*.jsonl", ["a.jsonl"]),
        ("/**/*.jsonl", ["a.jsonl", "b/c.jsonl"]),
        ("/b/*", ["c.jsonl", "d.json", "e.txt"]),
        ("/b/e.txt", [""]),
    ],
)
def test_files_are_found(folder: Path, pattern: str, found: list[str]) -> None:
    files = list_records(f"{folder}{pattern}", "spec.predict[0].uri", HERE)
    assert [Path(file.where).name for file in files] == [Path(name).name if name else "e.txt" for name in found]
    assert all(bring_records(file, HERE, folder) == Path(file.where) for file in files)


def test_the_digest_changes_with_a_file_and_not_with_its_place(folder: Path) -> None:
    before = digest_of(list_records(str(folder), "uri", HERE))
    moved = folder.rename(folder.parent / "moved")
    assert digest_of(list_records(str(moved), "uri", HERE)) == before
    os.utime(moved / "a.jsonl", (1, 1))
    assert digest_of(list_records(str(moved), "uri", HERE)) != before


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nothing", "no file of JSON lines (.jsonl, .json, .ndjson); correct it"),
        ("*.csv", "no file matches (found .hidden.jsonl, _done/f.jsonl, a.jsonl); correct it"),
        ("packed.jsonl.gz", "packed.jsonl.gz is compressed, so that tasks cannot share its lines; unpack it"),
    ],
)
def test_what_is_no_list_of_records(folder: Path, name: str, words: str) -> None:
    (folder / "packed.jsonl.gz").touch()
    with pytest.raises(UserError) as refused:
        list_records(f"{folder}/{name}", "spec.predict[0].uri", HERE)
    assert str(refused.value).startswith("spec.predict[0].uri: ")
    assert words in str(refused.value)


def test_objects_are_found_and_brought(seaweedfs: SeaweedFS, s3_uri: str, tmp_path: Path) -> None:
    section = StorageSection(uri=s3_uri, endpointURL=seaweedfs.endpoint)
    storage = open_storage(section)
    for name in ("in/a.jsonl", "in/b.jsonl"):
        storage.write(name, name.encode())
    files = list_records(f"{s3_uri}/in", "uri", section)
    assert [file.path for file in files] == ["a.jsonl", "b.jsonl"]
    assert [file.where for file in list_records(f"{s3_uri}/in/b.jsonl", "uri", section)] == [f"{s3_uri}/in/b.jsonl"]
    assert [bring_records(file, section, tmp_path).read_text() for file in files] == ["in/a.jsonl", "in/b.jsonl"]
    before = digest_of(files)
    storage.write("in/a.jsonl", b"in/A.jsonl")
    assert digest_of(list_records(f"{s3_uri}/in", "uri", section)) != before


@pytest.mark.parametrize("tasks", [1, 2, 3, 10, 40])
@pytest.mark.parametrize("sizes", [[10], [3, 0, 7, 11], [1, 1, 1], []])
def test_shares_are_all_bytes_once_and_in_order(sizes: list[int], tasks: int) -> None:
    shares = [share(sizes, index, tasks) for index in range(tasks)]
    found = [(place, byte) for mine in shares for place, start, stop in mine for byte in range(start, stop)]
    assert found == [(place, byte) for place, size in enumerate(sizes) for byte in range(size)]
    loads = [sum(stop - start for _, start, stop in mine) for mine in shares]
    assert max(loads) - min(loads) <= 1
