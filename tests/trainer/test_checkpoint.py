"""The commit protocol, without torch: what makes a checkpoint one, who may make it, and what is never read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pretrain_stage import uploads
from pretrain_stage.config import Storage as StorageSection
from pretrain_stage.errors import CorruptError
from pretrain_stage.storage import Storage, open_folder, open_storage
from pretrain_trainer import checkpoint, commit_log
from pretrain_trainer.checkpoint import CheckpointManifest, Folder, Segment
from pretrain_trainer.commit_log import Attempt, Superseded
from pretrain_trainer.config.sections import Checkpoints

from tests.seaweedfs import SeaweedFS
from tests.trainer.rank_files import put_rank_file

FILES = ("rank_0.pt", "rank_1.pt", "manifest.json", "COMMITTED")


@pytest.fixture(params=["folder", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "folder":
        return open_folder(tmp_path / "storage")
    server: SeaweedFS = request.getfixturevalue("seaweedfs")
    return open_storage(StorageSection(uri=request.getfixturevalue("s3_uri"), endpointURL=server.endpoint))


def uploaded(storage: Storage, attempt: Attempt, tmp_path: Path, step: int, ranks: int = 2) -> CheckpointManifest:
    """A checkpoint whose files are all there, but which is not committed."""
    files = []
    place = checkpoint.folder(step, attempt)
    for rank in range(ranks):
        path = tmp_path / f"rank_{rank}.pt"
        path.write_bytes(f"step {step} of {attempt.number} rank {rank} ".encode() * 50)
        files.append(put_rank_file(storage, place, path, rank))
    return CheckpointManifest(
        step=step,
        attempt=attempt.number,
        start=attempt.start,
        tokens=step * 8,
        next_sample=step * 2,
        world_size=ranks,
        zero_stage=2,
        seed=1,
        identity={"training.seed": 1},
        measures={"loss": 1.5, "validation_loss": 1 / step},
        segments=(Segment(first_step=0, world_size=ranks, settings={}),),
        files=tuple(files),
    )


def committed(storage: Storage, attempt: Attempt, tmp_path: Path, step: int) -> CheckpointManifest:
    manifest = uploaded(storage, attempt, tmp_path, step)
    checkpoint.commit(storage, attempt, manifest)
    return manifest


def fetch_all(storage: Storage, place: Folder, target: Path) -> None:
    manifest = checkpoint.read_checkpoint(storage, place)
    checkpoint.fetch_files(storage, manifest, manifest.files, target)


def test_a_committed_checkpoint_comes_back_as_it_was(storage: Storage, tmp_path: Path) -> None:
    attempt = checkpoint.begin(storage, None)
    manifest = committed(storage, attempt, tmp_path, 3)
    assert manifest.folder == "checkpoints/step-00000003-attempt-1"
    assert checkpoint.committed(storage) == [Folder(3, 1)]
    assert checkpoint.read_checkpoint(storage, Folder(3, 1)) == manifest
    checkpoint.fetch_files(storage, manifest, manifest.files, tmp_path / "back")
    assert (tmp_path / "back/rank_1.pt").read_bytes() == b"step 3 of 1 rank 1 " * 50
    assert {file.path for file in checkpoint.output_files(manifest)} == {
        f"{manifest.folder}/{name}" for name in FILES if name.endswith(".pt")
    }
    stated = checkpoint.reference(storage, manifest)
    assert stated.folder == manifest.folder
    assert stated.manifest_sha256 == storage.sha256(f"{manifest.folder}/manifest.json")


def test_what_the_log_holds(storage: Storage, tmp_path: Path) -> None:
    manifest = committed(storage, checkpoint.begin(storage, 2), tmp_path, 3)
    begin, commit = (json.loads(storage.read(f"checkpoints/log/0000000{slot}.json") or b"") for slot in (1, 2))
    assert (begin["kind"], begin["attempt"]) == ("begin", 2)
    assert {name: commit[name] for name in ("kind", "attempt", "step", "folder")} == {
        "kind": "commit", "attempt": 2, "step": 3, "folder": manifest.folder,
    }  # fmt: skip
    assert commit["manifest_sha256"] == checkpoint.reference(storage, manifest).manifest_sha256


def test_nothing_counts_before_the_marker(storage: Storage, tmp_path: Path) -> None:
    attempt = checkpoint.begin(storage, None)
    committed(storage, attempt, tmp_path, 2)
    manifest = uploaded(storage, attempt, tmp_path, 4)
    storage.write(f"{manifest.folder}/manifest.json", manifest.model_dump_json().encode())
    assert checkpoint.committed_steps(storage) == [2]
    assert checkpoint.folders(storage) == [Folder(4, 1), Folder(2, 1)]
    with pytest.raises(CorruptError, match=r"step-00000004-attempt-1/COMMITTED: missing"):
        checkpoint.read_checkpoint(storage, Folder(4, 1))


def test_a_commit_may_be_asked_for_again(storage: Storage, tmp_path: Path) -> None:
    attempt = checkpoint.begin(storage, None)
    manifest = committed(storage, attempt, tmp_path, 2)
    checkpoint.commit(storage, attempt, manifest)
    assert commit_log.last(storage).slot == 2
    assert checkpoint.read_checkpoint(storage, manifest.folder) == manifest


NUMBERS: dict[str, tuple[list[tuple[int | None, str]], list[int]]] = {
    "nobody counts": ([(None, ""), (None, ""), (None, "")], [1, 2, 3]),
    "an operator counts": ([(1, "a"), (2, "a"), (5, "a")], [1, 2, 5]),
    "a job that was made again counts from 1 again": ([(1, "a"), (2, "a"), (1, "b"), (2, "b")], [1, 2, 3, 4]),
    "on a machine, then in a cluster": ([(None, ""), (None, ""), (1, "a"), (2, "a")], [1, 2, 3, 4]),
    "in a cluster, in between on a machine": ([(1, "a"), (None, ""), (2, "a"), (3, "a")], [1, 2, 4, 5]),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_the_numbers_of_attempts_rise(tmp_path: Path, name: str) -> None:
    storage = open_folder(tmp_path / "storage")
    told, numbers = NUMBERS[name]
    assert [checkpoint.begin(storage, number, run).number for number, run in told] == numbers


def test_an_older_attempt_may_not_begin(storage: Storage) -> None:
    checkpoint.begin(storage, 3)
    with pytest.raises(Superseded, match="attempt 2: attempt 3 has begun; this one ends") as error:
        checkpoint.begin(storage, 2)
    assert error.value.exit_code == 75


def test_an_attempt_that_is_started_twice_writes_to_two_folders(storage: Storage, tmp_path: Path) -> None:
    first, second = (checkpoint.begin(storage, 2) for _ in range(2))
    manifest = uploaded(storage, first, tmp_path, 4)
    again = committed(storage, second, tmp_path, 4)
    assert again.folder == "checkpoints/step-00000004-attempt-2-start-2"
    with pytest.raises(Superseded, match="attempt 2: it was started again meanwhile; this one ends"):
        checkpoint.commit(storage, first, manifest)
    assert checkpoint.committed(storage) == [Folder(4, 2, 2)]


def test_who_was_cut_off_commits_and_removes_nothing(storage: Storage, tmp_path: Path) -> None:
    old = checkpoint.begin(storage, 1)
    committed(storage, old, tmp_path, 2)
    late = uploaded(storage, old, tmp_path, 4)
    new = checkpoint.begin(storage, 2)
    committed(storage, new, tmp_path, 4)
    actions: tuple[Callable[[], object], ...] = (
        lambda: checkpoint.commit(storage, old, late),
        lambda: checkpoint.remove(storage, old, Folder(2, 1)),
        lambda: checkpoint.remove(storage, old, Folder(4, 2)),
        lambda: checkpoint.retain(storage, old, Checkpoints(keepLast=1)),
        lambda: commit_log.restore(storage, 2, str(Folder(2, 1)), "0" * 64, attempt=old),
    )
    for action in actions:
        with pytest.raises(Superseded, match="attempt 1: attempt 2 has begun; this one ends"):
            action()
    assert checkpoint.committed(storage) == [Folder(4, 2), Folder(2, 1)]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["flipped", "cut", "missing", "swapped"])
def test_every_damage_to_every_file_is_found_and_named(tmp_path: Path, name: str, damage: str) -> None:
    storage = open_folder(tmp_path / "storage")
    attempt = checkpoint.begin(storage, None)
    for step in (2, 4):
        committed(storage, attempt, tmp_path, step)
    path, other = (tmp_path / f"storage/checkpoints/step-0000000{step}-attempt-1/{name}" for step in (4, 2))
    data = path.read_bytes()
    match damage:
        case "flipped":
            path.write_bytes(data[:7] + bytes([data[7] ^ 1]) + data[8:])
        case "cut":
            path.write_bytes(data[:-1])
        case "missing":
            path.unlink()
        case "swapped":
            path.write_bytes(other.read_bytes())
    with pytest.raises(CorruptError) as error:
        fetch_all(storage, Folder(4, 1), tmp_path / "back")
    # Marker and manifest vouch for each other, so either may be named for the other's fault.
    either = name == "COMMITTED" and damage in ("flipped", "swapped")
    assert f"step-00000004-attempt-1/{'manifest.json' if either else name}" in str(error.value)
    assert not list((tmp_path / "back").glob(name))


@pytest.mark.parametrize("damage", ["flipped", "cut", "missing", "swapped"])
def test_every_damage_to_the_entry_that_committed_it_is_found(tmp_path: Path, damage: str) -> None:
    storage = open_folder(tmp_path / "storage")
    attempt = checkpoint.begin(storage, None)
    for step in (2, 4):
        committed(storage, attempt, tmp_path, step)
    entry, other = (tmp_path / "storage" / commit_log.path(slot) for slot in (3, 2))
    data = entry.read_bytes()
    match damage:
        case "flipped":
            at = data.index(b"manifest_sha256") + 20
            entry.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        case "cut":
            entry.write_bytes(data[:-1])
        case "missing":
            entry.unlink()
        case "swapped":
            entry.write_bytes(other.read_bytes())
    with pytest.raises(CorruptError, match=r"log/00000003.json"):
        fetch_all(storage, Folder(4, 1), tmp_path / "back")
    fetch_all(storage, Folder(2, 1), tmp_path / "back")


def test_an_entry_that_cannot_be_read_ends_who_wrote_before_it(tmp_path: Path) -> None:
    """It may have been the beginning of another attempt. The next one takes a number that none can have had."""
    storage = open_folder(tmp_path / "storage")
    attempt = checkpoint.begin(storage, None)
    committed(storage, attempt, tmp_path, 2)
    storage.write(commit_log.path(3), b"\x00")
    with pytest.raises(Superseded, match=r"00000003.json cannot be read, so another attempt may have begun; this one ends"):
        checkpoint.commit(storage, attempt, uploaded(storage, attempt, tmp_path, 4))
    assert checkpoint.begin(storage, None).number == 3
    assert checkpoint.committed(storage) == [Folder(2, 1)]


def test_a_log_that_was_deleted_ends_who_wrote_to_it(tmp_path: Path) -> None:
    storage = open_folder(tmp_path / "storage")
    old = checkpoint.begin(storage, None)
    storage.delete([commit_log.path(1)])
    with pytest.raises(Superseded, match=r"the commit log \S+ is gone"):
        commit_log.check(storage, old)
    assert checkpoint.begin(storage, None).number == old.number
    with pytest.raises(Superseded):
        commit_log.check(storage, old)


@pytest.mark.parametrize(
    "name",
    [
        "../../../outside.pt", "/outside.pt", "..", ".", "a/b.pt", "a\\b.pt", "", "a\x00b", "-rf", ".hidden", "a\n", "a\x1b[2J",
        "~root", "C:x", "\u202egnp.pt", "x" * 201,
    ],
)  # fmt: skip
def test_no_file_name_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    """Not even in a manifest that marker and log vouch for."""
    storage = open_folder(tmp_path / "storage")
    attempt = checkpoint.begin(storage, None)
    manifest = uploaded(storage, attempt, tmp_path, 2)
    evil: Any = manifest.model_copy(update={"files": ({**manifest.files[0].model_dump(), "name": name},)})
    with pytest.warns(UserWarning, match="Unexpected"):
        checkpoint.commit(storage, attempt, evil)
    with pytest.raises(CorruptError, match=r"manifest.json: files.0.name"):
        checkpoint.read_checkpoint(storage, manifest.folder)


@pytest.mark.parametrize(
    "name",
    ["..", "step-1-attempt-1", "step-00000001", "step-00000001-attempt-0", "step-00000001-attempt-1-start-1", "step-0"],
)
def test_what_is_no_folder_of_a_checkpoint(name: str) -> None:
    assert checkpoint.parse_folder(name) is None
    assert checkpoint.parse_folder("checkpoints/step-00000001-attempt-2-start-3/x") is None
    assert checkpoint.parse_folder("checkpoints/step-00000001-attempt-2-start-3") == Folder(1, 2, 3)


def test_a_manifest_of_another_folder_is_refused(tmp_path: Path) -> None:
    storage = open_folder(tmp_path / "storage")
    committed(storage, checkpoint.begin(storage, None), tmp_path, 2)
    for name in FILES:
        data = storage.read(f"checkpoints/step-00000002-attempt-1/{name}")
        assert data is not None
        storage.write(f"checkpoints/step-00000009-attempt-1/{name}", data)
    with pytest.raises(CorruptError, match=r"names checkpoints/log/00000002.json, which does not commit this checkpoint"):
        checkpoint.read_checkpoint(storage, Folder(9, 1))


def test_the_last_k_stay_and_leavings_go(storage: Storage, tmp_path: Path) -> None:
    old = checkpoint.begin(storage, None)
    uploaded(storage, old, tmp_path, 14)
    new = checkpoint.begin(storage, None)
    for step in (2, 4, 8, 10):
        committed(storage, new, tmp_path, step)
    uploaded(storage, new, tmp_path, 6)
    uploaded(storage, new, tmp_path, 12)
    checkpoint.retain(storage, new, Checkpoints(keepLast=2), in_use=[str(Folder(4, 2))])
    assert checkpoint.committed_steps(storage) == [10, 8, 4]
    left = {entry.path.split("/")[1] for entry in storage.entries("checkpoints")} - {"log"}
    assert left == {f"step-{step:08d}-attempt-2" for step in (4, 8, 10, 12)}, "the last may be in the making"


def test_the_marker_goes_first(storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is killed while it deletes leaves no checkpoint that looks whole, and none that would be completed."""
    attempt = checkpoint.begin(storage, None)
    committed(storage, attempt, tmp_path, 2)
    deleted: list[str] = []

    def killed(self: Storage, paths: list[str]) -> None:
        deleted.extend(paths)
        raise KeyboardInterrupt

    monkeypatch.setattr(Storage, "delete", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.remove(storage, attempt, Folder(2, 1))
    assert [Path(path).name for path in deleted] == ["COMMITTED", "manifest.json"]


def test_foreign_folders_are_left_alone(tmp_path: Path) -> None:
    storage = open_folder(tmp_path / "storage")
    storage.write("checkpoints/mine/notes.txt", b"hello")
    storage.write("checkpoints/step-best/COMMITTED", b"hello")
    attempt = checkpoint.begin(storage, None)
    for step in (2, 4):
        committed(storage, attempt, tmp_path, step)
    checkpoint.retain(storage, attempt, Checkpoints(keepLast=1))
    assert checkpoint.folders(storage) == [Folder(4, 1)]
    assert storage.read("checkpoints/mine/notes.txt") == b"hello"


def test_uploads_that_were_cut_off_go_with_their_attempt(storage: Storage) -> None:
    """Of the older attempt; not of the one that runs, which may have several on their way, nor of anything else."""
    begun = {1: checkpoint.begin(storage, 1), 2: checkpoint.begin(storage, 2)}
    paths = [f"{checkpoint.folder(8, begun[number])}/rank_0.pt" for number in (1, 2)] + ["export/model.safetensors"]
    for path in paths:
        local = storage.local_path(path)
        if local is None:
            uploads._asked(storage, "POST", path, {"uploads": ""})
        else:
            local.parent.mkdir(parents=True)
            local.with_name(f"{local.name}#1").write_bytes(b"half of")
    checkpoint.begin(storage, 2)
    left = [upload.path for folder in ("checkpoints", "export") for upload in uploads.unfinished(storage, folder)]
    assert left == ["export/model.safetensors"], "a second start of attempt 2 ends the first"
    assert checkpoint.folders(storage) == []


def test_uploads_of_the_attempt_that_runs_stay(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    attempt = checkpoint.begin(storage, 1)
    aborted: list[str] = []
    places = [Folder(8, 1), Folder(8, 1, 2), Folder(8, 2)]
    found = [uploads.Upload(f"{place}/rank_0.pt", "1") for place in places] + [uploads.Upload("checkpoints/mine/x", "1")]
    monkeypatch.setattr(uploads, "unfinished", lambda *_: found)
    monkeypatch.setattr(uploads, "abort", lambda _, upload: aborted.append(upload.path))
    checkpoint._abort_older(storage, attempt)
    assert aborted == []
    checkpoint.begin(storage, 2)
    assert aborted == [upload.path for upload in found[:2]]


KEPT: dict[str, tuple[dict[str, Any], list[int]]] = {
    "the last": ({"keepLast": 1}, [70]),
    "every second step of twenty": ({"keepLast": 1, "keepEverySteps": 20}, [70, 60, 40, 20]),
    "the best": ({"keepLast": 1, "keepBest": True}, [70, 30]),
    "all of these": ({"keepLast": 2, "keepEverySteps": 40, "keepBest": True}, [70, 60, 40, 30]),
}


@pytest.mark.parametrize("name", KEPT)
def test_what_is_kept(tmp_path: Path, name: str) -> None:
    """The lowest validation loss is that of 30; that of 40 is the same, as no validation was between them."""
    policy, steps = KEPT[name]
    storage = open_folder(tmp_path / "storage")
    attempt = checkpoint.begin(storage, None)
    losses = {10: 5.0, 20: 4.0, 30: 3.0, 40: 3.0, 50: float("nan"), 60: 3.5, 70: 3.6}
    for step, loss in losses.items():
        manifest = uploaded(storage, attempt, tmp_path, step).model_copy(update={"measures": {"validation_loss": loss}})
        checkpoint.commit(storage, attempt, manifest)
        fetch_all(storage, Folder(step, 1), tmp_path / "back")
        checkpoint.retain(storage, attempt, Checkpoints(**policy))
    assert checkpoint.committed_steps(storage) == steps
    for place in checkpoint.committed(storage):
        fetch_all(storage, place, tmp_path / str(place))
