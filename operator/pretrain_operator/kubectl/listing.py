"""`list`: a table of jobs, once or as they change."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.text import Text

from pretrain_operator.kubectl import objects
from pretrain_operator.kubectl.columns import Table, header, row, sorted_jobs
from pretrain_operator.kubectl.connection import Change, Cluster
from pretrain_operator.kubectl.watched import Watched
from pretrain_operator.local.view import standard_console

REDRAW_SECONDS = 1.0
STYLES = {"Succeeded": "green", "Failed": "bold red", "Suspended": "yellow", "Training": "cyan"}


@dataclass(frozen=True)
class Listing:
    """What is to be listed, and how."""

    namespace: str | None
    """None: of all namespaces."""
    selector: str | None
    form: objects.Format | None
    """None: as a table."""
    wide: bool = False
    headers: bool = True


def list_once(cluster: Cluster, wanted: Listing) -> None:
    """Prints the jobs that there are."""
    found = sorted_jobs(cluster.jobs(wanted.namespace, wanted.selector))
    if wanted.form is not None:
        sys.stdout.write(objects.many(found, wanted.form))
        return
    if not found:
        where = "in any namespace" if wanted.namespace is None else f"in namespace {wanted.namespace}"
        print(f"no PretrainJobs {where}", file=sys.stderr)
        return
    for line in _table(wanted).lines([_row(body, wanted) for body in found], header=wanted.headers):
        print(line)


def list_changes(cluster: Cluster, wanted: Listing) -> None:
    """Prints the jobs, and goes on with every change until it is interrupted: a live table on a terminal, else lines."""
    watched = Watched(lambda: cluster.watch_jobs(wanted.namespace, wanted.selector))
    if wanted.form is None and sys.stdout.isatty():
        _draw_changes(watched, wanted)
    else:
        _print_changes(watched, wanted)


def _draw_changes(watched: Watched, wanted: Listing) -> None:
    console = standard_console()
    jobs: dict[str, Mapping[str, Any]] = {}
    note = "asking the cluster"
    with Live(console=console, auto_refresh=False, transient=False) as live:
        while True:
            change = watched.next(REDRAW_SECONDS)
            if change is not None:
                jobs, note = _taken(jobs, change), change.message
            bodies = sorted_jobs(jobs.values())
            # Made anew each time: a live table may narrow again.
            table = Table(header(namespaces=wanted.namespace is None, wide=wanted.wide), console.width)
            lines = table.lines([_row(body, wanted) for body in bodies], header=wanted.headers)
            shown = [Text(line, no_wrap=True, overflow="ellipsis") for line in lines]
            for body, text in zip(bodies, shown[wanted.headers :], strict=True):
                text.stylize(STYLES.get(str((body.get("status") or {}).get("phase")), ""))
            if wanted.headers:
                shown[0].stylize("dim")
            if not bodies and change is not None and not note:
                note = "no PretrainJobs yet"
            live.update(Group(*shown, *([Text(note, "yellow")] if note else []), Text()), refresh=True)


def _print_changes(watched: Watched, wanted: Listing) -> None:
    table = _table(wanted)
    first = wanted.headers
    known: dict[str, str] = {}
    while True:
        change = watched.next(3600.0)
        if change is None:
            continue
        if change.message:
            print(f"note: {change.message}", file=sys.stderr, flush=True)
        # After an interruption everything is listed again; what has not changed meanwhile is not news.
        news = [body for body in change.objects if known.get(body["metadata"]["uid"]) != body["metadata"]["resourceVersion"]]
        known |= {body["metadata"]["uid"]: body["metadata"]["resourceVersion"] for body in change.objects}
        if wanted.form is not None:
            for body in news:
                if wanted.form == "yaml":
                    print("---")
                sys.stdout.write(objects.one(body, wanted.form))
        elif news:
            for line in table.lines([_row(body, wanted) for body in sorted_jobs(news)], header=first):
                print(line)
            first = False
        sys.stdout.flush()


def _taken(jobs: dict[str, Mapping[str, Any]], change: Change) -> dict[str, Mapping[str, Any]]:
    """The jobs after a change."""
    bodies = {str(body["metadata"]["uid"]): body for body in change.objects}
    match change.kind:
        case "listed":
            return dict(bodies)
        case "changed":
            return jobs | bodies
        case "deleted":
            return {uid: body for uid, body in jobs.items() if uid not in bodies}
        case "lost":
            return jobs


def _table(wanted: Listing) -> Table:
    width = standard_console().width if sys.stdout.isatty() and not wanted.wide else None
    return Table(header(namespaces=wanted.namespace is None, wide=wanted.wide), width)


def _row(body: Mapping[str, Any], wanted: Listing) -> Any:
    return row(body, datetime.now(UTC), namespaces=wanted.namespace is None, wide=wanted.wide)
