"""What `pretrain run` and `pretrain check` do and print, and the exit codes they end with."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from pretrain_stage.errors import EXIT_TEMPORARY, EXIT_USER_ERROR, UserError
from pretrain_stage.storage import Storage, open_storage
from rich.console import Console
from rich.status import Status
from rich.text import Text

from pretrain_operator.api import PretrainJob, check_in_cluster
from pretrain_operator.check import Finding, arithmetic, elsewhere, faults, here, parse_size
from pretrain_operator.goodput_bar import legend
from pretrain_operator.local.engine import Outcome
from pretrain_operator.local.plan import cores_here
from pretrain_operator.local.progress import RunState
from pretrain_operator.local.run import Options, make_log_dir, run, run_preflight
from pretrain_operator.local.view import duration, standard_console

MARKS = {True: ("✓", "green"), False: ("✗", "bold red"), None: ("–", "yellow")}


def run_job(job: PretrainJob, options: Options, again: str) -> int:
    """Checks the job, runs it, and says how that ended. `again` is the command that continues it. Returns the exit code."""
    console = standard_console()
    findings = arithmetic(job, here(job, cores_here(), gpu_memory=None))
    if faults(findings):
        for message in faults(findings):
            print(f"error: {message}", file=sys.stderr)
        return EXIT_USER_ERROR
    console.print(Text(in_short(job, findings)), soft_wrap=True)
    log_dir = make_log_dir(job, options.log_dir)
    outcome = run(job, options, log_dir, console)
    if outcome.exit_code == 0:
        for line in summary(job, outcome.state, log_dir):
            console.print(line, soft_wrap=True, markup=False, highlight=False)
    return conclude(outcome, again, log_dir)


def check_job(
    job: PretrainJob, gpu_memory: str | None, *, offline: bool, cluster: bool, as_json: bool, log_dir: Path | None
) -> int:
    """Looks at everything that can be known now, and says all of it. Returns 0, or the exit code of what is wrong."""
    console = standard_console()
    planned = None if gpu_memory is None else parse_size(gpu_memory, "--gpu-memory")
    findings = arithmetic(job, elsewhere(job, planned) if cluster else here(job, cores_here(), planned))
    findings += in_cluster(job) if cluster else []
    if not as_json:
        print_findings(console, findings)
    looked: list[Finding] = []
    code = 0
    if not offline:
        with Status("looking at storage, sources and tokenizer", console=console) if not as_json else nullcontext():
            looked, code = preflight(job, make_log_dir(job, log_dir))
    if not as_json:
        print_findings(console, looked)
    findings += looked
    if as_json:
        print(json.dumps(report(job, findings), indent=2, ensure_ascii=False))
    return EXIT_USER_ERROR if faults(findings) and code in (0, EXIT_USER_ERROR) else code


def preflight(job: PretrainJob, log_dir: Path) -> tuple[list[Finding], int]:
    """What the stage preflight finds: sources, storage, tokenizer. Also its exit code."""
    try:
        outcome = run_preflight(job, log_dir)
    except UserError as error:
        return [Finding("storage", False, str(error))], error.exit_code
    found = [Finding("preflight", None, warned.message) for warned in outcome.state.warnings]
    if outcome.exit_code == 0:
        return [*found, Finding("preflight", True, outcome.state.stage("preflight").note)], 0
    return [*found, Finding("preflight", False, outcome.message, (f"log: {outcome.log}",))], outcome.exit_code


def in_cluster(job: PretrainJob) -> list[Finding]:
    """Whether a cluster would take the job."""
    try:
        check_in_cluster(job)
    except UserError as error:
        return [Finding("cluster", False, str(error))]
    return [Finding("cluster", True, "storage, sources and tokenizer can be reached by pods")]


def report(job: PretrainJob, findings: list[Finding]) -> dict[str, Any]:
    """The findings for programs. Fields are added to this, never taken away."""
    return {
        "job": job.metadata.name,
        "ok": not faults(findings),
        "checks": [finding.json() for finding in findings],
    }


def print_findings(console: Console, findings: Iterable[Finding]) -> None:
    """A line for each finding, its arithmetic below it."""
    for finding in findings:
        mark, style = MARKS[finding.ok]
        line = Text.assemble((mark, style), f" {finding.name:<13} ", (finding.message, style if finding.ok is False else ""))
        console.print(line, soft_wrap=True)
        for detail in finding.details:
            console.print(Text(f"    {detail}", "dim"), soft_wrap=True)


def in_short(job: PretrainJob, findings: list[Finding]) -> str:
    """The findings in one line, and a line for each that may be unwelcome."""
    main = ", ".join(finding.message for finding in findings if finding.ok and finding.name in ("model", "batch", "memory"))
    notes = [f"note: {finding.name}: {finding.message}" for finding in findings if finding.ok is None]
    return "\n".join([f"{job.metadata.name}: {main}", *notes])


def summary(job: PretrainJob, state: RunState, log_dir: Path) -> Iterator[str | Text]:
    """What a person wants to know when all is done: times, losses, the text that the model wrote, where to look."""
    took = [(stage.name, stage.elapsed(state.now) or 0.0) for stage in state.stages if stage.word == "done"]
    yield ""
    upto = "" if state.stages[-1].name == "report" else f" up to {state.stages[-1].name}"
    yield f"{job.metadata.name}: done{upto} after {duration(state.now - state.started)}"
    if took:
        yield "time: " + ", ".join(f"{name} {duration(seconds)}" for name, seconds in took)
    if took and state.goodput:
        yield Text.assemble("goodput: ", legend(state.goodput), f" of {duration(sum(state.goodput.values()))}")
    storage = open_storage(job.spec.storage)
    if state.stages[-1].name == "report":
        yield from written(storage)
        for what, path in (("report", "reports/index.html"), ("curves", "reports/curves.png"), ("model", "export")):
            yield f"{what}: {storage.uri}/{path}"
        yield from (f"model for {task.name}: {storage.uri}/finetune/{task.name}/export" for task in job.spec.finetune)
        yield from (f"answers of {one.name}: {storage.uri}/predict/{one.name}" for one in job.spec.predict)
    else:
        yield f"files: {storage.uri}"
    yield f"logs: {log_dir}"


def written(storage: Storage) -> Iterator[str]:
    """How well the model predicts, and what it wrote; nothing if storage does not answer any more."""
    try:
        evaluation = json.loads(storage.read("reports/evaluation.json") or b"{}")
    except UserError:
        return
    if "loss" in evaluation:
        yield f"held-out loss {evaluation['loss']:.3f}, perplexity {evaluation['perplexity']:.2f}"
    for sample in evaluation.get("samples", []):
        text = f"{sample['prompt']} → {sample['continuation']}"
        yield "text: " + " ".join(text.split())


def conclude(outcome: Outcome, again: str, log_dir: Path) -> int:
    """Says last what a person must know: how to continue, or what went wrong and where to read more. Returns the exit code."""
    if outcome.stopped:
        print(f"{outcome.message}; what is finished is kept. To continue: {again}", file=sys.stderr)
    elif outcome.message:
        advice = f" ({again} tries again)" if outcome.exit_code == EXIT_TEMPORARY else ""
        print(f"error: {outcome.message}{advice}", file=sys.stderr)
        print(f"log: {outcome.log}" if outcome.log else f"logs: {log_dir}", file=sys.stderr)
    return outcome.exit_code
