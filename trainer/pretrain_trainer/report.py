"""The stage report: the curves as a picture, and one page with everything that a reader of the model wants to see."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from pretrain_stage.config import Job
from pretrain_stage.errors import UserError
from pretrain_stage.events import Events
from pretrain_stage.manifest import File, Manifest, put_output, read_manifest
from pretrain_stage.storage import Storage, open_storage
from pydantic import JsonValue, TypeAdapter, ValidationError

from pretrain_trainer.checkpoint import committed_steps
from pretrain_trainer.config.sections import TrainerSpec
from pretrain_trainer.history import read_history
from pretrain_trainer.lineage import lineage
from pretrain_trainer.listeners.record import RECORD
from pretrain_trainer.page import Facts, page
from pretrain_trainer.plan import Plan, finished_training, make_plan
from pretrain_trainer.stage import run_once
from pretrain_trainer.tuned import Tuned

REPORT_REVISION = 4
LEDGER_VARIABLE = "PRETRAIN_LEDGER"
"""Environment variable with the seconds of the job until now by state of the goodput ledger, as JSON; set by both engines.

It is no part of the stage's identity: a finished report is not made again because time has passed."""


def report(job: Job[TrainerSpec], job_file: Path, events: Events) -> None:
    """Leaves reports/index.html, reports/curves.png and reports/preprocessing.jsonl.

    Raises UserError if the job's training is not finished.
    """
    storage = open_storage(job.spec.storage)
    plan = make_plan(job, storage, job.spec.training.world_size)
    training = finished_training(storage, plan)
    ledger = read_ledger(os.environ.get(LEDGER_VARIABLE))
    chain = lineage(storage, training)
    for stage in ("evaluate", "export"):
        manifest = read_manifest(storage, stage)
        if manifest is not None and manifest.inputs.get("train") == training.digest:
            chain.append(manifest)
    tuned = [found for task in job.spec.finetune if (found := _add_tuned(chain, storage, task.name)) is not None]
    inputs = {manifest.stage: manifest.digest for manifest in chain}

    def work(scratch: Path) -> tuple[tuple[File, ...], dict[str, JsonValue]]:
        return _report(storage, plan, chain, tuned, ledger, json.loads(job_file.read_bytes()), scratch)

    run_once(storage, events, "report", REPORT_REVISION, None, inputs, work)


def _add_tuned(chain: list[Manifest], storage: Storage, task: str) -> Manifest | None:
    """Adds the manifests that led to the figures of a fine-tuned model; returns the last. None if it has none, or of another export."""
    evaluated = read_manifest(storage, f"evaluate-{task}")
    if evaluated is None:
        return None
    known = {manifest.stage: manifest.digest for manifest in chain}
    if any(known.get(stage, digest) != digest for stage, digest in evaluated.inputs.items()):
        return None
    chain += [manifest for manifest in lineage(storage, evaluated) if manifest.stage not in known]
    return evaluated


def read_ledger(text: str | None) -> dict[str, float] | None:
    """The account that the engine hands over; None if there is none. Raises UserError if it is none."""
    if not text:
        return None
    try:
        return TypeAdapter(dict[str, float]).validate_json(text)
    except ValidationError:
        raise UserError(
            f"{LEDGER_VARIABLE}: {text[:100]!r} is no JSON object of seconds by state; unset it, the operator sets it for its pods"
        ) from None


def _report(
    storage: Storage,
    plan: Plan,
    chain: list[Manifest],
    tuned: list[Manifest],
    ledger: dict[str, float] | None,
    job: JsonValue,
    scratch: Path,
) -> tuple[tuple[File, ...], dict[str, JsonValue]]:
    from pretrain_trainer.curves import draw_curves

    history = read_history(storage.read(RECORD) or b"")
    evaluated = any(manifest.stage == "evaluate" for manifest in chain)
    facts = Facts(
        plan=plan,
        chain=chain,
        history=history,
        evaluation=json.loads(storage.read("reports/evaluation.json") or b"null") if evaluated else None,
        tuned=[_tuned(storage, evaluated) for evaluated in tuned],
        ledger=ledger,
        stored=frozenset(committed_steps(storage)),
        job=job,
        made=datetime.now(UTC),
    )
    draw_curves(history, plan.job.metadata.name, scratch / "curves.png")
    lines = [json.dumps(line, ensure_ascii=False) for manifest in chain for line in count_lines(manifest)]
    (scratch / "preprocessing.jsonl").write_text("".join(f"{line}\n" for line in lines))
    (scratch / "index.html").write_text(page(facts), encoding="utf-8")
    names = ("curves.png", "index.html", "preprocessing.jsonl")
    return tuple(put_output(storage, scratch / name, f"reports/{name}") for name in names), {}


def _tuned(storage: Storage, evaluated: Manifest) -> Tuned:
    """What an evaluation left. A picture of one before it, of another task, may lie beside it."""
    left = {PurePosixPath(file.path).suffix: file.path for file in evaluated.outputs}
    picture = storage.read(left[".png"]) if ".png" in left else None
    return Tuned(json.loads(storage.read(left[".json"]) or b""), picture)


def count_lines(manifest: Manifest) -> list[dict[str, JsonValue]]:
    """What happened to the documents in one stage: a line for those read and kept, and one for each reason to drop some."""
    counts = manifest.counts
    if not counts.read:
        return []
    lines: list[dict[str, JsonValue]] = [{"stage": manifest.stage, "read": counts.read, "kept": counts.kept}]
    for block, reasons in counts.dropped.items():
        lines += [
            {"stage": manifest.stage, "block": block, "reason": reason, "dropped": number}
            for reason, number in reasons.items()
        ]
    return lines
