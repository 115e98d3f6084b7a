"""The alert rules: what is wrong, how long it must last, how bad it is, and the page that says what to do.

Their paces are those of hours of training, scraped once or twice a minute; tests make them shorter. What users will want to
set are Thresholds: numbers in the rules for plain Prometheus, values in the chart's template.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pretrain_preprocess.catalogue import TASKS
from pretrain_stage.catalogue import STORAGE_ERRORS
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
from pretrain_operator.monitoring.query import JOB, increase, most, one_each, rate, series, target_series, total_each

Severity = Literal["critical", "warning"]
OF_JOB = "{{ $labels.namespace }}/{{ $labels.name }}"
RUNBOOKS = "docs/runbooks"
STALLED = 'state="stalled"'


@dataclass(frozen=True)
class Pace:
    """How far a rule looks back and how long it waits, in seconds."""

    sure: int = 60
    """`for` of what cannot pass by itself."""
    window: int = 300
    """What rates are taken over."""
    patient: int = 600
    """`for` of what may pass by itself."""
    long: int = 3600
    """What is counted, or compared with."""
    resolution: int = 60
    """Of subqueries."""


@dataclass(frozen=True)
class Thresholds:
    """What users may set; text, since in the chart's template a value stands for each."""

    goodput: str = "0.5"
    checkpoint_intervals: str = "3"
    loss_spike_ratio: str = "1.3"
    restarts_per_hour: str = "3"
    storage_errors_per_hour: str = "20"


@dataclass(frozen=True)
class Alert:
    """One rule. Its texts may hold Prometheus' templates."""

    name: str
    severity: Severity
    expression: str
    lasts: int
    """Seconds that the expression must hold."""
    summary: str
    description: str

    def rule(self, runbooks: str) -> dict[str, Any]:
        """The rule, as Prometheus reads it. runbooks: address of the folder of the pages."""
        return {
            "alert": self.name,
            "expr": self.expression,
            "for": span(self.lasts),
            "labels": {"severity": self.severity},
            "annotations": {
                "summary": self.summary,
                "description": self.description,
                "runbook_url": f"{runbooks}/{self.name}.md",
            },
        }


def rules(
    pace: Pace | None = None,
    thresholds: Thresholds | None = None,
    runbooks: str = RUNBOOKS,
    operator: tuple[str, ...] = (),
) -> dict[str, Any]:
    """All rules, as a file of Prometheus. operator: matchers on the operator's target, where Prometheus scrapes several."""
    pace, thresholds = pace or Pace(), thresholds or Thresholds()
    groups = {
        "pretrain-training": training(pace, thresholds),
        "pretrain-job": job(pace, thresholds),
        "pretrain-operator": operator_itself(pace, operator),
    }
    return {
        "groups": [{"name": name, "rules": [alert.rule(runbooks) for alert in alerts]} for name, alerts in groups.items()]
    }


def training(pace: Pace, thresholds: Thresholds) -> tuple[Alert, ...]:
    """What rank 0 tells of itself."""
    window, long = span(pace.window), span(pace.long)
    age = one_each(f"time() - {series(CHECKPOINT_TIMESTAMP)}")
    loss = one_each(series(LOSS))
    # Medians: one step out of line is nothing. Subqueries, since the series of a restarted pod is another one.
    recent = f"quantile_over_time(0.5, {loss}[{window}:{span(pace.resolution)}])"
    before = f"quantile_over_time(0.5, {loss}[{long}:{span(pace.resolution)}] offset {window})"
    return (
        Alert(
            "PretrainTrainingStalled",
            "critical",
            # The operator's account too: a process that is stopped, or whose node is cut off, tells nothing any more.
            one_each(f"{rate(SECONDS, window, STALLED)} or {rate(JOB_SECONDS, window, STALLED)}") + " > 0.5",
            2 * pace.sure,
            f"Training of {OF_JOB} stands still",
            "More than half of the last minutes were spent in a step that takes far longer than those before it, or on a "
            "first pod that does not answer.",
        ),
        Alert(
            "PretrainTrainingNonFinite",
            "critical",
            # Three in a row end the process, which is read once more: there may be no second value to see an increase from.
            one_each(most(NONFINITE_STEPS, window)) + " > 0",
            pace.sure,
            f"Loss or gradient of {OF_JOB} is not a finite number",
            "A step had a loss or a gradient that was NaN or infinite. Its update was left out; after three such steps in a row "
            "training ends. No checkpoint is saved before a step that is a number follows.",
        ),
        Alert(
            "PretrainLossSpike",
            "warning",
            f"{recent} / {before} > {thresholds.loss_spike_ratio} or {total_each(increase(LOSS_SPIKES, window))} > 0",
            pace.sure,
            f"Loss of {OF_JOB} has jumped",
            "The median of the training loss in the last minutes is far above that of the hour before, or single steps stood far "
            "above those before them.",
        ),
        Alert(
            "PretrainCheckpointStale",
            "warning",
            f"{age} > {thresholds.checkpoint_intervals} * ({one_each(series(CHECKPOINT_INTERVAL))} > 0) "
            f"and {age} > {pace.patient}",
            pace.sure,
            f"{OF_JOB} has not saved a checkpoint for {{{{ $value | humanizeDuration }}}}",
            "That is several times the interval that training.checkpoints.everySteps makes at the present pace. All steps "
            "since then are lost if training is restarted.",
        ),
        Alert(
            "PretrainCheckpointFailing",
            "critical",
            one_each(most(CHECKPOINT_FAILURES, long)) + " > 0",  # likewise
            pace.sure,
            f"Checkpoints of {OF_JOB} cannot be saved",
            "Checkpoints of an attempt of the last hour could not be saved. Training goes on after one or two, and ends with the third.",
        ),
        Alert(
            "PretrainCheckpointCorrupt",
            "warning",
            # Told once, while training starts, so most often before the first scrape: there is no increase to be seen.
            one_each(series(CHECKPOINTS_VERIFIED, 'result="corrupt"')) + " > 0",
            pace.sure,
            f"A checkpoint of {OF_JOB} is corrupt",
            "{{ $value | humanize }} checkpoints did not match their manifests and were not loaded; an older one was taken.",
        ),
        Alert(
            "PretrainStorageErrors",
            "warning",
            f"{total_each(increase(STORAGE_ERRORS, long), 'operation')} > {thresholds.storage_errors_per_hour}",
            pace.sure,
            f"Storage of {OF_JOB} fails",
            "{{ $value | humanize }} requests to {{ $labels.operation }} failed in the last hour. What is tried again counts "
            "each time.",
        ),
    )


