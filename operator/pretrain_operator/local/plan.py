"""What differs when a stage runs on one machine: how many processes share its tasks, their threads and ports. Pure."""

from __future__ import annotations

import dataclasses
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from torchx import specs

from pretrain_operator.stages import Site, Stage

TRAINING_GRACE_SECONDS = 300.0
"""How long training, or fine-tuning, may take to save a checkpoint once it is asked to stop."""

GRACE_SECONDS = 10.0
"""The same for a stage that has nothing to save: its finished tasks are kept, a torn one is done again."""


def site(job_file: Path, *, master_port: int, metrics_port: int) -> Site:
    """This machine as a place where stages run. There are no images: the programs are those of this interpreter."""
    return Site(
        job_file=_literal(str(job_file)),
        python=sys.executable,
        master_address="127.0.0.1",
        master_port=master_port,
        metrics_port=metrics_port,
    )


def fold(stage: Stage, parallelism: int) -> specs.AppDef:
    """The stage with at most `parallelism` processes: process I of P does the tasks I, I+P, I+2P, ...

    Training is left as it is: its replicas are nodes, and all of them must run at once.
    """
    if stage.kind == "training" or stage.tasks == 1:
        return stage.app
    processes = min(stage.tasks, parallelism)
    role = dataclasses.replace(stage.role, args=[*stage.role.args, "--stride", str(processes)], num_replicas=processes)
    return dataclasses.replace(stage.app, roles=[role])


def settle(app: specs.AppDef, *, cores: int, processes: int, compiled: bool, inherited: Mapping[str, str]) -> specs.AppDef:
    """The AppDef with the environment that suits this machine: `cores` shared by `processes`.

    What the user has set in the `inherited` environment stays. GPUs are not shared out when there is one node: it sees
    those of CUDA_VISIBLE_DEVICES, or all.
    """
    threads = str(max(1, cores // processes))
    chosen = {
        "OMP_NUM_THREADS": threads,
        "RAYON_NUM_THREADS": threads,
        "TOKENIZERS_PARALLELISM": "true" if processes == 1 else "false",
    } | ({} if compiled else {"TORCHDYNAMO_DISABLE": "1"})
    always = {
        # A file of the working directory must not stand in for a module or a program.
        "PYTHONSAFEPATH": "1",
        # torchx reads this file while the launcher may still be writing it; what went wrong comes as an event.
        "TORCHELASTIC_ERROR_FILE": "",
        # torchrun kills its processes 30 s after SIGTERM unless told otherwise.
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(int(TRAINING_GRACE_SECONDS) - 5),
    }
    env = {key: value for key, value in chosen.items() if key not in inherited} | always
    roles = [
        dataclasses.replace(
            role,
            env=role.env | env,
            resource=role.resource if role.num_replicas > 1 else dataclasses.replace(role.resource, gpu=0),
        )
        for role in app.roles
    ]
    return dataclasses.replace(app, roles=roles)


def cores_here() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _literal(text: str) -> str:
    """The text as torchx's macro substitution leaves it: a dollar sign is written twice."""
    return text.replace("$", "$$")
