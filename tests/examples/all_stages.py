"""All stages of a job, as its plan lists them, one after the other in one process: imports are paid for once, not thirty times.

`pretrain run` starts the same programs with the same arguments, each in a process of its own (tests/run). Training is one rank here,
without the launcher.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

from pretrain_operator.api import load_job
from pretrain_operator.render import job_file_text
from pretrain_operator.stages import Site, stages
from torchx.specs import macros


def main(path: Path) -> int:
    """Runs the job in that file. Returns the exit code of the first program that fails, or 0."""
    job = load_job(path)
    job_file = path.with_suffix(".json")
    job_file.write_text(job_file_text(job), encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    os.environ |= {"MASTER_PORT": str(port), "PRETRAIN_METRICS_PORT": "0"}
    for stage in stages(job, Site(str(job_file))):
        for index in range(stage.tasks):
            module, *arguments = [argument.replace(macros.replica_id, str(index)) for argument in stage.role.args[1:]]
            code = run(module, arguments)
            if code != 0:
                return code
    return 0


def run(module: str, arguments: list[str]) -> int:
    """What `python -m module arguments` does."""
    if module == "pretrain_preprocess":
        from pretrain_preprocess.__main__ import main as preprocess

        return preprocess(arguments)
    from pretrain_stage.config import read_job
    from pretrain_stage.events import Events
    from pretrain_trainer import __main__ as trainer
    from pretrain_trainer.config.sections import TrainerSpec

    if arguments[0] != "launch":
        return trainer.main(arguments)
    options = trainer.parse(["train", *arguments[1:]])
    # Its main would end the process.
    trainer.program(options, read_job(options.job, TrainerSpec), Events({"stage": "train"}))()
    return 0


if __name__ == "__main__":
    ended = main(Path(sys.argv[1]))
    sys.stdout.flush()
    os._exit(ended)  # Python's own way out waits for threads of torch
