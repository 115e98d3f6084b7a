"""Every file class of a real checkpoint of two processes, damaged in every way: found, said and never loaded."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pretrain_stage.errors import CorruptError
from pretrain_stage.manifest import read_manifest
from pretrain_trainer import checkpoint, commit_log, snapshot
from pretrain_trainer.weights import load_weights

from tests.trainer.conftest import Site, Trained
from tests.trainer.jobs import STEPS, start
from tests.trainer.test_refused import resume, spoken

pytestmark = pytest.mark.slow

NEWEST, OLDER = "checkpoints/step-00000048-attempt-1", "checkpoints/step-00000032-attempt-1"
RANK_FILES = tuple(f"zero_pp_rank_{rank}_mp_rank_00_{what}_states.pt" for rank in (0, 1) for what in ("model", "optim"))
FILES = (*RANK_FILES, "manifest.json", "COMMITTED", "the log's entry")


def _other_rank(path: Path) -> Path:
    """The same file of the other process, or of the older checkpoint, if no process has its own."""
    if path.parent.name == "log":
        return path.with_name(f"{int(path.stem) - 1:08d}.json")
    if path.name not in RANK_FILES:
        return path.parent.with_name(OLDER.rpartition("/")[2]) / path.name
    return path.with_name(
        path.name.replace("rank_0_", "rank_x_").replace("rank_1_", "rank_0_").replace("rank_x_", "rank_1_")
    )


def _older(path: Path) -> Path:
    if path.parent.name == "log":
        return path.with_name("00000001.json")
    return path.parent.with_name(OLDER.rpartition("/")[2]) / path.name


def _flip(path: Path, where: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(where * (len(data) - 1))] ^= 1
    path.write_bytes(data)


def _swap(path: Path, other: Path) -> None:
    mine = path.read_bytes()
    path.write_bytes(other.read_bytes())
    if path.parent == other.parent and path.name in RANK_FILES:
        other.write_bytes(mine)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "first byte flipped": lambda path: _flip(path, 0),
    "a byte near the end flipped": lambda path: _flip(path, 0.9),
    "last byte flipped": lambda path: _flip(path, 1),
    "cut by a byte": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "cut to half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\n"),
    "removed": lambda path: path.unlink(),
    "that of the other process": lambda path: _swap(path, _other_rank(path)),
    "that of the older checkpoint": lambda path: path.write_bytes(_older(path).read_bytes()),
}

HARMLESS = {("the log's entry", "longer")}
"""JSON with a blank behind it says the same. So would an entry with another time, of which nothing depends."""


@pytest.fixture
def two(trained_by_two: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """The run of two processes, to be damaged. One process reads all its files; what it would convert is left as it is."""
    monkeypatch.setattr(snapshot, "_convert", lambda source, target, *_: shutil.move(source, target))
    yield trained_by_two.site
    shutil.rmtree(tmp_path, ignore_errors=True)


def _damaged(site: Site, file: str) -> Path:
    if file != "the log's entry":
        return site.path(f"{NEWEST}/{file}")
    slot = checkpoint._slot(site.storage, checkpoint.committed(site.storage)[0])
    return site.path(commit_log.path(slot))


@pytest.mark.parametrize("file", FILES)
def test_what_is_damaged_is_passed_over(two: Site, tmp_path: Path, file: str) -> None:
    path = _damaged(two, file)
    kept = {one: one.read_bytes() for one in two.path("checkpoints").rglob("*") if one.is_file()}
    found = 0
    for name, damage in DAMAGES.items():
        if (file, name) in HARMLESS:
            continue
        try:
            damage(path)
            stream = io.StringIO()
            taken = resume(two, tmp_path / "scratch", stream, processesPerNode=1, deepspeed={"zeroStage": 3})
            assert taken is not None
            assert taken.manifest.step == 32, name
            (said,) = spoken(stream)
            assert (said["event"], said["step"]) == ("warning", 48), name
            where = "checkpoints/log/" if file == "the log's entry" else f"{NEWEST}/"
            assert where in said["message"], name
            assert not (tmp_path / "scratch/load" / NEWEST).exists(), name
            found += 1
        finally:
            for one, data in kept.items():
                one.write_bytes(data)
            shutil.rmtree(tmp_path / "scratch", ignore_errors=True)
    assert found == sum((file, name) not in HARMLESS for name in DAMAGES)


class Payload:
    """A pickle that leaves a mark when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def test_the_payload_would_leave_its_mark(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Payload(tmp_path / "mark")))
    assert (tmp_path / "mark").exists()


