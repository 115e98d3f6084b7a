"""A short schedule on S3: a process killed while a checkpoint goes up, storage that fails, and a checkpoint that is damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
from pretrain_stage.config import Storage as StorageSection
from pretrain_stage.storage import open_storage

from tests.faults.oracle import losses, violations
from tests.faults.proxy import FaultyProxy
from tests.faults.runner import Outcome, Site, run
from tests.faults.schedule import Damage, Kill, Moment, Schedule, Weather
from tests.seaweedfs import SeaweedFS
from tests.trainer.jobs import SAMPLES, SEQUENCE, job, prepare, write_job

pytestmark = pytest.mark.slow

STEPS, INTERVAL = 40, 10
SCHEDULE: Schedule = (
    Weather(Moment(2, "step", 0.0), 10.0, latency=0.02, errors=0.2),
    Kill(Moment(10, "upload", 0.5), "rank 1"),
    Damage(Moment(36, "step", 0.5), "flip", 0.4, 0.7),
)


def trained(folder: Path, server: SeaweedFS, uri: str, schedule: Schedule, processes: int) -> Outcome:
    folder.mkdir()
    storage = open_storage(StorageSection(uri=uri, endpointURL=server.endpoint))
    (folder / "prepare").mkdir()
    prepare(storage, folder / "prepare")
    with FaultyProxy(server.endpoint) as proxy:
        spec = job(
            uri,
            tokens=STEPS * SAMPLES * SEQUENCE,
            processesPerNode=processes,
            checkpoints={"everySteps": INTERVAL, "keepLast": 3},
            validation={"everySteps": STEPS, "maxSequences": 24},
        )
        spec["spec"]["storage"]["endpointURL"] = proxy.endpoint
        site = Site(write_job(folder, spec), storage, folder / "temporary", server.environment(), proxy)
        return run(site, schedule, len(schedule) + 2, 300)


def test_a_training_under_faults_ends_as_if_there_had_been_none(tmp_path: Path, seaweedfs: SeaweedFS, s3_uri: str) -> None:
    undisturbed = trained(tmp_path / "undisturbed", seaweedfs, f"{s3_uri}/undisturbed", (), 2)
    outcome = trained(tmp_path / "faults", seaweedfs, f"{s3_uri}/faults", SCHEDULE, 2)
    assert violations(outcome, undisturbed, INTERVAL, behind=INTERVAL) == []
    assert [one.fault for one in outcome.faults] == list(SCHEDULE), "all of them came"
    assert [start.exit_code == 0 for start in outcome.starts] == [False, False, True]
    assert outcome.faults[2].damaged is not None, "there was an older checkpoint to fall back to"
    assert [loss.steps > 0 for loss in losses(outcome) if loss is not None] == [True, True]
