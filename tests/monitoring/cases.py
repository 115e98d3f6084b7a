"""For each alert what Prometheus would have read when it must fire, and when it must not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pretrain_operator.catalogue import (
    JOB_BUDGET,
    JOB_CONDITION,
    JOB_COST,
    JOB_GOODPUT,
    JOB_RESTARTS,
    JOB_SECONDS,
    JOB_STAGE_TASKS,
    LEADING,
    RECONCILES,
    WATCH_TIMESTAMP,
)
from pretrain_preprocess.catalogue import TASKS
from pretrain_stage.catalogue import STORAGE_ERRORS
from pretrain_stage.metric import JOB_LABELS, Metric
from pretrain_trainer.catalogue import (
    CHECKPOINT_FAILURES,
    CHECKPOINT_INTERVAL,
    CHECKPOINT_TIMESTAMP,
    CHECKPOINTS_VERIFIED,
    LOSS,
    LOSS_SPIKES,
    NONFINITE_STEPS,
    SECONDS,
    STEP,
)

JOB = {"namespace": "team", "name": "llm"}


@dataclass(frozen=True)
class Case:
    """One alert. Values are in promtool's notation, one a minute: 0+60x90 is 91 values, each 60 more than the last."""

    alert: str
    fires: Mapping[str, str]
    quiet: Sequence[Mapping[str, str]]
    """What must not set it off, however near it comes."""
    labels: Mapping[str, str]
    """Of the alert, besides severity."""
    minutes: int = 90
    """When it is looked at."""


def of(metric: Metric, values: str, **labels: str) -> dict[str, str]:
    """One series of a metric, with exactly its labels."""
    given = {**(JOB if metric.labels[:2] == JOB_LABELS else {}), **labels}
    assert tuple(given) == metric.labels, f"{metric.name}: {given}"
    return {f"{metric.name}{{{', '.join(f'{name}={value!r}' for name, value in given.items())}}}".replace("'", '"'): values}


