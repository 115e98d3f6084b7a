"""When a stage counts as finished, and what its manifest says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pretrain_stage import config
from pretrain_stage.errors import CorruptError, UserError
from pretrain_stage.manifest import (
    Counts,
    File,
    Manifest,
    Part,
    close,
    fetch,
    finished,
    finished_part,
    identity,
    leave_part,
    part_path,
    put_output,
    read_manifest,
)
from pretrain_stage.storage import Storage, open_storage

IDENTITY = identity("clean", 1, {"option": 1}, {"sources": "abc"})


@pytest.fixture(params=["folder", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "folder":
        return open_storage(config.Storage(uri=str(tmp_path / "storage")))
    uri = request.getfixturevalue("s3_uri")
    return open_storage(config.Storage(uri=uri, endpointURL=request.getfixturevalue("seaweedfs").endpoint))


def part(storage: Storage, folder: Path, index: int, outputs: int = 1, **fields: Any) -> Part:
    """A part with outputs that are really there."""
    files = []
    for number in range(outputs):
        source = folder / "output"
        source.write_bytes(b"content of %d %d" % (index, number))
        files.append(put_output(storage, source, f"corpus/clean/{index:05d}-{number}"))
    return Part(**({"stage": "clean", "index": index, "identity": IDENTITY, "outputs": tuple(files)} | fields))


def close_two(storage: Storage, **options: Any) -> Manifest | None:
    return close(storage, "clean", IDENTITY, {"option": 1}, {"sources": "abc"}, tasks=2, **options)


def test_a_stage_is_finished_when_all_its_parts_are(storage: Storage, tmp_path: Path) -> None:
    dropped = {"quality": {"short": 1}}
    facts = {"tokens": 7, "by_source": {"web": 2}, "dtype": "uint16"}
    leave_part(
        storage,
        part(storage, tmp_path, 0, counts=Counts(read=3, kept=2, dropped=dropped, read_bytes=9), facts=facts, seconds=1),
    )
    assert close_two(storage) is None
    assert finished(storage, "clean", IDENTITY) is None

    facts = {"tokens": 5, "by_source": {"web": 1, "wiki": 4}, "dtype": "uint16"}
    more = {"quality": {"short": 2, "long": 1}, "language": {"language_fr": 1}}
    counts = Counts(read=9, kept=5, dropped=more, read_bytes=20, kept_bytes=6, dropped_bytes=5)
    leave_part(storage, part(storage, tmp_path, 1, counts=counts, facts=facts, seconds=2))
    manifest = close_two(storage)
    assert manifest is not None
    assert manifest == finished(storage, "clean", IDENTITY) == read_manifest(storage, "clean")
    assert manifest.counts == Counts(
        read=12, kept=7, dropped={"quality": {"short": 3, "long": 1}, "language": {"language_fr": 1}},
        read_bytes=29, kept_bytes=6, dropped_bytes=5,
    )  # fmt: skip
    assert manifest.facts == {"tokens": 12, "by_source": {"web": 3, "wiki": 4}, "dtype": "uint16"}
    assert [file.path for file in manifest.outputs] == ["corpus/clean/00000-0", "corpus/clean/00001-0"]


def test_counts_that_do_not_add_up_are_refused(storage: Storage, tmp_path: Path) -> None:
    counts = Counts(read=10, kept=7, dropped={"quality": {"short": 2}})
    with pytest.raises(UserError, match=r"stage clean, task 0: 10 documents read, but 7 kept \+ 2 dropped = 9"):
        leave_part(storage, part(storage, tmp_path, 0, counts=counts))
    assert storage.read(part_path("clean", 0)) is None


def test_a_stage_that_is_of_no_use_gets_no_manifest(storage: Storage, tmp_path: Path) -> None:
    for index in range(2):
        leave_part(storage, part(storage, tmp_path, index))

    def refuse(manifest: Manifest) -> None:
        raise UserError(f"nothing was kept of {manifest.counts.read}")

    with pytest.raises(UserError, match="nothing was kept of 0"):
        close_two(storage, check=refuse)
    assert read_manifest(storage, "clean") is None
    assert close_two(storage) is not None


def test_another_configuration_is_another_stage(storage: Storage, tmp_path: Path) -> None:
    for index in range(2):
        leave_part(storage, part(storage, tmp_path, index))
    assert close_two(storage) is not None
    changed = [
        identity("clean", 2, {"option": 1}, {"sources": "abc"}),
        identity("clean", 1, {"option": 2}, {"sources": "abc"}),
        identity("clean", 1, {"option": 1}, {"sources": "abd"}),
        identity("clear", 1, {"option": 1}, {"sources": "abc"}),
    ]
    assert len({IDENTITY, *changed}) == 5
    for other in changed:
        assert finished(storage, "clean", other) is None
        assert finished_part(storage, "clean", other, 0) is None


@pytest.mark.parametrize("outputs", [1, 40], ids=["looked up", "listed"])
@pytest.mark.parametrize("damage", [None, b"short"], ids=["missing", "short"])
def test_a_stage_whose_outputs_are_gone_is_not_finished(
    storage: Storage, tmp_path: Path, outputs: int, damage: bytes | None
) -> None:
    for index in range(2):
        leave_part(storage, part(storage, tmp_path, index, outputs))
    assert close_two(storage) is not None
    assert finished(storage, "clean", IDENTITY) is not None
    path = f"corpus/clean/00001-{outputs - 1}"
    storage.delete([path])
    if damage is not None:
        storage.write(path, damage)
    assert finished(storage, "clean", IDENTITY) is None
    assert finished_part(storage, "clean", IDENTITY, 1) is None
    assert finished_part(storage, "clean", IDENTITY, 0) is not None
    assert close_two(storage) is None


def test_an_output_that_changed_is_not_fetched(storage: Storage, tmp_path: Path) -> None:
    file = part(storage, tmp_path, 0).outputs[0]
    assert fetch(storage, file, tmp_path / "copy").read_bytes() == b"content of 0 0"
    storage.write(file.path, b"content of 0 1")
    with pytest.raises(CorruptError, match="SHA-256"):
        fetch(storage, file, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_what_is_no_manifest_is_named(storage: Storage) -> None:
    storage.write("stages/clean.json", b'{"stage": "clean"')
    with pytest.raises(UserError, match=r"stages/clean\.json: not a manifest .* delete it to redo it"):
        read_manifest(storage, "clean")


def test_the_digest_knows_no_time(storage: Storage, tmp_path: Path) -> None:
    digests = set()
    for seconds in (1.0, 2.0):
        for index in range(2):
            leave_part(storage, part(storage, tmp_path, index, seconds=seconds))
        manifest = close_two(storage)
        assert manifest is not None
        assert manifest.seconds == 2 * seconds
        digests.add(manifest.digest)
    assert len(digests) == 1


def test_the_digest_knows_no_place(storage: Storage) -> None:
    """Which attempt has made an output decides nothing of what follows from it; what the output is does."""

    def made(place: str, sha256: str) -> Manifest:
        file = File(path=f"{place}/weights.pt", size=1, sha256=sha256)
        return Manifest(
            stage="train", identity="i", config={}, inputs={}, tasks=1, counts=Counts(), outputs=(file,), facts={},
            place=place, seconds=1,
        )  # fmt: skip

    first = made("checkpoints/step-00000003-attempt-1", "a" * 64)
    assert first.digest == made("checkpoints/step-00000003-attempt-2", "a" * 64).digest
    assert first.digest != made("checkpoints/step-00000003-attempt-1", "b" * 64).digest