def test_no_pickle_is_loaded_that_was_not_verified(trained: Trained, tmp_path: Path) -> None:
    """A whole run, with payloads in folders without a manifest, beside what a manifest lists, and in manifests that were changed."""
    site, mark = trained.copy(tmp_path / "site", steps=48), tmp_path / "mark"
    shutil.rmtree(site.path("stages/train"))
    site.path("stages/train.json").unlink()
    payload = pickle.dumps(Payload(mark))

    names = [path.name for path in site.path(NEWEST).glob("*.pt")]
    for name in names:  # a folder without a manifest, as new as can be
        site.storage.write(f"checkpoints/step-00000096-attempt-9/{name}", payload)
    # A manifest and a marker that fit each other, and the entry of the log another: of another checkpoint.
    shutil.copytree(site.path(NEWEST), site.path("checkpoints/step-00000080-attempt-1"))
    forged = json.loads(site.path(f"{NEWEST}/manifest.json").read_text())
    for file in forged["files"]:
        file |= {"size": len(payload), "sha256": hashlib.sha256(payload).hexdigest()}
        site.storage.write(f"checkpoints/step-00000080-attempt-1/{file['name']}", payload)
    data = json.dumps(forged | {"step": 80}).encode()
    site.storage.write("checkpoints/step-00000080-attempt-1/manifest.json", data)
    marker = f"{hashlib.sha256(data).hexdigest()} {commit_log.path(4)}\n".encode()
    site.storage.write("checkpoints/step-00000080-attempt-1/COMMITTED", marker)
    # A manifest that was changed.
    site.storage.write(f"{NEWEST}/manifest.json", json.dumps(forged).encode())
    for name in names:
        site.storage.write(f"{NEWEST}/{name}", payload)
    # Files of DeepSpeed's names beside those that the manifest lists, in the checkpoint that will be taken.
    for name in ("zero_pp_rank_1_mp_rank_00_optim_states.pt", "layer_00-model_states.pt", "latest"):
        site.storage.write(f"{OLDER}/{name}", payload)

    run = start("launch", site.write())
    assert run.result["final_loss"] == trained.facts["final_loss"]
    assert not mark.exists()
    assert next(said for said in run.of("info") if "first_step" in said)["first_step"] == 33
    said = [warning["message"] for warning in run.of("warning")]
    assert [warning["step"] for warning in run.of("warning")] == [96, 80, 48]
    assert "step-00000096-attempt-9/COMMITTED: missing" in said[0]
    assert "names checkpoints/log/00000004.json, which does not commit this checkpoint" in said[1]
    assert f"{NEWEST}/manifest.json: SHA-256 is" in said[2]


def test_a_finished_training_is_verified_by_what_reads_it(trained: Trained, tmp_path: Path) -> None:
    site, mark = trained.copy(tmp_path / "site", steps=STEPS), tmp_path / "mark"
    training = read_manifest(site.storage, "train")
    assert training is not None
    site.storage.write(f"{NEWEST}/mp_rank_00_model_states.pt", pickle.dumps(Payload(mark)))
    with pytest.raises(CorruptError, match=r"mp_rank_00_model_states.pt: \d+ bytes, its manifest says"):
        load_weights(site.storage, training, tmp_path / "scratch")
    assert not mark.exists()
