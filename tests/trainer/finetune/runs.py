"""Fine-tunings one after the other in one process, or in two together: imports are paid for once.

Each run is a job file, and the step after whose checkpoint the process is as if killed. What comes out of each, result or error, is
left beside the job file.
"""

from __future__ import annotations

import faulthandler
import json
import os
import socket
import subprocess
import sys
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

OUTCOME = "outcome.json"


class Killed(BaseException):
    """Ends a run at once: nothing but `finally` blocks runs."""


@dataclass(frozen=True)
class Fine:
    """One run."""

    job: Path
    killed_at: int | None = None
    stages: tuple[str, ...] = ()
    """Of evaluate and export, those that follow."""
    trains: bool = True
    """Whether it is fine-tuned here, or was before."""


def run_all(runs: Sequence[Fine], folder: Path, processes: int = 1) -> list[dict[str, Any]]:
    """Runs them in that many processes together; returns what came out of each."""
    path = folder / "runs.json"
    path.write_text(json.dumps([[str(run.job), run.killed_at, run.stages, run.trains] for run in runs]))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    common = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1"}
    common |= {"MASTER_PORT": str(port), "OMP_NUM_THREADS": "1", "TMPDIR": str(scratch), "PRETRAIN_METRICS_PORT": "0"}
    with ExitStack() as ends:
        started = []
        for rank in range(processes):
            stderr = ends.enter_context((folder / f"stderr-{rank}.txt").open("w"))
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.trainer.finetune.runs", str(path)],
                env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.DEVNULL,
                stderr=stderr,
            )
            ends.callback(process.wait)
            ends.callback(process.kill)
            started.append(process)
        codes = [started[0].wait(timeout=1800)]
        codes += [process.wait(timeout=60) for process in started[1:]] if codes == [0] else []
    said = "\n".join((folder / f"stderr-{rank}.txt").read_text()[-4000:] for rank in range(processes))
    assert codes == [0] * processes, said
    return [json.loads((run.job.parent / OUTCOME).read_text()) for run in runs]


def main(path: Path) -> None:
    from pretrain_stage.config import read_job
    from pretrain_stage.events import Events
    from pretrain_trainer.account import Account
    from pretrain_trainer.config.sections import TrainerSpec
    from pretrain_trainer.environment import prepare_environment

    class Watched(Events):
        """Events of a process that is killed after one of its checkpoints."""

        killed_at: int | None = None

        def say(self, event: str, message: str, **fields: Any) -> None:
            super().say(event, message, **fields)
            if event == "checkpoint" and fields["step"] == self.killed_at:
                raise Killed

    faulthandler.dump_traceback_later(float(os.environ.get("HANG_SECONDS", "900")), exit=True)
    for job_path, killed_at, stages, trains in json.loads(path.read_text()):
        job_file = Path(job_path)
        job = read_job(job_file, TrainerSpec)
        prepare_environment(job.spec.training, 1)
        from pretrain_trainer.train import train

        said = StringIO()
        events = Watched({}, said)
        events.killed_at = killed_at
        name = job.spec.finetune[0].name
        outcome: dict[str, Any] = {}
        try:
            if trains:
                train(job, events, Account(), job_file.parent / "samples", name)
            for stage in stages:
                _stage(stage, job, name, events)
        except Killed:
            outcome["killed"] = True
        except Exception as error:
            outcome["error"], outcome["traceback"] = f"{type(error).__name__}: {error}", traceback.format_exc()
        outcome["events"] = [json.loads(line) for line in said.getvalue().splitlines()]
        if os.environ["RANK"] == "0" or "error" in outcome:
            (job_file.parent / OUTCOME).write_text(json.dumps(outcome))
        if "error" in outcome and os.environ["WORLD_SIZE"] != "1":
            # The other process waits for this one.
            print(outcome["traceback"], file=sys.stderr)
            sys.stderr.flush()
            os._exit(1)


def _stage(stage: str, job: Any, name: str, events: Any) -> None:
    from pretrain_trainer.finetune.evaluate import evaluate_task
    from pretrain_trainer.finetune.export import export_task

    {"evaluate": evaluate_task, "export": export_task}[stage](job, name, events)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    sys.stdout.flush()
    # Python's own way out waits for threads of torch.
    os._exit(0)
