"""What Tab offers: names from the cluster, quickly, and nothing at all if the cluster does not answer."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

SECONDS = 2.0
"""How long Tab may wait for the cluster."""
JOB_FILES = (".yaml", ".yml", ".json")
KUBECTL_NO_FILES, KUBECTL_DEFAULT = ":4", ":0"
"""What kubectl is told to do besides with what is printed: nothing, or to offer files where nothing is."""


def job_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of jobs in the namespace that was chosen on this command line."""
    return _quietly(ctx, incomplete, lambda cluster: cluster.jobs(cluster.namespace, None))


def job_files_and_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Files that may hold a job, and folders on the way to one; then names of jobs."""
    folder, slash, start = incomplete.rpartition("/")
    found = (entry for entry in Path(folder + slash or ".").glob("*") if entry.is_dir() or entry.suffix in JOB_FILES)
    names = sorted(f"{folder}{slash}{entry.name}{'/' if entry.is_dir() else ''}" for entry in found)
    files = [name for name in names if name.startswith(incomplete) and (start or not name.startswith("."))]
    return [*files, *job_names(ctx, incomplete)]


def namespace_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of namespaces."""
    return _quietly(ctx, incomplete, lambda cluster: cluster.namespaces())


def context_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of the kubeconfig's contexts."""
    try:
        from pretrain_operator.kubectl.connection import contexts

        kubeconfig = ctx.params.get("kubeconfig")
        return [name for name in contexts(Path(kubeconfig) if kubeconfig else None) if name.startswith(incomplete)]
    except Exception:
        return []


def kubectl_complete() -> None:
    """The program kubectl_complete-pretrain, by which kubectl (1.26 or later) completes its plugin `pretrain`.

    kubectl gives the words after `kubectl pretrain`, the last of them incomplete, and reads one proposal a line and a directive.
    """
    proposals = _proposals(sys.argv[1:] or [""])
    print("\n".join([*proposals, KUBECTL_NO_FILES if proposals else KUBECTL_DEFAULT]))


def _proposals(words: list[str]) -> list[str]:
    """What the completion of the bash shell would offer after `pretrain`."""
    from pretrain_operator.commands import app

    os.environ |= {
        "_PRETRAIN_COMPLETE": "complete_bash",
        "COMP_WORDS": shlex.join(["pretrain", *words]) if words[-1] else shlex.join(["pretrain", *words[:-1]]) + " ",
        "COMP_CWORD": str(len(words)),
    }
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
        app(prog_name="pretrain")
    return output.getvalue().split()


def _quietly(ctx: typer.Context, incomplete: str, find: Callable[[Any], list[dict[str, Any]]]) -> list[str]:
    try:
        from pretrain_operator.kubectl.connection import Target, connect

        kubeconfig = ctx.params.get("kubeconfig")
        target = Target(Path(kubeconfig) if kubeconfig else None, ctx.params.get("context"), ctx.params.get("namespace"))
        names = (str(body["metadata"]["name"]) for body in find(connect(target, SECONDS)))
        return sorted(name for name in names if name.startswith(incomplete))
    except Exception:
        # Whatever it is, a line in the middle of what is being typed would not help.
        return []
