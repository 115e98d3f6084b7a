"""kill -9 at any time, on S3: the run goes on from its newest whole checkpoint and ends the same, to the last bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pretrain_stage.config import Storage as StorageSection
from pretrain_stage.manifest import read_manifest
from pretrain_stage.storage import Storage, open_storage
from pretrain_trainer import checkpoint

from tests.seaweedfs import SeaweedFS
from tests.trainer.conftest import Trained
from tests.trainer.jobs import job, start, write_job
from tests.trainer.proxy import HoldingProxy

pytestmark = pytest.mark.slow


def uploaded(trained: Trained, storage: Storage) -> None:
    """Tokenizer and tokens of the trained job, in another storage."""
    for path in sorted(Path(trained.site.storage.uri).rglob("*")):
        name = path.relative_to(trained.site.storage.uri).as_posix()
        if path.is_file() and not name.startswith(("checkpoints/", "reports/", "stages/train")):
            storage.upload(path, name)


def test_killed_in_a_step_and_at_each_point_of_a_save(
    tmp_path: Path, trained: Trained, seaweedfs: SeaweedFS, s3_uri: str
) -> None:
    storage = open_storage(StorageSection(uri=s3_uri, endpointURL=seaweedfs.endpoint))
    uploaded(trained, storage)

    def write(endpoint: str) -> Path:
        spec: dict[str, Any] = job(s3_uri)
        spec["spec"]["storage"]["endpointURL"] = endpoint
        return write_job(tmp_path, spec)

    with HoldingProxy(seaweedfs.endpoint) as proxy:
        run = start("launch", write(proxy.endpoint))
        run.until("step")
        run.kill()
        assert checkpoint.committed_steps(storage) == [], "killed before its first checkpoint"

        weights, optimizer = "mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt"
        for attempt, hold, left in (
            (2, f"step-00000032-attempt-2/{optimizer}", {weights}),
            (3, "log/00000005.json", {weights, optimizer, "manifest.json"}),
            (4, "step-00000032-attempt-4/COMMITTED", {weights, optimizer, "manifest.json"}),
        ):
            proxy.hold = f"PUT /{s3_uri.removeprefix('s3://')}/checkpoints/{hold}".encode()
            proxy.held.clear()
            run = start("launch", write(proxy.endpoint))
            assert proxy.held.wait(400), run.errors
            run.kill()
            assert checkpoint.committed_steps(storage) == [16]
            folder = f"checkpoints/step-00000032-attempt-{attempt}"
            assert {Path(entry.path).name for entry in storage.entries(folder)} == left
    run = start("launch", write(seaweedfs.endpoint))
    assert (run.result["final_loss"], run.result["validation_loss"]) == (
        trained.facts["final_loss"],
        trained.facts["validation_loss"],
    )
    begun = next(said for said in run.of("info") if "first_step" in said)
    assert begun["first_step"] == 33, "the log had the last one's commit, so it was completed"
    assert not run.of("warning")
    ours, theirs = (read_manifest(where, "train") for where in (storage, trained.site.storage))
    assert ours is not None
    assert theirs is not None
    rank_files = (
        {Path(file.path).name: file.sha256 for file in one.outputs if file.path.endswith(".pt")} for one in (ours, theirs)
    )
    assert len({json.dumps(files, sort_keys=True) for files in rank_files}) == 1, "the same bytes, wherever they lie"