def job(pace: Pace, thresholds: Thresholds) -> tuple[Alert, ...]:
    """What the operator tells of a job."""
    window, long = span(pace.window), span(pace.long)
    productive = one_each(rate(JOB_SECONDS, long, 'state="productive"'))
    passed = total_each(one_each(rate(JOB_SECONDS, long, 'state!~"queued|preprocessing"'), "state"))
    return (
        Alert(
            "PretrainJobFailed",
            "critical",
            one_each(series(JOB_CONDITION, 'type="Failed"'), "reason") + " == 1",
            pace.sure,
            f"PretrainJob {OF_JOB} has failed",
            "It is over without a model: {{ $labels.reason }}.",
        ),
        Alert(
            "PretrainRestartLoop",
            "critical",
            total_each(one_each(increase(JOB_RESTARTS, long, 'reason="Infrastructure"'), "reason"))
            + f" > {thresholds.restarts_per_hour}",
            pace.sure,
            f"Training of {OF_JOB} fails again and again",
            "{{ $value | humanize }} attempts of the last hour ended by a fault. When training.maxRestarts are used up the "
            "job fails.",
        ),
        Alert(
            "PretrainGoodputLow",
            "warning",
            # The gauge is there from the first step on: a job that has not trained yet has no goodput to be low.
            f"{productive} / {passed} < {thresholds.goodput} and on ({JOB}) {series(JOB_GOODPUT)}",
            pace.patient,
            f"{OF_JOB} trains for {{{{ $value | humanizePercentage }}}} of the time",
            "The rest of the last hour went into starting, waiting, checkpoints, repeated steps, stalls or restarts.",
        ),
        Alert(
            "PretrainPreprocessingFailing",
            "warning",
            # A process ends with its first failed task: it was read once more, so the series begins with that failure.
            total_each(most(TASKS, window, 'result="failed"'), "stage")
            + " > 0 or "
            + one_each(series(JOB_STAGE_TASKS, 'state="failed"', 'stage!="train"'), "stage")
            + " > 0",
            pace.sure,
            f"Tasks of stage {{{{ $labels.stage }}}} of {OF_JOB} fail",
            "{{ $value | humanize }} tasks failed. Each is tried three times more before the job fails.",
        ),
        Alert(
            "PretrainTrainingUnseen",
            "warning",
            one_each(series(JOB_STAGE_TASKS, 'stage="train"', 'state="active"')) + f" > 0 unless on ({JOB}) {series(STEP)}",
            pace.patient,
            f"Training of {OF_JOB} runs, and its metrics are not there",
            "Its pods run, but Prometheus has nothing of its first pod, so no other alert on training can fire.",
        ),
        Alert(
            "PretrainBudgetNearlySpent",
            "warning",
            f"{one_each(series(JOB_COST))} / {one_each(series(JOB_BUDGET))} > 0.9",
            pace.sure,
            f"{OF_JOB} has cost {{{{ $value | humanizePercentage }}}} of its budget",
            "When cost.budget is spent the operator suspends the job.",
        ),
    )


def operator_itself(pace: Pace, target: tuple[str, ...]) -> tuple[Alert, ...]:
    """What is wrong with the operator, or that it is not there."""
    return (
        Alert(
            "PretrainOperatorDown",
            "critical",
            f"absent({target_series(LEADING, *target)} == 1)",
            pace.window,
            "No operator looks after PretrainJobs",
            "No replica that holds the Lease is scraped. Pods that run go on; nothing is started, restarted or told.",
        ),
        Alert(
            "PretrainWatchStale",
            "critical",
            f"time() - {series(WATCH_TIMESTAMP)} > {2 * pace.sure}",
            pace.sure,
            "The operator hears nothing from the API server",
            "Its watches have brought nothing for {{ $value | humanizeDuration }}, not even its own Lease, which changes "
            "every few seconds.",
        ),
        Alert(
            "PretrainOperatorFaults",
            "warning",
            "sum(" + increase(RECONCILES, span(pace.window), 'result="fault"') + ") > 0",
            pace.sure,
            "The operator fails at a job by a fault of its own",
            "{{ $value | humanize }} looks at a job in the last minutes ended in an error that it does not know.",
        ),
    )


def span(seconds: int) -> str:
    """A duration in the units that divide it, as Prometheus writes them."""
    for unit, length in (("h", 3600), ("m", 60)):
        if seconds % length == 0:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"
