"""The long schedules: `python -m tests.faults` runs them all, or those that are named, and writes build/faults.json.

    kills    SIGKILL at 30 seeded points of one training (in steps, in saves, in uploads), on S3
    damages  checkpoints that were flipped, truncated, robbed of a file, or had two files swapped
    storm    storage that is slow, wrong, away for a minute, and resets connections, while training goes on
    behind   groups that were left behind on a lost node and come back beside their successor

Each is compared with the same training undisturbed. Exit code 1 if anything that was promised was not held.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pretrain_stage.config import Storage as StorageSection
from pretrain_stage.storage import open_storage

from tests.faults.oracle import losses, median_step, slowed, violations
from tests.faults.proxy import FaultyProxy
from tests.faults.runner import Outcome, Site, run
from tests.faults.schedule import Schedule, damages, described, kills, left_behind, storm
from tests.seaweedfs import SeaweedFS, running
from tests.trainer.jobs import SAMPLES, SEQUENCE, job, prepare, write_job

RESULT = Path("build/faults.json")
INTERVAL = 16
"""Steps from one checkpoint to the next, but in a storm."""
STORM_SECONDS = 170
"""How long training is to take in which the storm comes: its four parts, and some time between them."""
STORM_CHECKPOINTS = 16


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("schedules", nargs="*", choices=[*SCHEDULES, []], metavar="SCHEDULE", help=", ".join(SCHEDULES))
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args(arguments)
    found: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    with tempfile.TemporaryDirectory() as name, running(_folder(Path(name), "seaweedfs")) as server:
        os.environ.update(server.environment())
        for schedule in options.schedules or SCHEDULES:
            found[schedule] = {"seed": options.seed, "load": os.getloadavg()[0]}
            found[schedule] |= SCHEDULES[schedule](server, _folder(Path(name), schedule), options.seed)
            print(json.dumps({schedule: found[schedule]}, indent=2), flush=True)
            RESULT.parent.mkdir(exist_ok=True)
            RESULT.write_text(json.dumps(found, indent=2) + "\n")
    return 1 if any(found[one]["violations"] for one in options.schedules or SCHEDULES) else 0


def killed(server: SeaweedFS, folder: Path, seed: int) -> dict[str, Any]:
    count, steps = 30, 512
    outcome, undisturbed = _both(server, folder, steps, INTERVAL, kills(seed, count, steps, INTERVAL), seed)
    resumed = [one for one in losses(outcome) if one is not None]
    return {
        "violations": violations(outcome, undisturbed, INTERVAL, behind=INTERVAL),
        "kills": len(outcome.faults),
        "resumed": len(resumed),
        "lost_steps_most": max(one.steps for one in resumed),
        "lost_steps_mean": sum(one.steps for one in resumed) / len(resumed),
        "lost_more_than_the_interval": sum(1 for one in resumed if one.steps > INTERVAL),
        "interval": INTERVAL,
        "starts": len(outcome.starts),
        "seconds_to_first_step_median": sorted(one.seconds for one in resumed)[len(resumed) // 2],
        "final_loss": outcome.facts["final_loss"],
        "weights": outcome.weights,
        "points": [described(one.fault) | {"step_then": one.step} for one in outcome.faults],
    }


def damaged(server: SeaweedFS, folder: Path, seed: int) -> dict[str, Any]:
    steps = 240
    outcome, undisturbed = _both(server, folder, steps, INTERVAL, damages(seed, steps, INTERVAL), seed)
    return {
        "violations": violations(outcome, undisturbed, INTERVAL, behind=INTERVAL),
        "damages": [described(one.fault) | {"checkpoint": one.damaged} for one in outcome.faults],
        "refused": [said for start in outcome.starts for said in start.refused],
        "lost_steps": [one.steps for one in losses(outcome) if one is not None],
    }


def stormed(server: SeaweedFS, folder: Path, seed: int) -> dict[str, Any]:
    """The length of the run follows from how fast this machine is."""
    with _site(server, folder / "speed", 100, 50, seed) as site:
        step = median_step(run(site, (), 1, 600))
    interval = max(5, int(STORM_SECONDS / step / STORM_CHECKPOINTS))
    steps = STORM_CHECKPOINTS * interval
    outcome, undisturbed = _both(server, folder, steps, interval, storm(steps), seed)
    (ours, count), (theirs, _) = slowed(outcome, undisturbed), slowed(undisturbed, undisturbed)
    return {
        "violations": violations(outcome, undisturbed, interval, behind=interval),
        "starts": len(outcome.starts),
        "steps": steps,
        "interval": interval,
        "slowed_share": ours / count,
        "slowed_share_undisturbed": theirs / count,
        "seconds": outcome.ended - outcome.began,
        "seconds_undisturbed": undisturbed.ended - undisturbed.began,
        "median_step_seconds": median_step(undisturbed),
    }


def behind(server: SeaweedFS, folder: Path, seed: int) -> dict[str, Any]:
    steps = 160
    outcome, undisturbed = _both(server, folder, steps, INTERVAL, left_behind(seed, 3, steps, INTERVAL), seed)
    return {
        "violations": violations(outcome, undisturbed, INTERVAL, behind=INTERVAL),
        "groups_left_behind": len(outcome.faults),
        "what_they_said": [said for one in outcome.left_behind for said in one],
    }


SCHEDULES: dict[str, Callable[[SeaweedFS, Path, int], dict[str, Any]]] = {
    "kills": killed,
    "damages": damaged,
    "storm": stormed,
    "behind": behind,
}


def _both(
    server: SeaweedFS, folder: Path, steps: int, interval: int, schedule: Schedule, seed: int
) -> tuple[Outcome, Outcome]:
    """The training under the schedule, and undisturbed."""
    with _site(server, folder / "undisturbed", steps, interval, seed) as site:
        undisturbed = run(site, (), 1, 3600)
    with _site(server, folder / "faults", steps, interval, seed) as site:
        outcome = run(site, schedule, 3 * len(schedule) + 3, 3600)
    return outcome, undisturbed


@contextlib.contextmanager
def _site(server: SeaweedFS, folder: Path, steps: int, interval: int, seed: int) -> Iterator[Site]:
    """A training of that many steps on S3, behind a proxy."""
    folder.mkdir(parents=True)
    uri = server.uri(f"{folder.parent.name}-{folder.name}-{time.time_ns()}")
    storage = open_storage(StorageSection(uri=uri, endpointURL=server.endpoint))
    prepare(storage, _folder(folder, "prepare"))
    with FaultyProxy(server.endpoint, seed) as proxy:
        spec = job_of(uri, steps, interval)
        spec["spec"]["storage"]["endpointURL"] = proxy.endpoint
        yield Site(write_job(folder, spec), storage, folder / "temporary", server.environment(), proxy)


def job_of(uri: str, steps: int, interval: int) -> dict[str, Any]:
    """The small job of the trainer's tests, on two processes."""
    return job(
        uri,
        tokens=steps * SAMPLES * SEQUENCE,
        processesPerNode=2,
        checkpoints={"everySteps": interval, "keepLast": 3},
        validation={"everySteps": steps, "maxSequences": 24},
        maxEpochs=1000,
    )


def _folder(parent: Path, name: str) -> Path:
    folder = parent / name
    folder.mkdir(parents=True)
    return folder


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
