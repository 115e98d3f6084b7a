"""The commands that speak to a cluster, as they are typed. Each loads what it needs when it runs, so that help is quick."""

from __future__ import annotations

import re
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from pretrain_stage.errors import UserError

from pretrain_operator.kubectl.completion import context_names, job_names, namespace_names

if TYPE_CHECKING:
    from pretrain_operator.kubectl.connection import Cluster

EXIT_CODES = (
    "Exit codes: 0 done; 65 the job is wrong, was refused (HTTP 400, 413, 422), or failed while it was waited for; 75 the cluster or "
    "the storage does not answer (no connection, HTTP 408, 410, 429, 5xx), try again; 1 any other answer of the cluster (HTTP 401, "
    "403, 404, 409) or a fault of this program; 124 --timeout ran out; 2 wrong usage; 130 stopped by Ctrl-C."
)
PANEL = "On a cluster"

cluster_commands = typer.Typer()


class ListOutput(StrEnum):
    """How `list` prints."""

    wide = "wide"
    json = "json"
    yaml = "yaml"
    name = "name"


class ObjectOutput(StrEnum):
    """How one object is printed."""

    json = "json"
    yaml = "yaml"
    name = "name"


class StoredOutput(StrEnum):
    """How `checkpoints` and `trace` print."""

    table = "table"
    json = "json"


class WaitFor(StrEnum):
    """What `status` can wait for."""

    succeeded = "succeeded"
    finished = "finished"


Name = Annotated[str, typer.Argument(metavar="NAME", help="The job.", autocompletion=job_names, show_default=False)]
Names = Annotated[
    list[str], typer.Argument(metavar="NAME..", help="The jobs.", autocompletion=job_names, show_default=False)
]
Namespace = Annotated[
    str | None,
    typer.Option(
        "--namespace", "-n", help="Namespace. Omit for the context's.", autocompletion=namespace_names, show_default=False
    ),
]
Context = Annotated[
    str | None,
    typer.Option(
        help="Context of the kubeconfig. Omit for the current one.", autocompletion=context_names, show_default=False
    ),
]
Kubeconfig = Annotated[
    Path | None, typer.Option(help="Kubeconfig file. Omit for $KUBECONFIG or ~/.kube/config.", show_default=False)
]
OneObject = Annotated[
    ObjectOutput | None, typer.Option("--output", "-o", help="Print the object instead.", show_default=False)
]
Endpoint = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Address of the storage as seen from here, in the place of spec.storage.endpointURL.",
        show_default=False,
    ),
]
Timeout = Annotated[
    str | None,
    typer.Option(
        metavar="TIME", help="Give up waiting after, such as 90s, 30m or 2h. Omit to wait for ever.", show_default=False
    ),
]


