"""The trainer's programs: `python -m pretrain_trainer launch|train|evaluate|export|predict|report --job FILE`."""

from __future__ import annotations

import os
import signal

if __name__ == "__main__":
    # Process 1 of a container is deaf to SIGTERM until it has a handler, and on a busy node these imports take many seconds.
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(128 + number))

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pretrain_stage.config import Job, read_job
from pretrain_stage.events import Events
from pretrain_stage.process import run_stage

from pretrain_trainer.config.sections import TrainerSpec

PROGRAMS = {
    "launch": "one node's share of training: starts its ranks with torchrun, which reads the PET_* variables "
    "(PET_NNODES, PET_NPROC_PER_NODE, PET_NODE_RANK, PET_MASTER_ADDR, PET_MASTER_PORT; without them, one node)",
    "train": "one rank of training; started by launch, or by torchrun",
    "evaluate": "loss, perplexity and bits per byte on all held-out text, and sampled continuations",
    "export": "the final model as a Hugging Face folder in safetensors",
    "predict": "one shard of the records of spec.predict, answered by a finished model",
    "report": "a page with curves, goodput, stage counts, checkpoints, samples, lineage and configuration; curves as a picture",
}


def main(arguments: Sequence[str]) -> int:
    """Runs one program; returns its exit code (65: the job or its data is wrong; 75: storage failed; 143: stopped)."""
    options = parse(arguments)
    events = Events(speaker(options.program, os.environ, getattr(options, "task", None)))

    def run() -> None:
        job = read_job(options.job, TrainerSpec)
        events.context.update(job.metadata.model_dump(exclude_none=True))
        program(options, job, events)()

    code = run_stage(events, run)
    if options.program in ("train", "launch"):
        # Python's own way out of a process with torch takes up to seconds. Until a rank is gone the others hang, and until a launcher
        # is, nobody starts the group again.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def speaker(name: str, env: Mapping[str, str], task: str | None = None) -> dict[str, Any]:
    """Who speaks, on every line of the log: the stage, and of training the rank, or the node whose ranks a launcher starts.

    task: the task of spec.finetune that the stage is for.
    """
    stage, number, variable = ("train", "node", "PET_NODE_RANK") if name == "launch" else (name, "rank", "RANK")
    if task is not None:
        stage = f"{'finetune' if stage == 'train' else stage}-{task}"
    value = env.get(variable, "0")
    return {"stage": stage, number: int(value) if value.isdigit() else value}


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pretrain_trainer", description=__doc__)
    programs = parser.add_subparsers(dest="program", required=True, metavar="PROGRAM")
    for name, text in PROGRAMS.items():
        one = programs.add_parser(name, help=text, description=text)
        one.add_argument("--job", type=Path, required=True, metavar="FILE", help="the resolved job file (JSON)")
        if name in ("launch", "train", "evaluate", "export"):
            one.add_argument(
                "--task", metavar="NAME", help="of spec.finetune: works on the model for that task, not on the job's own"
            )
        if name == "predict":
            one.add_argument("--name", required=True, help="which entry of spec.predict")
            one.add_argument("--index", type=int, default=0, metavar="I", help="shard to answer, from 0 (default: 0)")
            one.add_argument(
                "--stride", type=int, metavar="S", help="also answer shards I+S, I+2S, ... (default: only shard I)"
            )
        if name in ("launch", "train"):
            one.add_argument(
                "--record-samples",
                type=Path,
                metavar="FOLDER",
                help="write there, one file a rank, which samples each step took",
            )
    return parser.parse_args(arguments)


def program(options: argparse.Namespace, job: Job[TrainerSpec], events: Events) -> Callable[[], None]:
    """The program that was asked for, ready to run. Each imports what it needs only now."""
    match options.program:
        case "launch":
            from pretrain_trainer.launch import launch

            return lambda: launch(job, options.job, events, options.record_samples, options.task)
        case "train":
            from pretrain_trainer.rank import run_rank

            return lambda: run_rank(job, events, options.record_samples, options.task)
        case "evaluate" if options.task is not None:
            from pretrain_trainer.finetune.evaluate import evaluate_task

            return lambda: evaluate_task(job, options.task, events)
        case "export" if options.task is not None:
            from pretrain_trainer.finetune.export import export_task

            return lambda: export_task(job, options.task, events)
        case "evaluate":
            from pretrain_trainer.evaluate import evaluate

            return lambda: evaluate(job, events)
        case "export":
            from pretrain_trainer.export import export

            return lambda: export(job, events)
        case "predict":
            from pretrain_trainer.inference.stage import predict_stage

            def answer() -> None:
                tasks = next((one.tasks for one in job.spec.predict if one.name == options.name), 1)
                stop = options.index + 1 if options.stride is None else max(tasks, options.index + 1)
                for index in range(options.index, stop, options.stride or 1):
                    predict_stage(job, options.name, index, events)

            return answer
        case "report":
            from pretrain_trainer.report import report

            return lambda: report(job, options.job, events)
        case _:
            raise AssertionError(options.program)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
