"""One task, or every so many, of one stage of preprocessing.

python -m pretrain_preprocess clean --job job.json --index 0              task 0, as a pod of an Indexed Job runs it
python -m pretrain_preprocess clean --job job.json --index 0 --stride 2   tasks 0, 2, 4, ..., as a local process does
python -m pretrain_preprocess examples --job job.json --name reviews      the examples of a task in spec.finetune
"""

from __future__ import annotations

import os
import signal

if __name__ == "__main__":
    # Process 1 of a container is deaf to SIGTERM until it has a handler, and on a busy node these imports take many seconds.
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(128 + number))

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pretrain_stage.config import read_job
from pretrain_stage.events import Events
from pretrain_stage.process import run_stage

from pretrain_preprocess.labelled.stage import PREFIX, examples_stage
from pretrain_preprocess.metrics import Metrics
from pretrain_preprocess.stages import STAGES

PREFLIGHT = "preflight"
EXAMPLES = "examples"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what the command line says. Exit code 0; 65 if the job or its data is wrong, 75 if trying again may help."""
    options = parser().parse_args(arguments)
    stage = f"{PREFIX}{options.name}" if options.stage == EXAMPLES else options.stage
    events = Events({"stage": stage, "index": options.index})
    return run_stage(events, lambda: run(options, events))


def run(options: argparse.Namespace, events: Events) -> None:
    """The stage of the command line. Modules are imported as they are needed: an unchanged stage is told in an instant."""
    if options.stage == PREFLIGHT:
        from pretrain_preprocess.preflight import PreflightSpec, preflight

        wanted = read_job(options.job, PreflightSpec)
        events.context.update(wanted.metadata.model_dump(exclude_none=True))
        preflight(wanted)
        return
    from pretrain_preprocess.config import PreprocessSpec
    from pretrain_preprocess.task import run_tasks

    job = read_job(options.job, PreprocessSpec)
    events.context.update(job.metadata.model_dump(exclude_none=True))
    stage = examples_stage(job.spec, options.name) if options.stage == EXAMPLES else STAGES[options.stage]
    metrics = Metrics(job.metadata)
    if options.metrics_port:
        metrics.serve(options.metrics_address, options.metrics_port)
    try:
        run_tasks(job, stage, options.index, options.stride, metrics)
    except Exception:
        metrics.wait_until_read()
        raise


def parser() -> argparse.ArgumentParser:
    """The command line."""
    width = max(map(len, STAGES))
    about = {PREFLIGHT: "whether storage, sources and tokenizer are there; leaves nothing behind"}
    about[EXAMPLES] = "checks and splits the examples of one task of finetune, --name"
    about |= {stage.name: stage.about for stage in STAGES.values()}
    result = argparse.ArgumentParser(
        prog="python -m pretrain_preprocess",
        description="Runs tasks of one stage on the way from raw text to tokens.",
        epilog="stages, in order:\n"
        + "\n".join(f"  {name:<{width}}  {text}" for name, text in about.items())
        + "\n\nCredentials for s3:// come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        "\nExit codes: 0 done, 65 the job or its data is wrong, 75 storage failed and trying again may help, 143 stopped.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("stage", choices=list(about), metavar="STAGE", help="stage to run; see below")
    result.add_argument("--job", type=Path, required=True, metavar="FILE", help="resolved job file (JSON)")
    result.add_argument("--name", metavar="NAME", help="examples: the task in finetune whose examples are made")
    result.add_argument("--index", type=count, default=0, metavar="I", help="task to run, from 0 (default: 0)")
    result.add_argument("--stride", type=positive, metavar="S", help="also run tasks I+S, I+2S, ... (default: only task I)")
    result.add_argument(
        "--metrics-port",
        type=count,
        default=0,
        metavar="PORT",
        help="serve Prometheus metrics there (default: 0, do not); preflight has none",
    )
    result.add_argument(
        "--metrics-address",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address of the metrics (default: 127.0.0.1; a pod takes 0.0.0.0)",
    )
    return result


def count(text: str) -> int:
    """A number from 0 on."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative; give a number from 0 on")
    return number


def positive(text: str) -> int:
    """A number from 1 on."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive; give a number from 1 on")
    return number


if __name__ == "__main__":
    # spaCy imports torch where it is installed: two seconds and 200 MB for nothing.
    sys.modules["torch"] = None  # type: ignore[assignment]
    sys.exit(main())