@cluster_commands.command(epilog=EXIT_CODES, rich_help_panel=PANEL)
def submit(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE..", help="Files of PretrainJobs; - for standard input.", show_default=False)
    ],
    namespace: Namespace = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Have the cluster check everything, and change nothing.")
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Then show the job until it has finished.")] = False,
    force_conflicts: Annotated[
        bool, typer.Option("--force-conflicts", help="Take over fields that another program has set otherwise.")
    ] = False,
    output: OneObject = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Give jobs to the cluster: new ones are created, known ones changed. What it refuses is said field by field.

    Examples:
      pretrain submit job.yaml --dry-run
      pretrain submit job.yaml -n research -w
    """
    from pretrain_operator.kubectl import submit as submitting
    from pretrain_operator.kubectl import watching

    if watch and (len(files) != 1 or dry_run):
        raise typer.BadParameter("shows one job: give one file, without --dry-run", param_hint="--watch")
    cluster = _cluster(kubeconfig, context, namespace)
    done = submitting.submit(cluster, files, namespace, _form(output), dry_run=dry_run, force=force_conflicts)
    if watch and len(done) != 1:
        raise UserError(
            f"--watch: {files[0]} holds {len(done)} jobs, which are submitted now; watch them with `pretrain list -w`"
        )
    if watch:
        raise typer.Exit(watching.watch(cluster, done[0].name, done[0].namespace, None, watching.Waiting()))


@cluster_commands.command("list", epilog=EXIT_CODES, rich_help_panel=PANEL)
def list_(
    namespace: Namespace = None,
    all_namespaces: Annotated[bool, typer.Option("--all-namespaces", "-A", help="Jobs of all namespaces.")] = False,
    selector: Annotated[
        str | None,
        typer.Option("--selector", "-l", help="Only jobs with these labels, such as team=nlp.", show_default=False),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on with every change.")] = False,
    output: Annotated[
        ListOutput | None, typer.Option("--output", "-o", help="More columns, or the objects.", show_default=False)
    ] = None,
    no_headers: Annotated[bool, typer.Option("--no-headers", help="Leave the names of the columns out.")] = False,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """List jobs, with the columns of `kubectl get pretrainjobs`.

    A terminal that is too narrow for all of them shows no PHASE, then no TOKENS/S, then no LOSS; -o wide shows everything.

    Examples:
      pretrain list -A
      pretrain list -w
      pretrain list -l team=nlp -o json
    """
    from pretrain_operator.kubectl.listing import Listing, list_changes, list_once

    cluster = _cluster(kubeconfig, context, namespace)
    form = None if output is None or output is ListOutput.wide else ObjectOutput(output.value)
    wanted = Listing(
        None if all_namespaces else cluster.namespace,
        selector,
        _form(form),
        wide=output is ListOutput.wide,
        headers=not no_headers,
    )
    (list_changes if watch else list_once)(cluster, wanted)


@cluster_commands.command(epilog=EXIT_CODES, rich_help_panel=PANEL)
def status(
    name: Name,
    namespace: Namespace = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show it live, until it has finished.")] = False,
    wait_for: Annotated[
        WaitFor | None,
        typer.Option(
            help="Wait, saying nothing unless -w is given too: until the job has succeeded, or until it has finished either way.",
            show_default=False,
        ),
    ] = None,
    timeout: Timeout = None,
    output: OneObject = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Show one job: its stages, training, restarts and what needs attention.

    With -w or --wait-for it ends when the job does: with 0 if the job succeeded, with 65 if it failed. --wait-for=finished ends
    with 0 in both cases.

    Examples:
      pretrain status demo -w
      pretrain status demo --wait-for=succeeded --timeout 2h && ./deploy
    """
    from pretrain_operator.kubectl.connection import checked_name
    from pretrain_operator.kubectl.watching import Goal, Waiting, show_once
    from pretrain_operator.kubectl.watching import watch as watch_job

    checked_name(name, "NAME")
    seconds = None if timeout is None else parse_time("--timeout", timeout)
    if timeout is not None and not (watch or wait_for):
        raise typer.BadParameter("needs --watch or --wait-for", param_hint="--timeout")
    cluster = _cluster(kubeconfig, context, namespace)
    if not (watch or wait_for):
        show_once(cluster, name, cluster.namespace, _form(output))
        return
    waiting = Waiting(Goal(wait_for.value) if wait_for else None, seconds, show=watch)
    raise typer.Exit(watch_job(cluster, name, cluster.namespace, _form(output), waiting))