CASES = (
    Case(
        "PretrainTrainingStalled",
        of(SECONDS, "0x80 0+60x10", state="stalled"),
        [
            of(SECONDS, "0x80 0+20x10", state="stalled"),
            of(SECONDS, "0x88 0+60x2", state="stalled"),
            of(SECONDS, "0+60x90", state="productive"),
        ],
        JOB,
    ),
    Case(
        "PretrainTrainingStalled",
        of(JOB_SECONDS, "0x80 0+60x10", state="stalled"),
        [of(JOB_SECONDS, "0+60x90", state="queued")],
        JOB,
    ),
    Case(
        "PretrainTrainingNonFinite",
        of(NONFINITE_STEPS, "_x87 1 _x3"),
        [of(NONFINITE_STEPS, "0x90"), of(NONFINITE_STEPS, "0x20 1 _x70")],
        JOB,
    ),
    Case(
        "PretrainLossSpike",
        of(LOSS, "3x80 5x10"),
        [of(LOSS, "10-0.1x80 2x10"), of(LOSS, "3x80 3.5x10"), of(LOSS, "3x87 9 3x3")],
        JOB,
    ),
    Case(
        "PretrainLossSpike",
        of(LOSS_SPIKES, "0x86 1x3"),
        [of(LOSS_SPIKES, "0x90"), of(LOSS_SPIKES, "0x20 1x70")],
        JOB,
    ),
    Case(
        "PretrainCheckpointStale",
        of(CHECKPOINT_TIMESTAMP, "1200x90") | of(CHECKPOINT_INTERVAL, "600x90"),
        [
            of(CHECKPOINT_TIMESTAMP, "4200x90") | of(CHECKPOINT_INTERVAL, "600x90"),
            of(CHECKPOINT_TIMESTAMP, "1200x90") | of(CHECKPOINT_INTERVAL, "0x90"),
            of(CHECKPOINT_TIMESTAMP, "5100x90") | of(CHECKPOINT_INTERVAL, "1x90"),
        ],
        JOB,
    ),
    Case(
        "PretrainCheckpointFailing",
        of(CHECKPOINT_FAILURES, "0x60 1 _x5 0x25"),
        [of(CHECKPOINT_FAILURES, "0x90"), of(CHECKPOINT_FAILURES, "0x10 1 _x5 0x75")],
        JOB,
    ),
    Case(
        "PretrainCheckpointCorrupt",
        of(CHECKPOINTS_VERIFIED, "1x90", result="corrupt"),
        [of(CHECKPOINTS_VERIFIED, "1x90", result="ok"), of(CHECKPOINTS_VERIFIED, "0x90", result="corrupt")],
        JOB,
    ),
    Case(
        "PretrainStorageErrors",
        of(STORAGE_ERRORS, "0x60 0+1x30", operation="write"),
        [of(STORAGE_ERRORS, "0x60 5x30", operation="write"), of(STORAGE_ERRORS, "500x90", operation="read")],
        {**JOB, "operation": "write"},
    ),
    Case(
        "PretrainJobFailed",
        of(JOB_CONDITION, "0x80 1x10", type="Failed", reason="UserError"),
        [
            of(JOB_CONDITION, "0x90", type="Failed", reason="NotFinished"),
            of(JOB_CONDITION, "1x90", type="Succeeded", reason="Succeeded"),
        ],
        {**JOB, "reason": "UserError"},
    ),
    Case(
        "PretrainRestartLoop",
        of(JOB_RESTARTS, "0x60 1x5 2x5 3x5 4x15", reason="Infrastructure"),
        [
            of(JOB_RESTARTS, "0x60 1x5 2x5 3x20", reason="Infrastructure"),
            of(JOB_RESTARTS, "0x60 1x5 2x5 3x5 4x15", reason="Disruption"),
        ],
        JOB,
    ),
    Case(
        "PretrainGoodputLow",
        of(JOB_SECONDS, "0+20x90", state="productive")
        | of(JOB_SECONDS, "0+40x90", state="repeated")
        | of(JOB_GOODPUT, "0.3x90"),
        [
            of(JOB_SECONDS, "0+40x90", state="productive")
            | of(JOB_SECONDS, "0+20x90", state="repeated")
            | of(JOB_GOODPUT, "0.6x90"),
            of(JOB_SECONDS, "0+60x90", state="starting") | of(JOB_SECONDS, "0x90", state="productive"),
            of(JOB_SECONDS, "0+20x90", state="productive")
            | of(JOB_SECONDS, "0+40x90", state="queued")
            | of(JOB_GOODPUT, "0.3x90"),
            of(JOB_SECONDS, "100x90", state="productive")
            | of(JOB_SECONDS, "900x90", state="repeated")
            | of(JOB_GOODPUT, "0.1x90"),
        ],
        JOB,
    ),
    Case(
        "PretrainPreprocessingFailing",
        of(TASKS, "_x87 1 _x3", stage="clean", result="failed"),
        [of(TASKS, "0+1x90", stage="clean", result="done"), of(TASKS, "_x60 1x5 _x25", stage="clean", result="failed")],
        {**JOB, "stage": "clean"},
    ),
    Case(
        "PretrainPreprocessingFailing",
        of(JOB_STAGE_TASKS, "0x80 2x10", stage="clean", state="failed"),
        [
            of(JOB_STAGE_TASKS, "1x90", stage="train", state="failed"),
            of(JOB_STAGE_TASKS, "1x90", stage="clean", state="active"),
        ],
        {**JOB, "stage": "clean"},
    ),
    Case(
        "PretrainTrainingUnseen",
        of(JOB_STAGE_TASKS, "1x90", stage="train", state="active"),
        [
            of(JOB_STAGE_TASKS, "1x90", stage="train", state="active") | of(STEP, "0+1x90"),
            of(JOB_STAGE_TASKS, "0x90", stage="train", state="active"),
            of(JOB_STAGE_TASKS, "1x90", stage="clean", state="active"),
        ],
        JOB,
    ),
    Case(
        "PretrainBudgetNearlySpent",
        of(JOB_COST, "95x90") | of(JOB_BUDGET, "100x90"),
        [of(JOB_COST, "80x90") | of(JOB_BUDGET, "100x90"), of(JOB_COST, "95x90")],
        JOB,
    ),
    Case("PretrainOperatorDown", of(LEADING, "1x70 _x20"), [of(LEADING, "1x90"), of(LEADING, "1x86 0x4")], {}),
    Case("PretrainOperatorDown", of(LEADING, "0x90"), [], {}),
    Case(
        "PretrainWatchStale",
        of(WATCH_TIMESTAMP, "5000x90"),
        [of(WATCH_TIMESTAMP, "0+60x90"), of(WATCH_TIMESTAMP, "5350x90")],
        {},
    ),
    Case(
        "PretrainOperatorFaults",
        of(RECONCILES, "0x86 1x4", result="fault"),
        [of(RECONCILES, "0+5x90", result="retry"), of(RECONCILES, "0x60 1x30", result="fault")],
        {},
    ),
)
