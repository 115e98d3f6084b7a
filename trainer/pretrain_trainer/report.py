"""The stage report: the curves as a picture, and one page with everything that a reader of the model wants to see."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from pretrain_stage.config import Job
from pretrain_stage.events import Events
from pretrain_stage.manifest import File, Manifest, put_output, read_manifest
from pretrain_stage.storage import Storage, open_storage
from pydantic import JsonValue

from pretrain_trainer.config.sections import TrainerSpec
from pretrain_trainer.lineage import lineage
from pretrain_trainer.listeners.record import RECORD
from pretrain_trainer.plan import Plan, finished_training, make_plan
from pretrain_trainer.stage import run_once

REPORT_REVISION = 2

_TEMPLATES = Environment(loader=PackageLoader("pretrain_trainer", "."), autoescape=True, undefined=StrictUndefined)


def report(job: Job[TrainerSpec], events: Events) -> None:
    """Leaves reports/curves.png, reports/index.html and reports/preprocessing.jsonl."""
    storage = open_storage(job.spec.storage)
    plan = make_plan(job, storage, job.spec.training.world_size)
    training = finished_training(storage, plan)
    chain = lineage(storage, training)
    inputs = {manifest.stage: manifest.digest for manifest in chain}
    for stage in ("evaluate", "export"):
        manifest = read_manifest(storage, stage)
        if manifest is not None and manifest.inputs.get("train") == training.digest:
            inputs[stage] = manifest.digest
            chain.append(manifest)
    run_once(
        storage, events, "report", REPORT_REVISION, None, inputs, lambda scratch: _report(storage, plan, chain, scratch)
    )


def _report(
    storage: Storage, plan: Plan, chain: list[Manifest], scratch: Path
) -> tuple[tuple[File, ...], dict[str, JsonValue]]:
    from pretrain_trainer.curves import draw_curves

    record = [json.loads(line) for line in (storage.read(RECORD) or b"").splitlines()]
    draw_curves(record, plan.job.metadata.name, scratch / "curves.png")
    lines = [json.dumps(line, ensure_ascii=False) for manifest in chain for line in count_lines(manifest)]
    (scratch / "preprocessing.jsonl").write_text("".join(f"{line}\n" for line in lines))
    evaluation = json.loads(storage.read("reports/evaluation.json") or b"null")
    configuration = (storage.read("job.json") or b"").decode()
    text = page(plan, chain, evaluation, configuration, (scratch / "curves.png").read_bytes())
    (scratch / "index.html").write_text(text, encoding="utf-8")
    names = ("curves.png", "index.html", "preprocessing.jsonl")
    return tuple(put_output(storage, scratch / name, f"reports/{name}") for name in names), {}


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


def page(plan: Plan, chain: list[Manifest], evaluation: dict[str, Any] | None, configuration: str, curves: bytes) -> str:
    """The page, with the picture inside it. Whatever a user or a model wrote is escaped."""
    return _TEMPLATES.get_template("report.html.jinja").render(
        name=plan.job.metadata.name,
        numbers=_numbers(plan, chain, evaluation),
        curves=base64.b64encode(curves).decode(),
        samples=evaluation["samples"] if evaluation else [],
        documents=[_documents(manifest) for manifest in chain if manifest.counts.read],
        lineage=[{"name": m.stage, "digest": m.digest, "inputs": sorted(m.inputs.items())} for m in chain],
        configuration=configuration,
    )


def _numbers(plan: Plan, chain: list[Manifest], evaluation: dict[str, Any] | None) -> list[tuple[str, str]]:
    """The figures at the top of the page, each with its label."""
    trained = next(manifest.facts for manifest in chain if manifest.stage == "train")
    numbers = [
        ("parameters", f"{plan.parameters:,}"),
        ("tokens trained on", f"{trained['tokens']:,}"),
        ("steps", f"{trained['steps']:,}"),
        ("training loss, last step", f"{trained['final_loss']:.3f}"),
        ("validation loss", f"{trained['validation_loss']:.3f}"),
    ]
    if evaluation:
        numbers += [
            ("perplexity, all held-out text", f"{evaluation['perplexity']:,.1f}"),
            ("bits per byte", f"{evaluation['bits_per_byte']:.3f}"),
        ]
    return numbers


def _documents(manifest: Manifest) -> dict[str, Any]:
    counts = manifest.counts
    reasons = {f"{block}: {reason}": n for block, by_reason in counts.dropped.items() for reason, n in by_reason.items()}
    return {
        "name": manifest.stage,
        "read": f"{counts.read:,}",
        "kept": f"{counts.kept:,}",
        "dropped": f"{counts.read - counts.kept:,}",
        "reasons": [(reason, f"{n:,}") for reason, n in sorted(reasons.items(), key=lambda item: (-item[1], item[0]))],
    }