@cluster_commands.command(epilog=EXIT_CODES, rich_help_panel=PANEL)
def logs(
    name: Name,
    namespace: Namespace = None,
    follow: Annotated[
        bool,
        typer.Option("--follow", "-f", help="Go on with what is printed, by later pods too, until the job has finished."),
    ] = False,
    stage: Annotated[
        str | None,
        typer.Option(
            help="Only pods of this stage.", autocompletion=lambda incomplete: _stages(incomplete), show_default=False
        ),
    ] = None,
    index: Annotated[
        list[int] | None,
        typer.Option(
            "--index", "--rank", min=0, help="Only this task, or node of training. Repeat for several.", show_default=False
        ),
    ] = None,
    tail: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Only the last lines of each pod. Omit for all; with -f, for 20 of pods that run already.",
            show_default=False,
        ),
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only lines newer than, such as 5m.", show_default=False)
    ] = None,
    previous: Annotated[
        bool, typer.Option("--previous", "-p", help="Pods of earlier attempts, as far as they still exist.")
    ] = False,
    raw: Annotated[bool, typer.Option("--raw", help="Lines as the programs print them: JSON events, no prefix.")] = False,
    timestamps: Annotated[bool, typer.Option("--timestamps", help="Begin lines with the node's time.")] = False,
    max_log_requests: Annotated[int, typer.Option(min=1, max=500, help="Logs that are read at the same time.")] = 50,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Print what the job's pods say: all stages, tasks and ranks, each line with the stage and index it comes from.

    Without -f the lines are in the order of time, stage after stage.

    Examples:
      pretrain logs demo -f
      pretrain logs demo --stage train --rank 0 --tail 20
      pretrain logs demo --raw | jq 'select(.event == "step") | .loss'
    """
    import os

    from pretrain_operator.kubectl.connection import checked_name
    from pretrain_operator.kubectl.lines import Style
    from pretrain_operator.kubectl.logs import Wanted, follow_logs, print_logs
    from pretrain_operator.kubectl.pods import Choice

    checked_name(name, "NAME")
    if stage is not None and stage not in _stages(""):
        raise UserError(f"--stage: {stage!r} is no stage; the stages are {', '.join(_stages(''))}")
    if follow and previous:
        raise typer.BadParameter("earlier attempts say nothing more: leave out --follow", param_hint="--previous")
    terminal = sys.stdout.isatty()
    style = Style(raw=raw, colour=terminal and "NO_COLOR" not in os.environ, timestamps=timestamps, terminal=terminal)
    cluster = _cluster(kubeconfig, context, namespace)
    wanted = Wanted(
        name,
        cluster.namespace,
        Choice(stage, tuple(index or ()), previous),
        style,
        tail,
        None if since is None else max(1, int(parse_time("--since", since))),
        max_log_requests,
    )
    (follow_logs if follow else print_logs)(cluster, wanted)


@cluster_commands.command(epilog=EXIT_CODES, rich_help_panel=PANEL)
def suspend(names: Names, namespace: Namespace = None, context: Context = None, kubeconfig: Kubeconfig = None) -> None:
    """Halt jobs: their pods end, finished stages and checkpoints stay.

    Examples:
      pretrain suspend demo
    """
    _switch(names, _cluster(kubeconfig, context, namespace), suspend=True)


@cluster_commands.command(epilog=EXIT_CODES, rich_help_panel=PANEL)
def resume(names: Names, namespace: Namespace = None, context: Context = None, kubeconfig: Kubeconfig = None) -> None:
    """Let suspended jobs go on: with the stage they were in, and training from its newest checkpoint.

    Examples:
      pretrain resume demo
    """
    _switch(names, _cluster(kubeconfig, context, namespace), suspend=False)


def parse_time(option: str, text: str) -> float:
    """Seconds in "90s", "30m", "2h" or "1h30m"; a bare number counts seconds. Raises UserError that names the option."""
    found = re.fullmatch(r"(?:(\d{1,6})d)?(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,9})s?)?", text)
    if not text or found is None:
        raise UserError(f"{option}: {text!r} is no time; write it like 90s, 30m or 1h30m")
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


def _switch(names: list[str], cluster: Cluster, *, suspend: bool) -> None:
    from pretrain_operator.kubectl.connection import checked_name
    from pretrain_operator.kubectl.switch import switch

    switch(cluster, [checked_name(name, "NAME") for name in names], cluster.namespace, suspend=suspend)


def _cluster(kubeconfig: Path | None, context: str | None, namespace: str | None) -> Cluster:
    from pretrain_operator.kubectl.connection import Target, connect

    return connect(Target(kubeconfig, context, namespace))


def _form(output: ObjectOutput | None) -> Literal["json", "yaml", "name"] | None:
    return None if output is None else output.value


def _stages(incomplete: str) -> list[str]:
    from pretrain_operator.commands import STAGE_NAMES

    return [name for name in STAGE_NAMES if name.startswith(incomplete)]
