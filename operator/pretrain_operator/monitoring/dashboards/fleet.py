"""All jobs at a glance: which there are, how well they use their time, what they hold and cost."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.models import units
from pretrain_trainer.catalogue import LOSS, STEP, STEPS, TOKENS_PER_SECOND

from pretrain_operator.catalogue import JOB_COST, JOB_GOODPUT, JOB_GPU_SECONDS, JOB_PHASE, JOB_RESTARTS, JOB_SECONDS
from pretrain_operator.monitoring.dashboards.panels import (
    NAMESPACES,
    RED,
    WINDOW,
    board,
    curves,
    heading,
    number,
    rows,
    variable,
    with_panels,
)
from pretrain_operator.monitoring.query import increase, one_each, rate, series

UID = "pretrain-fleet"
JOB_ADDRESS = (
    "/d/pretrain-job?var-namespace=${__data.fields.namespace}&var-name=${__data.fields.name}&${datasource:queryparam}"
)
ONE_JOB = "{{namespace}}/{{name}}"


def fleet() -> Dashboard:
    """The dashboard."""
    return with_panels(
        board(
            UID,
            "Pretraining / Fleet",
            "All PretrainJobs: phases, throughput, goodput, restarts, GPUs and cost.",
            variable("namespace", "Namespace", JOB_PHASE, all_values=True),
        ),
        number(1, "Training", "Jobs whose training group exists.", _in_phase("Training"), units.Short, trend=True),
        number(2, "Preprocessing", "Jobs in a stage before training.", _in_phase("Preprocessing"), units.Short),
        number(
            3,
            "Failed",
            "Jobs that are over without a model and have not been deleted.",
            _in_phase("Failed"),
            units.Short,
            steps=((None, "green"), (1, RED)),
        ),
        number(4, "GPUs held", "GPUs that pods of jobs hold now.", f"sum({_gpus()})", units.Short),
        number(
            5,
            "Tokens per second",
            "Of all training groups together.",
            f"sum({one_each(series(TOKENS_PER_SECOND, *NAMESPACES))})",
            units.Short,
        ),
        number(
            6,
            "Cost",
            "Of the jobs that tell a price per GPU hour, in its currency, since each was made.",
            f"sum({one_each(series(JOB_COST, *NAMESPACES))})",
            units.Short,
            decimals=2,
        ),
        rows(
            10,
            "Jobs",
            "One line for each job; its name leads to its own dashboard.",
            {
                "Phase": one_each(series(JOB_PHASE, *NAMESPACES), "phase") + " == 1",
                "Progress": f"{one_each(series(STEP, *NAMESPACES))} / {one_each(series(STEPS, *NAMESPACES))}",
                "Loss": one_each(series(LOSS, *NAMESPACES)),
                "Tokens/s": one_each(series(TOKENS_PER_SECOND, *NAMESPACES)),
                "Goodput": one_each(series(JOB_GOODPUT, *NAMESPACES)),
                "Restarts": f"sum by (namespace, name) ({one_each(series(JOB_RESTARTS, *NAMESPACES), 'reason')})",
                "Cost": one_each(series(JOB_COST, *NAMESPACES)),
            },
            {"Progress": units.PercentUnit, "Tokens/s": units.Short, "Goodput": units.PercentUnit},
            hidden=("Value #A",),
            links={"name": ("Open this job", JOB_ADDRESS)},
        ),
        heading(20, "Throughput and goodput"),
        curves(
            21,
            "Tokens per second",
            "By job, over all processes of its training group.",
            {ONE_JOB: one_each(series(TOKENS_PER_SECOND, *NAMESPACES))},
            units.Short,
        ),
        curves(
            22,
            "Goodput",
            "Share of the training stage's wall time that brought training further, since it began.",
            {ONE_JOB: one_each(series(JOB_GOODPUT, *NAMESPACES))},
            units.PercentUnit,
            most=1,
        ),
        curves(
            23,
            "Where the time of all jobs goes",
            "Jobs in each state of the ledger: every second of a job is in exactly one.",
            {"{{state}}": f"sum by (state) ({one_each(rate(JOB_SECONDS, WINDOW, *NAMESPACES), 'state')})"},
            units.Short,
            stacked=True,
        ),
        heading(30, "Faults and resources"),
        curves(
            31,
            "Restarts in the last hour",
            "Ends of a training group before it was finished, by class. Infrastructure uses up training.maxRestarts.",
            {"{{reason}}": f"sum by (reason) ({one_each(increase(JOB_RESTARTS, '1h', *NAMESPACES), 'reason')})"},
            units.Short,
            bars=True,
        ),
        curves(
            32,
            "GPUs held",
            "By job.",
            {ONE_JOB: _gpus()},
            units.Short,
            stacked=True,
        ),
        curves(
            33,
            "Jobs by phase",
            "Finished jobs count until they are deleted.",
            {"{{phase}}": f"sum by (phase) ({one_each(series(JOB_PHASE, *NAMESPACES), 'phase')})"},
            units.Short,
            stacked=True,
        ),
    )


def _in_phase(phase: str) -> str:
    return "sum(" + one_each(series(JOB_PHASE, *NAMESPACES, f'phase="{phase}"')) + ")"


def _gpus() -> str:
    return one_each(rate(JOB_GPU_SECONDS, WINDOW, *NAMESPACES))
