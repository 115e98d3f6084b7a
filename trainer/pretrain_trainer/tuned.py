"""The section of the page about models that were fine-tuned: what each was made from, and how well it does on its test examples. Pure."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pretrain_trainer.chart import number

PERCENT = 100.0
"""Scores are shares, shown in percent; BLEU is of 100 already."""


@dataclass(frozen=True)
class Tuned:
    """A fine-tuned model. report: what its evaluation left (reports/finetune-<name>.json). picture: its confusion matrix as PNG."""

    report: dict[str, Any]
    picture: bytes | None


def tuned_models(found: Sequence[Tuned], own: str | None) -> list[dict[str, Any]]:
    """Each model with its figures. own: digest of the model that the page is about."""
    return [_model(one, own) for one in found]


def _model(tuned: Tuned, own: str | None) -> dict[str, Any]:
    report, done, base = tuned.report, tuned.report["finetuning"], tuned.report["base"]
    examples = done["examples"]
    chosen = (
        f"best of {done['steps']:,} steps after {done['best_step']:,}" if "best_step" in done else f"{done['steps']:,} steps"
    )
    return {
        "name": report["name"],
        "about": ", ".join(
            (
                report["task"],
                report["method"],
                _origin(base, own),
                f"{number(done['trained_parameters'])} of {number(done['parameters'])} parameters trained",
                f"{examples['train']:,} examples",
                f"{chosen} by {done['metric']}",
            )
        ),
        "examples": f"{report['scores']['examples']:,}",
        "scores": _scores(report["scores"]),
        "picture": base64.b64encode(tuned.picture).decode() if tuned.picture else None,
    }


def _origin(base: dict[str, Any], own: str | None) -> str:
    if base["fromScratch"]:
        return "from scratch"
    return "from this model" if base["digest"] == own else f"from {base['name']}"


def _scores(scores: dict[str, Any]) -> list[dict[str, Any]]:
    """The metrics with an interval, as places on a scale from 0 to 100."""
    rows = []
    for name, within in scores["intervals"].items():
        whole = 1.0 if name == "bleu" else PERCENT
        value, low, high = (whole * one for one in (scores["metrics"][name], within["low"], within["high"]))
        rows.append(
            {
                "name": name,
                "value": f"{value:.1f}" if name == "bleu" else f"{value:.1f} %",
                "interval": f"{low:.1f} to {high:.1f}",
                "at": value,
                "low": low,
                "wide": high - low,
            }
        )
    return rows
