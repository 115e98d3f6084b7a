"""Runs the engine on stand-in stages, as a process of its own that tests can send signals to.

drive.py JOB.JSON LOG_DIR [--table]
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from pretrain_operator.local.command import conclude
from pretrain_operator.local.engine import Machine, Run
from pretrain_operator.local.lock import claimed
from pretrain_operator.local.run import view
from pretrain_operator.local.view import standard_console
from pretrain_operator.stages import Stage
from pretrain_stage.storage import open_folder
from torchx import specs

PROGRAM = str(Path(__file__).with_name("program.py"))


def stand_ins(job_file: Path) -> list[Stage]:
    """The stages that a job file of tests/operator/local/program.py names, in its order."""
    job = json.loads(job_file.read_text())
    return [_stage(name, wanted, job_file) for name, wanted in job["stages"].items()]


def _stage(name: str, wanted: dict[str, Any], job_file: Path) -> Stage:
    training = "steps" in wanted
    role = specs.Role(
        name=name,
        image="",
        entrypoint=sys.executable,
        args=[PROGRAM, name, "--job", str(job_file), "--index", specs.macros.replica_id],
        num_replicas=wanted.get("nodes", 1) if training else wanted.get("tasks", 1),
    )
    kind = wanted.get("kind", "training" if training else "indexed")
    app = specs.AppDef(name=name, roles=[role])
    return Stage(name, kind, app, wanted.get("parallelism", 1), processes=wanted.get("processes", 1) if training else 0)


def main() -> int:
    job_file, log_dir = Path(sys.argv[1]), Path(sys.argv[2])
    storage = open_folder(Path(json.loads(job_file.read_text())["storage"]))
    console = standard_console()
    with claimed(storage, None):
        here = Machine(cores=4, environment=os.environ)
        run = Run("stand-in", stand_ins(job_file), storage, log_dir, here, view(console, "--table" not in sys.argv))
        outcome = run.all_stages()
    return conclude(outcome, "pretrain run job.yaml", log_dir)


if __name__ == "__main__":
    sys.exit(main())
