"""`pretrain run`: from a job's file to its outcome on this machine."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import Path

from pretrain_stage.errors import UserError
from pretrain_stage.storage import Storage, open_storage
from rich.console import Console

from pretrain_operator.api import IMMUTABLE, PretrainJob
from pretrain_operator.local.engine import Machine, Outcome, Run
from pretrain_operator.local.ledger import PATH, RunLedger
from pretrain_operator.local.lock import claimed
from pretrain_operator.local.plan import cores_here, free_port, site
from pretrain_operator.local.view import LineView, NoView, TableView, View
from pretrain_operator.render import job_file_text
from pretrain_operator.stages import Stage, stages


@dataclass(frozen=True)
class Options:
    """How a run is wanted."""

    until: str | None = None
    """Name of the last stage to run."""
    plain: bool = False
    """Lines instead of a table."""
    log_dir: Path | None = None
    metrics_port: int = 0
    """Port of training's Prometheus metrics; 0 takes a free one."""
    age: float = 0.0
    """Seconds that the program has taken so far, which are the run's too."""


def run(job: PretrainJob, options: Options, log_dir: Path, console: Console) -> Outcome:
    """Runs the job's stages.

    Raises UserError if it cannot begin: an unknown stage, storage in use, unreachable storage.
    """
    planned = up_to(all_stages(job, log_dir, options.metrics_port), options.until)
    storage = open_storage(job.spec.storage)
    with claimed(storage, job.spec.storage.endpoint_url):
        storage.write("job.json", job_file_text(job).encode())
        shown = view(console, options.plain)
        ledger = RunLedger(_kept(storage), _training_of(job), partial(storage.write, PATH), options.age)
        return Run(job.metadata.name, planned, storage, log_dir, machine(job), shown, ledger).all_stages()


def _kept(storage: Storage) -> bytes | None:
    """The ledger of earlier runs; one that cannot be read is no reason not to run."""
    try:
        return storage.read(PATH)
    except UserError:
        return None


def _training_of(job: PretrainJob) -> str:
    """A digest of the fields that decide what is trained, and so whose steps those of an earlier run are."""
    spec = job.job_file()["spec"]
    values = [reduce(lambda section, name: section.get(name) or {}, path.split("."), spec) for path in IMMUTABLE]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def run_preflight(job: PretrainJob, log_dir: Path) -> Outcome:
    """Runs the stage preflight alone, and shows nothing. May run beside another run of the same storage."""
    planned = all_stages(job, log_dir, metrics_port=0)[:1]
    storage = open_storage(job.spec.storage)
    return Run(job.metadata.name, planned, storage, log_dir, machine(job), NoView()).all_stages()


def all_stages(job: PretrainJob, log_dir: Path, metrics_port: int) -> list[Stage]:
    """The job's stages on this machine, with a copy of the job file in the log folder for their programs to read.

    Raises UserError if the log folder cannot be written.
    """
    job_file = log_dir / "job.json"
    try:
        job_file.write_text(job_file_text(job), encoding="utf-8")
    except OSError as error:
        raise UserError(f"--log-dir: {job_file} cannot be written ({error.strerror}); give another folder") from None
    return stages(job, site(job_file, master_port=free_port(), metrics_port=metrics_port))


def up_to(planned: Sequence[Stage], until: str | None) -> list[Stage]:
    """The stages up to and with `until`; all for None. Raises UserError if there is no such stage."""
    names = [stage.name for stage in planned]
    if until is None:
        return list(planned)
    if until not in names:
        close = difflib.get_close_matches(until, names, n=1)
        meant = f"; did you mean {close[0]}?" if close else ""
        raise UserError(f"--until: {until} is no stage of this job{meant} Its stages: {', '.join(names)}")
    return list(planned[: names.index(until) + 1])


def make_log_dir(job: PretrainJob, wanted: Path | None) -> Path:
    """The folder for the log files of one run: as wanted, or a new one under the user's state folder.

    Raises UserError if it cannot be made.
    """
    folder = wanted
    if folder is None:
        state = os.environ.get("XDG_STATE_HOME") or Path("~/.local/state").expanduser()
        folder = Path(state) / "pretrain" / job.metadata.name / time.strftime("%Y%m%d-%H%M%S")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return folder.absolute()
    except OSError as error:
        raise UserError(
            f"--log-dir: {folder} cannot be made ({error.strerror}); give a folder that you may write to"
        ) from None


def machine(job: PretrainJob) -> Machine:
    """This machine, as the job uses it."""
    return Machine(cores_here(), os.environ, job.spec.training.compile)


def view(console: Console, plain: bool) -> View:
    """A table on a terminal, lines anywhere else or if they are wanted."""
    can_redraw = console.file.isatty() and not console.is_dumb_terminal
    return TableView(console) if can_redraw and not plain else LineView(console)
