"""Starts training with faults in it (faulty.py)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.trainer.jobs import STARTED, Run


def start_faulty(job_file: Path, processes: int = 1, **faults: Any) -> Run:
    """Training by so many processes. faults: as faulty.py has them."""
    stderr, scratch = job_file.parent / "stderr.txt", job_file.parent / "scratch"
    scratch.mkdir(exist_ok=True)
    program = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    program += [str(Path(__file__).with_name("faulty.py")), "train", "--job", str(job_file)]
    env = {"OMP_NUM_THREADS": "1", "PRETRAIN_METRICS_PORT": "0", "TMPDIR": str(scratch), "FAULTS": json.dumps(faults)}
    with stderr.open("w") as file:
        process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=file, text=True, env={**os.environ, **env})
    STARTED.append(Run(process, stderr))
    return STARTED[-1]
