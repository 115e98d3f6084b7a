"""One job: how far it is, whether it learns, how fast, where its time goes, what would be lost, what it costs."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard, Row
from grafana_foundation_sdk.models import units
from pretrain_stage.catalogue import STORAGE_ERRORS
from pretrain_stage.metric import Metric
from pretrain_trainer.catalogue import (
    CHECKPOINT_BYTES,
    CHECKPOINT_COMMIT_SECONDS,
    CHECKPOINT_FAILURES,
    CHECKPOINT_INTERVAL,
    CHECKPOINT_SECONDS,
    CHECKPOINT_STEP,
    CHECKPOINT_TIMESTAMP,
    CHECKPOINT_WAIT_SECONDS,
    CHECKPOINTS_VERIFIED,
    DATA_WAIT_SECONDS,
    GRADIENT_NORM,
    LEARNING_RATE,
    LOSS,
    MFU,
    NONFINITE_STEPS,
    SECONDS,
    SKIPPED_STEPS,
    STEP,
    STEP_SECONDS,
    STEPS,
    TOKENS_PER_SECOND,
    TRAINED_TOKENS,
    VALIDATION_LOSS,
)

from pretrain_operator.catalogue import (
    JOB_BUDGET,
    JOB_COST,
    JOB_GOODPUT,
    JOB_GPU_SECONDS,
    JOB_PHASE,
    JOB_RESTARTS,
    JOB_SECONDS,
    JOB_STAGE_TASKS,
)
from pretrain_operator.monitoring.dashboards.panels import (
    GREEN,
    RED,
    THIS_JOB,
    WINDOW,
    YELLOW,
    Panel,
    board,
    curves,
    heading,
    number,
    variable,
    with_panels,
)
from pretrain_operator.monitoring.query import increase, mean, one_each, quantile, rate, series, total_each

UID = "pretrain-job"
ACTIVE, SUCCEEDED = 'state="active"', 'state="succeeded"'
GOOD_SHARES = ((None, RED), (0.5, YELLOW), (0.8, GREEN))


def job() -> Dashboard:
    """The dashboard."""
    made = board(
        UID,
        "Pretraining / One job",
        "One PretrainJob, from its raw text to its model.",
        variable("namespace", "Namespace", JOB_PHASE),
        variable("name", "Job", JOB_PHASE, 'namespace="$namespace"'),
    )
    return with_panels(made, *_progress(), *_learning(), *_speed(), *_time(), *_checkpoints(), *_stages(), *_cost())


def _progress() -> tuple[Panel | Row, ...]:
    step, steps = _last(STEP), _last(STEPS)
    return (
        number(
            1, "Phase", "What the job does now.", one_each(series(JOB_PHASE, *THIS_JOB), "phase") + " == 1", units.NoUnit,
            legend="{{phase}}", trend=False,
        ),
        number(2, "Progress", "Optimizer steps done, of those that the job asks for.", f"{step} / {steps}", units.PercentUnit, decimals=1),
        number(
            3, "Time left", "Until the last step, at the mean pace of the last minutes. Restarts are not foreseen.",
            f"({steps} - {step}) * ({mean(STEP_SECONDS, '10m', *THIS_JOB)})", units.Seconds, trend=False,
        ),
        number(4, "Loss", "Training loss of the last step, in nats per token.", _last(LOSS), units.NoUnit, decimals=4),
        number(5, "Tokens per second", "Of the last step, over all processes.", _last(TOKENS_PER_SECOND), units.Short),
        number(
            6, "Goodput", "Share of the training stage's wall time that brought training further.", _last(JOB_GOODPUT),
            units.PercentUnit, steps=GOOD_SHARES, decimals=1,
        ),
    )  # fmt: skip


def _learning() -> tuple[Panel | Row, ...]:
    return (
        heading(10, "Learning"),
        curves(
            11, "Loss", "In nats per token: of the last step, and on held-out text at the last validation.",
            {"training": _last(LOSS), "validation": _last(VALIDATION_LOSS)}, units.NoUnit, width=12, height=9, least=None,
        ),
        curves(
            12, "Gradient norm", "Of the last step, before clipping.", {"norm": _last(GRADIENT_NORM)}, units.NoUnit, width=6, height=9,
            logarithmic=True,
        ),
        curves(
            13, "Learning rate", "Of the last step.", {"learning rate": _last(LEARNING_RATE)}, units.NoUnit, width=6, height=9,
        ),
        curves(
            14, "Steps that did not count, in five minutes",
            "Skipped: a gradient overflowed in fp16 and the loss scale was lowered; a few are usual. Not finite: loss or "
            "gradient was NaN or infinite; none is.",
            {
                "skipped": total_each(increase(SKIPPED_STEPS, "5m", *THIS_JOB)),
                "not finite": total_each(increase(NONFINITE_STEPS, "5m", *THIS_JOB)),
            },
            units.Short, width=12, bars=True, steps=((None, GREEN), (1, RED)),
        ),
        curves(
            15, "Tokens", "Trained on since training began, over all attempts.", {"tokens": _last(TRAINED_TOKENS)}, units.Short,
            width=12,
        ),
    )  # fmt: skip


def _speed() -> tuple[Panel | Row, ...]:
    return (
        heading(20, "Speed"),
        curves(
            21, "Tokens per second", "Of the last step, over all processes.", {"tokens/s": _last(TOKENS_PER_SECOND)}, units.Short,
        ),
        curves(
            22, "Model FLOPs utilization",
            "FLOPs that the model needs for its tokens over the peak of all devices. Empty where the peak is not known: tell it "
            "in training.peakTeraflops.",
            {"MFU": _last(MFU)}, units.PercentUnit, most=1,
        ),
        curves(
            23, "Step time", "Quantiles of the duration of an optimizer step, within the buckets of the histogram.",
            {f"p{share * 100:g}": quantile(share, STEP_SECONDS, WINDOW, *THIS_JOB) for share in (0.5, 0.9, 0.99)}, units.Seconds,
        ),
        curves(
            24, "Waiting for data, of the step time", "Share of the steps' duration in which they waited for samples.",
            {
                "waiting": f"sum({rate(DATA_WAIT_SECONDS, WINDOW, *THIS_JOB, part='_sum')}) / "
                f"sum({rate(STEP_SECONDS, WINDOW, *THIS_JOB, part='_sum')})"
            },
            units.PercentUnit, width=12, steps=((None, GREEN), (0.05, YELLOW)),
        ),
        curves(
            25, "Waiting for data, each step", "Quantiles.",
            {f"p{share * 100:g}": quantile(share, DATA_WAIT_SECONDS, WINDOW, *THIS_JOB) for share in (0.5, 0.99)},
            units.Seconds, width=12,
        ),
    )  # fmt: skip


def _time() -> tuple[Panel | Row, ...]:
    return (
        heading(30, "Where the time goes"),
        curves(
            31, "Goodput ledger",
            "Every second of the job is in exactly one state (docs/metrics.md); the height is 1, or less where Prometheus did not "
            "see the operator.",
            {"{{state}}": f"sum by (state) ({one_each(rate(JOB_SECONDS, WINDOW, *THIS_JOB), 'state')})"}, units.PercentUnit, width=12,
            height=9, stacked=True, most=1,
        ),
        curves(
            32, "This attempt, as training tells it", "The account of rank 0 since its process began.",
            {"{{state}}": f"sum by (state) ({one_each(rate(SECONDS, WINDOW, *THIS_JOB), 'state')})"}, units.PercentUnit, width=12,
            height=9, stacked=True, most=1,
        ),
        curves(
            33, "Time so far", "Seconds in each state since the job was made.",
            {"{{state}}": f"sum by (state) ({one_each(series(JOB_SECONDS, *THIS_JOB), 'state')}) > 0"}, units.Seconds, width=12, stacked=True,
        ),
        curves(
            34, "Restarts", "Ends of the training group before it was finished, by class, since the job was made.",
            {"{{reason}}": f"sum by (reason) ({one_each(series(JOB_RESTARTS, *THIS_JOB), 'reason')})"}, units.Short, width=12,
        ),
    )  # fmt: skip


def _checkpoints() -> tuple[Panel | Row, ...]:
    return (
        heading(40, "Checkpoints and storage"),
        curves(
            41, "Age of the newest checkpoint",
            "What would be lost if training were restarted now; beside it the interval that the job asks for, at its pace.",
            {"age": one_each(f"time() - {series(CHECKPOINT_TIMESTAMP, *THIS_JOB)}"), "interval": _last(CHECKPOINT_INTERVAL)},
            units.Seconds,
        ),
        curves(
            42, "How long a checkpoint takes",
            "Means: until training goes on, and until it is committed, which is behind training; and of the time that the next one was "
            "due before.",
            {
                "training stands still": mean(CHECKPOINT_SECONDS, "30m", *THIS_JOB),
                "until committed": mean(CHECKPOINT_COMMIT_SECONDS, "30m", *THIS_JOB),
                "waited for storage, in 30 minutes": total_each(increase(CHECKPOINT_WAIT_SECONDS, "30m", *THIS_JOB)),
            },
            units.Seconds,
        ),
        curves(43, "Size of a checkpoint", "The last one.", {"size": _last(CHECKPOINT_BYTES)}, units.BytesIEC),
        curves(
            44, "Newest checkpoint", "The step that training would go on from.",
            {"step": _last(STEP), "checkpoint": _last(CHECKPOINT_STEP)}, units.Short,
        ),
        curves(
            45, "Checkpoints that failed or were verified",
            "Of this attempt: those that could not be saved, and those compared with their manifests.",
            {
                "failed": total_each(series(CHECKPOINT_FAILURES, *THIS_JOB)),
                "{{result}}": f"sum by (result) ({series(CHECKPOINTS_VERIFIED, *THIS_JOB)})",
            },
            units.Short,
        ),
        curves(
            46, "Requests to storage that failed, in five minutes", "By operation; what is tried again counts each time.",
            {"{{operation}}": f"sum by (operation) ({increase(STORAGE_ERRORS, '5m', *THIS_JOB)})"}, units.Short, bars=True,
        ),
    )  # fmt: skip


def _stages() -> tuple[Panel | Row, ...]:
    return (
        heading(50, "Stages"),
        curves(
            51, "Tasks that run", "By stage: pods of preprocessing, of training and of the stages after it.",
            {"{{stage}}": f"max by (stage) ({series(JOB_STAGE_TASKS, *THIS_JOB, ACTIVE)})"}, units.Short, width=12, stacked=True,
        ),
        curves(
            52, "Tasks that are done", "Share of each stage's tasks.",
            {
                "{{stage}}": f"max by (stage) ({series(JOB_STAGE_TASKS, *THIS_JOB, SUCCEEDED)}) / "
                f"sum by (stage) (max by (stage, state) ({series(JOB_STAGE_TASKS, *THIS_JOB)}))"
            },
            units.PercentUnit, width=12, most=1,
        ),
    )  # fmt: skip


def _cost() -> tuple[Panel | Row, ...]:
    return (
        heading(60, "Cost"),
        number(
            61, "GPU hours", "Hours times GPUs that the job's pods have held.", f"{_last(JOB_GPU_SECONDS)} / 3600", units.NoUnit,
            width=6, decimals=1,
        ),
        number(
            62, "Cost", "In the currency of cost.pricePerGPUHour; only where that is told.", _last(JOB_COST), units.NoUnit, width=6,
            decimals=2,
        ),
        number(
            63, "Budget", "cost.budget; when it is spent the job is suspended.", _last(JOB_BUDGET), units.NoUnit, width=6, decimals=2,
            trend=False,
        ),
        number(
            64, "Of the budget", "Cost over budget.", f"{_last(JOB_COST)} / {_last(JOB_BUDGET)}", units.PercentUnit, width=6,
            steps=((None, GREEN), (0.7, YELLOW), (0.9, RED)), decimals=1,
        ),
    )  # fmt: skip


def _last(metric: Metric) -> str:
    """The value of a gauge or counter of this job, whichever pod tells it."""
    return one_each(series(metric, *THIS_JOB))
