"""Preprocessing: what goes in, what comes out, and why the rest was dropped."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.models import units
from pretrain_preprocess.catalogue import BYTES, DOCUMENTS, TASKS
from pretrain_stage.catalogue import STORAGE_ERRORS

from pretrain_operator.catalogue import JOB_PHASE, JOB_STAGE_TASKS
from pretrain_operator.monitoring.dashboards.panels import (
    RED,
    THIS_JOB,
    WINDOW,
    board,
    curves,
    heading,
    number,
    rows,
    variable,
    with_panels,
)
from pretrain_operator.monitoring.query import increase, most, rate, series

UID = "pretrain-preprocessing"
READ, KEPT, DROPPED = 'outcome="read"', 'outcome="kept"', 'outcome="dropped"'
FAILED = 'state="failed"'
BEFORE_TRAINING = 'stage!~"train|report|(evaluate|export|finetune|predict).*"'


def preprocessing() -> Dashboard:
    """The dashboard."""
    read, kept = (f"sum({rate(DOCUMENTS, WINDOW, *THIS_JOB, outcome)})" for outcome in (READ, KEPT))
    return with_panels(
        board(
            UID,
            "Pretraining / Preprocessing",
            "The stages before training of one PretrainJob, while their pods run.",
            variable("namespace", "Namespace", JOB_PHASE),
            variable("name", "Job", JOB_PHASE, 'namespace="$namespace"'),
        ),
        number(1, "Documents per second", "Read, by all pods.", read, units.Short, width=6),
        number(2, "Text per second", "UTF-8 bytes read, by all pods.", f"sum({rate(BYTES, WINDOW, *THIS_JOB, READ)})",
               units.BytesPerSecondSI, width=6),
        number(3, "Kept", "Share of the documents read that went on to the next stage.", f"{kept} / {read}", units.PercentUnit,
               width=6, decimals=1),
        number(4, "Tasks failed", "For good: their stage fails.",
               f"sum(max by (stage) ({series(JOB_STAGE_TASKS, *THIS_JOB, BEFORE_TRAINING, FAILED)}))", units.Short, width=6,
               steps=((None, "green"), (1, RED))),
        heading(10, "Flow"),
        curves(
            11, "Documents per second", "By stage, read and kept.",
            {
                "{{stage}} read": _by_stage(rate(DOCUMENTS, WINDOW, *THIS_JOB, READ)),
                "{{stage}} kept": _by_stage(rate(DOCUMENTS, WINDOW, *THIS_JOB, KEPT)),
            },
            units.CountsPerSecond, width=12,
        ),
        curves(
            12, "Text per second", "UTF-8 bytes by stage, read and kept.",
            {
                "{{stage}} read": _by_stage(rate(BYTES, WINDOW, *THIS_JOB, READ)),
                "{{stage}} kept": _by_stage(rate(BYTES, WINDOW, *THIS_JOB, KEPT)),
            },
            units.BytesPerSecondSI, width=12,
        ),
        curves(
            13, "Dropped, by reason", "Documents per second that a block dropped, by block and reason.",
            {"{{block}}: {{reason}}": f"sum by (block, reason) ({rate(DOCUMENTS, WINDOW, *THIS_JOB, DROPPED)})"},
            units.CountsPerSecond, width=12, height=10, stacked=True,
        ),
        rows(
            14, "Dropped so far", "Documents that the pods that run now have dropped.",
            {"Documents": f"sum by (stage, block, reason) ({series(DOCUMENTS, *THIS_JOB, DROPPED)})"},
            {"Documents": units.Short}, width=12,
        ),
        heading(20, "Tasks"),
        curves(
            21, "Tasks", "Of the stages before training, by state, as the operator sees them.",
            {"{{stage}} {{state}}": f"max by (stage, state) ({series(JOB_STAGE_TASKS, *THIS_JOB, BEFORE_TRAINING)}) > 0"},
            units.Short,
        ),
        curves(
            22, "Tasks ended, as processes told",
            "In the last five minutes, by stage and result; unchanged ones were found done already. A process that ends with its "
            "task is not asked again, unless the task failed.",
            {"{{stage}} {{result}}": f"sum by (stage, result) ({most(TASKS, '5m', *THIS_JOB)})"}, units.Short, bars=True,
        ),
        curves(
            23, "Requests to storage that failed, in five minutes", "By operation; what is tried again counts each time.",
            {"{{operation}}": f"sum by (operation) ({increase(STORAGE_ERRORS, '5m', *THIS_JOB)})"}, units.Short, bars=True,
        ),
    )  # fmt: skip


def _by_stage(expression: str) -> str:
    return f"sum by (stage) ({expression})"
