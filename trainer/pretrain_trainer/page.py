"""The page at the end of a run: what the template is given, section by section. Pure.

Everything is worked out here and laid out there (report.html.jinja); whatever a user or a model wrote is escaped there.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from pretrain_stage.ledger import MEANINGS, STATES
from pretrain_stage.manifest import Manifest
from pydantic import JsonValue

from pretrain_trainer.chart import HEIGHT, WIDTH, Series, chart, marks, number, step_scale
from pretrain_trainer.graph import ROW, graph
from pretrain_trainer.history import Attempt, History, account
from pretrain_trainer.plan import Plan
from pretrain_trainer.tuned import Tuned, tuned_models

_TEMPLATES = Environment(
    loader=PackageLoader("pretrain_trainer", "."),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_SCRIPT = Path(__file__).with_name("report.js")
IN_ALL = "in all"
"""The row of all sources together; a source has no space in its name."""
FEW, SOME = 12, 15
"""Of a table with more than SOME rows FEW are shown at once; the others can be opened."""


@dataclass(frozen=True)
class Facts:
    """What a page tells of."""

    plan: Plan
    chain: Sequence[Manifest]
    """Manifests of all stages that led to the models and of those that read them, each after what it was made from."""
    history: History
    evaluation: dict[str, Any] | None
    tuned: Sequence[Tuned]
    """Models that were fine-tuned, in the order of spec.finetune."""
    ledger: dict[str, float] | None
    """Seconds of the whole job by state; None where nobody keeps one."""
    stored: frozenset[int]
    """Steps of the checkpoints that are in storage."""
    job: JsonValue
    """The resolved job file."""
    made: datetime

    @property
    def trained(self) -> dict[str, Any]:
        return next(manifest.facts for manifest in self.chain if manifest.stage == "train")


def page(facts: Facts) -> str:
    """The page as HTML: one file that loads nothing."""
    script = _SCRIPT.read_text(encoding="utf-8")
    return _TEMPLATES.get_template("report.html.jinja").render(
        name=facts.plan.job.metadata.name,
        namespace=facts.plan.job.metadata.namespace,
        made=f"{facts.made:%Y-%m-%d %H:%M} UTC",
        numbers=numbers(facts),
        width=WIDTH,
        height=HEIGHT,
        row=ROW,
        first_of=lambda rows: FEW if len(rows) > SOME else len(rows),
        curves=curves(facts.history),
        goodput=goodput(facts.ledger, facts.history.attempts),
        stages=stages(facts.chain),
        sources=sources(facts.chain),
        checkpoints=checkpoints(facts.history, facts.stored),
        evaluation=evaluation(facts.evaluation),
        by_source=by_source(facts.evaluation),
        tuned=tuned_models(facts.tuned, next((m.digest for m in facts.chain if m.stage == "export"), None)),
        samples=facts.evaluation["samples"] if facts.evaluation else [],
        lineage=lineage(facts.chain),
        configuration=yaml.safe_dump(facts.job, sort_keys=False, allow_unicode=True, width=100),
        script=script,
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def numbers(facts: Facts) -> list[tuple[str, str, str]]:
    """The figures at the top: label, value, and a few words to it."""
    plan, trained, attempts = facts.plan, facts.trained, facts.history.attempts
    shape, steps = plan.shape, int(trained["steps"])
    found = [
        (
            "parameters",
            number(plan.parameters),
            f"{plan.job.spec.model.family}, {shape.layers} layers × {shape.hidden_size}, vocabulary {plan.vocab_size:,}",
        ),
        ("tokens", number(trained["tokens"]), f"{steps:,} steps × {plan.batch.tokens:,}; {plan.epochs:.2f} passes"),
    ]
    if attempts:
        starts = "in one start" if len(attempts) == 1 else f"in {len(attempts)} starts"
        found.append(("training time", duration(attempts[-1].ended - attempts[0].began), starts))
    seconds = sum(facts.history.column("seconds"))
    if seconds:
        rate = sum(facts.history.column("tokens")) / seconds
        found.append(("tokens/s", number(rate), f"mean of all steps, {plan.batch.world_size} processes"))
    if attempts:
        spent = account(attempts)
        share = spent.get("productive", 0.0) / (sum(spent.values()) or 1.0)
        found.append(("goodput", f"{share:.0%}", "of training's time was productive"))
    found += [
        ("training loss", f"{trained['final_loss']:.3f}", "nats per token, last step"),
        ("validation loss", f"{trained['validation_loss']:.3f}", validation_remark(trained)),
    ]
    if facts.evaluation:
        held_out = f"{facts.evaluation['tokens']:,} held-out tokens"
        found.append(
            ("bits per byte", f"{facts.evaluation['bits_per_byte']:.3f}", f"on {held_out}")
            if facts.evaluation["bits_per_byte"] is not None
            else ("accuracy", f"{facts.evaluation['heads']['tokens']['accuracy']:.1%}", f"on {held_out} asked for")
        )
    return found


def validation_remark(trained: Mapping[str, Any]) -> str:
    """What the last validation measured besides the loss."""
    if "perplexity" in trained:
        return f"perplexity {trained['perplexity']:,.1f}"
    return f"{trained['accuracy']:.1%} of the tokens asked for were found"


def curves(history: History) -> dict[str, Any]:
    """The plots, and the strokes that all of them have: where training was started again, and its checkpoints."""
    steps = history.column("step")
    across = step_scale(steps)

    def measure(name: str, label: str = "") -> Series:
        return Series(label or name, list(zip(steps, history.column(name), strict=True)))

    validation = Series("validation", [(line["step"], line["loss"]) for line in history.validations], dotted=True)
    charts = [
        chart("loss, nats per token", across, [measure("loss", "training"), validation], from_zero=False),
        chart("learning rate", across, [measure("learning_rate")]),
        chart("gradient norm, before clipping", across, [measure("grad_norm")]),
        chart("tokens per second", across, [measure("tokens_per_second")]),
        chart(
            "seconds of a step",
            across,
            [measure("seconds", "whole step"), measure("data_wait_seconds", "of it, waiting for data")],
        ),
    ]
    restarts = [attempt.step for attempt in history.attempts[1:]]
    return {
        "charts": charts if steps else [],
        "restarts": marks(restarts, across, "V0"),
        "restarted": len(restarts),
        "checkpoints": marks([*restarts, *(line["step"] for line in history.checkpoints)], across, "v-9"),
    }


def goodput(ledger: Mapping[str, float] | None, attempts: Sequence[Attempt]) -> dict[str, Any]:
    """The bar of the whole job, or where nobody kept an account of that, of training alone; and the starts of training."""
    return {
        "whole": ledger is not None,
        "seconds": duration(sum((ledger or {}).values())),
        "states": states(ledger if ledger is not None else account(attempts)),
        "attempts": [
            {
                "number": index + 1,
                "began": clock(attempt.began),
                "step": f"{attempt.step + 1:,}",
                "lasted": duration(attempt.lasted),
                "states": states(attempt.seconds),
            }
            for index, attempt in enumerate(attempts)
        ],
    }


def states(seconds: Mapping[str, float]) -> list[dict[str, Any]]:
    """The states of an account that took any time, in the order of the ledger."""
    whole = sum(seconds.values()) or 1.0
    known: dict[str, str] = {state: MEANINGS[state] for state in STATES}
    return [
        {
            "name": state.replace("_", " "),
            "key": state if state in known else "other",
            "meaning": known.get(state, ""),
            "seconds": duration(seconds[state]),
            "percent": round(100 * seconds[state] / whole, 2),
            "share": f"{seconds[state] / whole:.1%}",
        }
        for state in [*known, *sorted(seconds.keys() - known.keys())]
        if seconds.get(state, 0.0) > 0
    ]


def stages(chain: Sequence[Manifest]) -> dict[str, Any]:
    """What happened to the documents, stage by stage."""
    counted = [manifest for manifest in chain if manifest.counts.read]
    most = max((manifest.counts.read for manifest in counted), default=1)
    rows = []
    for manifest in counted:
        counts = manifest.counts
        reasons = sorted(
            ((block, reason, dropped) for block, by in counts.dropped.items() for reason, dropped in by.items()),
            key=lambda item: (-item[2], item[:2]),
        )
        rows.append(
            {
                "name": manifest.stage,
                "read": f"{counts.read:,}",
                "kept": f"{counts.kept:,}",
                "dropped": f"{counts.read - counts.kept:,}",
                "kept_percent": round(100 * counts.kept / most, 2),
                "dropped_percent": round(100 * (counts.read - counts.kept) / most, 2),
                "bytes": [size(counts.read_bytes), size(counts.kept_bytes)] if counts.read_bytes else None,
                "reasons": [
                    {
                        "block": block,
                        "reason": reason,
                        "dropped": f"{dropped:,}",
                        "percent": round(100 * dropped / reasons[0][2], 2),
                        "share": f"{dropped / counts.read:.2%}",
                    }
                    for block, reason, dropped in reasons
                ],
            }
        )
    return {"rows": rows, "bytes": any(row["bytes"] for row in rows)}


def sources(chain: Sequence[Manifest]) -> list[dict[str, Any]]:
    """What the corpus is made of in the end, by source."""
    found: dict[str, tuple[int, int]] = {}
    for manifest in chain:
        documents, text_bytes = manifest.facts.get("documents_by_source"), manifest.facts.get("text_bytes_by_source")
        if isinstance(documents, dict) and isinstance(text_bytes, dict):
            found = {name: (int(str(number)), int(str(text_bytes.get(name, 0)))) for name, number in documents.items()}
    whole = sum(text_bytes for _, text_bytes in found.values()) or 1
    return [
        {
            "name": name,
            "documents": f"{documents:,}",
            "bytes": size(text_bytes),
            "share": f"{text_bytes / whole:.1%}",
            "percent": round(100 * text_bytes / whole, 2),
        }
        for name, (documents, text_bytes) in sorted(found.items(), key=lambda item: (-item[1][1], item[0]))
    ]


def checkpoints(history: History, stored: frozenset[int]) -> list[dict[str, Any]]:
    """All checkpoints that training made on its way here, the newest first.

    Of one that was the last of its start the record tells only that the next went on from there.
    """
    told = {line["step"]: line for line in history.checkpoints}
    steps = sorted({*told, *(attempt.step for attempt in history.attempts if attempt.step)}, reverse=True)
    ended = {line["step"]: line.get("time") for line in history.steps}
    validations = {line["step"]: line["loss"] for line in history.validations}
    rows = []
    for step in steps:
        near = min(validations, key=lambda other: (abs(other - step), other), default=None)
        rows.append(
            {
                "step": f"{step:,}",
                "time": clock(ended.get(step)),
                "size": size(told[step]["bytes"]) if step in told else "not recorded",
                "seconds": f"{told[step]['seconds']:.2f} s" if step in told else "",
                "loss": "" if near is None else f"{validations[near]:.3f}",
                "at": "" if near in (None, step) else f"at step {near:,}",
                "stored": step in stored,
            }
        )
    return rows


def evaluation(found: dict[str, Any] | None) -> list[tuple[str, str]]:
    """The figures of the stage evaluate; nothing if it has not run."""
    if found is None:
        return []
    bits = [] if found["bits_per_byte"] is None else [("bits per byte", f"{found['bits_per_byte']:.4f}")]
    return [
        ("loss, nats per token", f"{found['loss']:.4f}"),
        ("perplexity", f"{found['perplexity']:,.2f}"),
        *bits,
        *((f"accuracy, {name.replace('_', ' ')}", f"{head['accuracy']:.2%}") for name, head in found["heads"].items()),
        ("held-out text", f"{found['tokens']:,} tokens, {size(found['bytes'])}"),
        ("of", found["checkpoint"]),
    ]


def by_source(found: dict[str, Any] | None) -> dict[str, Any]:
    """The held-out text of each source, and where training went on from a model, that model's figures beside: what was
    forgotten stands out as a loss that grew.
    """
    if found is None:
        return {"head": [], "rows": [], "before": None}
    before = found["before"]
    head = ["source", "tokens", "loss", "perplexity"]
    if before is not None:
        head = ["source", "tokens", "loss before", "after", "change", "perplexity before", "after"]
    elif found["bits_per_byte"] is not None:
        head.append("bits per byte")
    rows = []
    for name, after in [*found["sources"].items(), (IN_ALL, found)]:
        cells = [name, f"{after['tokens']:,}"]
        if before is not None:
            then = before if name == IN_ALL else before["sources"][name]
            cells += [f"{then['loss']:.4f}", f"{after['loss']:.4f}", f"{after['loss'] - then['loss']:+.4f}"]
            cells += [f"{then['perplexity']:,.2f}", f"{after['perplexity']:,.2f}"]
        else:
            cells += [f"{after['loss']:.4f}", f"{after['perplexity']:,.2f}"]
            cells += [] if after["bits_per_byte"] is None else [f"{after['bits_per_byte']:.4f}"]
        rows.append(cells)
    return {"head": head, "rows": rows, "before": None if before is None else before["uri"]}


def lineage(chain: Sequence[Manifest]) -> dict[str, Any]:
    """The manifests as rows of a graph, below what came from outside: the sources, a tokenizer that was given."""
    known = {manifest.stage for manifest in chain}
    outside = {name: digest for manifest in chain for name, digest in manifest.inputs.items() if name not in known}
    drawn = graph([*outside, *(m.stage for m in chain)], {manifest.stage: sorted(manifest.inputs) for manifest in chain})
    rows = [{"name": name, "digest": digest, "about": "from outside"} for name, digest in outside.items()]
    rows += [
        {
            "name": manifest.stage,
            "digest": manifest.digest,
            "about": f"{manifest.tasks} {'task' if manifest.tasks == 1 else 'tasks'}, {duration(manifest.seconds)} of work, "
            f"{size(sum(file.size for file in manifest.outputs))}",
        }
        for manifest in chain
    ]
    return {"graph": drawn, "rows": rows}


def duration(seconds: float) -> str:
    """Seconds for people: 0.3 s, 48 s, 5:03 min, 2:05:00 h, 3 d 02:05 h."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"
    whole = round(seconds)
    days, hours, minutes = whole // 86_400, whole // 3_600 % 24, whole // 60 % 60
    if days:
        return f"{days} d {hours:02}:{minutes:02} h"
    return f"{hours}:{minutes:02}:{whole % 60:02} h" if hours else f"{minutes}:{whole % 60:02} min"


def size(number_of_bytes: float) -> str:
    """Bytes for people, in powers of 1000."""
    if number_of_bytes < 999.5:
        return f"{number_of_bytes:.0f} B"
    return re.sub(r"([kMGT])$", lambda found: f" {found[1]}B", number(number_of_bytes))


def clock(unix: float | None) -> str:
    """A Unix time, in UTC; nothing for none."""
    return f"{datetime.fromtimestamp(unix, UTC):%Y-%m-%d %H:%M:%S}" if unix else ""
