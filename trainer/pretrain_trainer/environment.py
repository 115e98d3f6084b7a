"""What must be in a process's environment before torch and DeepSpeed are imported. Imports neither."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from fractions import Fraction

from pretrain_trainer.config.sections import Training

_CPU_UNITS = {"m": Fraction(1, 1000), "k": Fraction(1000)}


def prepare_environment(training: Training, processes: int) -> None:
    """Sets, where nobody else has, what the libraries read on import. processes: those that share this node's CPU request.

    - OMP_NUM_THREADS: the node's CPU request, shared out. A number of threads that came from the machine would make a
      result depend on it.
    - DS_ACCELERATOR: as the job says, whatever the machine has.
    - TORCHDYNAMO_DISABLE where nothing is compiled: DeepSpeed imports the compiler just to look at optimizers (1.5 s).
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(cpu_threads(training, processes)))
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if training.gpus_per_node else "cpu")
    if not training.compile:
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    # DeepSpeed's autotuner, which nobody calls here, imports the package MLflow and with it pandas where they are installed.
    sys.modules.setdefault("mlflow", None)  # type: ignore[arg-type]
    quiet()


def quiet() -> None:
    """Silences what libraries say on every step or start and nobody can act on."""
    # DeepSpeed 0.19 calls collectives by names that torch 2.13 deprecates, thousands of times in a run.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"deepspeed")
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    os.environ.setdefault("DS_LOG_LEVEL", "warning")
    # transformers names each class that it cannot offer here, whoever asks for another.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def cpu_threads(training: Training, processes: int) -> int:
    """Threads of each process: a whole number of the node's requested CPUs, at least one."""
    cpu = training.resources.cpu
    unit = _CPU_UNITS.get(cpu[-1])
    cores = Fraction(cpu[:-1]) * unit if unit is not None else Fraction(cpu)
    return max(1, int(cores) // processes)
