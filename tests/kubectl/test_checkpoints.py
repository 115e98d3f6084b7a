"""`pretrain checkpoints` on a real S3 server and on a folder: what is listed, verified and restored."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from pretrain_operator.kubectl.checkpoints import print_checkpoints, print_verified, restore, stored, table
from pretrain_stage import config
from pretrain_stage.errors import UserError
from pretrain_stage.storage import Storage, open_folder, open_storage
from pretrain_trainer import checkpoint
from pretrain_trainer.checkpoint import CheckpointManifest, Folder
from pretrain_trainer.commit_log import Attempt, Superseded

from tests.kubectl.test_commands import error, pretrain
from tests.operator.jobs import job
from tests.seaweedfs import SeaweedFS
from tests.trainer.rank_files import put_rank_file

LOSSES = {10: 4.0, 20: 1.3, 30: 2.0}


@pytest.fixture(params=["folder", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """Checkpoints of steps 10, 20 and 30 of two processes, and one of step 40 that was not finished."""
    if request.param == "folder":
        made = open_folder(tmp_path / "storage")
    else:
        server: SeaweedFS = request.getfixturevalue("seaweedfs")
        made = open_storage(config.Storage(uri=request.getfixturevalue("s3_uri"), endpointURL=server.endpoint))
    attempt = checkpoint.begin(made, None)
    for step, loss in LOSSES.items():
        commit(made, attempt, tmp_path, step, loss)
    path = tmp_path / "rank_0.pt"
    put_rank_file(made, Folder(40, 1), path, 0)
    return made


def commit(storage: Storage, attempt: Attempt, tmp_path: Path, step: int, loss: float, parent: str = "") -> None:
    files = []
    for rank in range(2):
        path = tmp_path / f"rank_{rank}.pt"
        path.write_bytes(b"%d" % rank * 3 * 2**19)
        files.append(put_rank_file(storage, checkpoint.folder(step, attempt), path, rank))
    before = checkpoint.reference(storage, checkpoint.read_checkpoint(storage, parent)) if parent else None
    manifest = CheckpointManifest(
        step=step,
        attempt=attempt.number,
        tokens=step * 1000,
        next_sample=0,
        world_size=2,
        zero_stage=1,
        seed=1,
        identity={},
        parent=before,
        measures={"loss": loss, "validation_loss": loss},
        segments=(),
        files=tuple(files),
    )
    checkpoint.commit(storage, attempt, manifest)


def states(storage: Storage) -> dict[tuple[int, int], str]:
    return {(one.place.step, one.place.attempt): ", ".join(one.states) for one in stored(storage)}


def test_the_table(storage: Storage) -> None:
    now = datetime.now(UTC)
    found = [replace(one, time=now - timedelta(hours=5)) for one in stored(storage)]
    lines = [line.split(maxsplit=7) for line in table(found, now)]
    assert lines == [
        ["STEP", "ATTEMPT", "TOKENS", "LOSS", "SIZE", "AGE", "STATE"],
        ["40", "1", "1.5", "MiB", "5h", "not", "finished"],
        ["30", "1", "30,000", "2.0000", "3.0", "MiB", "5h", "newest"],
        ["20", "1", "20,000", "1.3000", "3.0", "MiB", "5h", "best"],
        ["10", "1", "10,000", "4.0000", "3.0", "MiB", "5h"],
    ]
    late = table([replace(found[1], time=now + timedelta(hours=1))], now)
    assert late[1].split()[6] == "0s", "a clock that is behind"


def test_as_json(storage: Storage, capsys: pytest.CaptureFixture[str]) -> None:
    print_checkpoints(storage, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["storage"] == storage.uri
    newest = told["checkpoints"][1]
    assert (newest["step"], newest["attempt"], newest["folder"]) == (30, 1, "checkpoints/step-00000030-attempt-1")
    assert (newest["bytes"] > 3 * 2**20, newest["processes"], newest["zeroStage"]) == (True, 2, 1)
    assert (newest["states"], newest["fault"]) == (["newest"], None)


def test_what_an_attempt_went_on_from_is_in_use(storage: Storage, tmp_path: Path) -> None:
    attempt = checkpoint.begin(storage, None)
    assert states(storage)[30, 1] == "newest, in use"
    commit(storage, attempt, tmp_path, 50, 1.1, parent="checkpoints/step-00000030-attempt-1")
    assert states(storage) == {
        (50, 2): "newest, best", (40, 1): "not finished", (30, 1): "in use", (20, 1): "", (10, 1): "",
    }  # fmt: skip


def test_damage_is_listed_as_far_as_sizes_tell(storage: Storage, capsys: pytest.CaptureFixture[str]) -> None:
    storage.write("checkpoints/step-00000030-attempt-1/rank_1.pt", b"short")
    storage.delete(["checkpoints/step-00000020-attempt-1/rank_0.pt"])
    assert states(storage) == {
        (40, 1): "not finished",
        (30, 1): "damaged",
        (20, 1): "damaged, best",
        (10, 1): "newest",
    }
    print_checkpoints(storage, as_json=False)
    said = capsys.readouterr().err
    assert "note: step 30, attempt 1: " in said
    assert "rank_1.pt: 5 bytes, its manifest says 1572864" in said
    assert "rank_0.pt: missing" in said


def test_every_byte_is_verified(storage: Storage, capsys: pytest.CaptureFixture[str]) -> None:
    assert print_verified(storage, None, as_json=False)
    assert capsys.readouterr().out.splitlines() == [
        f"step {step}, attempt 1: 2 files, 3.0 MiB, as committed" for step in (30, 20, 10)
    ]
    for rank in (0, 1):
        path = f"checkpoints/step-00000030-attempt-1/rank_{rank}.pt"
        storage.write(path, (storage.read(path) or b"")[:-1] + b"?")
    assert not print_verified(storage, 30, as_json=False)
    told = capsys.readouterr()
    assert told.out == "step 30, attempt 1: wrong\n"
    assert [f"rank_{rank}.pt: SHA-256 is" in line for rank, line in enumerate(told.err.splitlines())] == [True, True]
    assert print_verified(storage, 20, as_json=True)
    assert json.loads(capsys.readouterr().out)["checkpoints"][0]["faults"] == []
    with pytest.raises(UserError, match=r"STEP: 40 has no committed checkpoint in .*; there are 30, 20, 10"):
        print_verified(storage, 40, as_json=False)


def test_an_older_one_is_restored_and_a_newer_one_again(
    storage: Storage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    running = checkpoint.begin(storage, 2)
    with pytest.raises(
        UserError, match=r"--yes: not given; .* step 10 of attempt 1, .*: 30 \(attempt 1\), 20 \(attempt 1\); "
    ):
        restore(storage, 10, sure=False)
    assert checkpoint.committed_steps(storage) == [30, 20, 10]
    restore(storage, 10, sure=True)
    assert checkpoint.committed_steps(storage) == [10]
    assert (states(storage)[10, 1], states(storage)[30, 1]) == ("newest, best, in use", "passed over")
    with pytest.raises(
        Superseded, match="attempt 2: checkpoints/step-00000010-attempt-1 was restored meanwhile; this one ends"
    ):
        commit(storage, running, tmp_path, 35, 1.0)

    restore(storage, 20, sure=True)
    assert checkpoint.committed_steps(storage) == [20, 10]
    commit(storage, checkpoint.begin(storage, 3), tmp_path, 30, 1.0)
    assert checkpoint.committed(storage) == [Folder(30, 3), Folder(20, 1), Folder(10, 1)]
    assert states(storage)[30, 1] == "passed over"
    restore(storage, 30, sure=True)
    assert capsys.readouterr().out.splitlines()[-1] == "step 30 of attempt 3 is the newest already"


def test_what_is_damaged_is_not_restored(storage: Storage) -> None:
    storage.write("checkpoints/step-00000010-attempt-1/rank_1.pt", b"short")
    with pytest.raises(UserError, match=r"STEP: 10 cannot be restored: .*rank_1.pt: 5 bytes"):
        restore(storage, 10, sure=True)
    assert checkpoint.committed_steps(storage) == [30, 20, 10]


def test_the_commands_on_the_file_of_a_job(storage: Storage, tmp_path: Path) -> None:
    if storage.uri.startswith("s3://"):
        pytest.skip("the way to S3 is in test_stored.py")
    spec: dict[str, Any] = job({"storage": {"uri": storage.uri}})
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(spec))
    assert [line.split()[0] for line in pretrain("checkpoints", "ls", path).stdout.splitlines()] == [
        "STEP",
        "40",
        "30",
        "20",
        "10",
    ]
    assert pretrain("checkpoints", "verify", path).returncode == 0
    asked = pretrain("checkpoints", "restore", path, 20)
    assert (asked.returncode, "Add --yes to do that" in error(asked)) == (65, True)
    assert pretrain("checkpoints", "restore", path, 20, "--yes").returncode == 0
    storage.write("checkpoints/step-00000010-attempt-1/rank_1.pt", b"short")
    done = pretrain("checkpoints", "verify", path)
    assert done.returncode == 1
    assert "rank_1.pt: 5 bytes" in done.stderr
    wrong = pretrain("checkpoints", "ls", path, "--task", "reviews")
    assert error(wrong) == "--task: 'reviews' is no fine-tuning of this job, which has none"


def test_no_checkpoints_yet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage = open_folder(tmp_path / "empty")
    print_checkpoints(storage, as_json=False)
    assert print_verified(storage, None, as_json=False)
    assert capsys.readouterr().err == f"no checkpoints in {storage.uri}/checkpoints\n" * 2
