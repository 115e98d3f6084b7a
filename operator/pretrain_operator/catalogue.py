"""The metrics that the operator serves: of itself, and of the jobs that it looks after. Pure."""

from __future__ import annotations

from pretrain_stage.metric import JOB_LABELS, Metric

BUILD = Metric("pretrain_operator_build_info", "gauge", "Always 1; the version of the operator.", ("version",))
RECONCILES = Metric(
    "pretrain_operator_reconciles_total",
    "counter",
    "Looks at a job, by how they ended: done, retry, fault or gone.",
    ("result",),
)
RECONCILE_SECONDS = Metric("pretrain_operator_reconcile_seconds", "histogram", "Duration of a look at a job.", ())
QUEUE_DEPTH = Metric("pretrain_operator_queue_depth", "gauge", "Jobs that are due and wait for a worker.", ())
WATCH_TIMESTAMP = Metric(
    "pretrain_operator_watch_timestamp_seconds",
    "gauge",
    "Unix time at which a watch last brought something. The operator's own Lease is watched, so something comes every few "
    "seconds.",
    (),
)
LEADING = Metric("pretrain_operator_leading", "gauge", "1 if this replica holds the Lease and works, otherwise 0.", ())
API_REQUESTS = Metric(
    "pretrain_operator_api_requests_total",
    "counter",
    "Requests to the API server, by verb and status code; code 0 is no answer.",
    ("verb", "code"),
)

JOB_PHASE = Metric(
    "pretrain_job_phase", "gauge", "1 for the phase that the job is in, 0 for all others.", (*JOB_LABELS, "phase")
)
JOB_CONDITION = Metric(
    "pretrain_job_condition",
    "gauge",
    "1 if the condition is True, otherwise 0, with its present reason.",
    (*JOB_LABELS, "type", "reason"),
)
JOB_STAGE_TASKS = Metric(
    "pretrain_job_stage_tasks",
    "gauge",
    "Tasks of each stage, by state: pending, active, succeeded or failed.",
    (*JOB_LABELS, "stage", "state"),
)
JOB_SECONDS = Metric(
    "pretrain_job_seconds_total",
    "counter",
    "Wall time of the job since it was made, by state of the goodput ledger: every second is in exactly one. While a training "
    "pod tells of its own time, up to its last word; once it has said nothing for a minute, the rest counts as stalled.",
    (*JOB_LABELS, "state"),
)
JOB_GOODPUT = Metric(
    "pretrain_job_goodput_ratio",
    "gauge",
    "Share of the wall time since the training stage first began that was productive; there from the first step on.",
)
JOB_RESTARTS = Metric(
    "pretrain_job_restarts_total",
    "counter",
    "Ends of the training group before it was finished, by class: Infrastructure, Disruption, Unschedulable, Edited or "
    "Suspended.",
    (*JOB_LABELS, "reason"),
)
JOB_GPU_SECONDS = Metric(
    "pretrain_job_gpu_seconds_total", "counter", "GPU time that the job's pods have held: seconds times GPUs."
)
JOB_COST = Metric(
    "pretrain_job_cost",
    "gauge",
    "What the GPU time has cost, in the currency of cost.pricePerGPUHour; only where that is told.",
)
JOB_BUDGET = Metric("pretrain_job_cost_budget", "gauge", "cost.budget of the job; only where it is told.")

METRICS = (
    BUILD, RECONCILES, RECONCILE_SECONDS, QUEUE_DEPTH, WATCH_TIMESTAMP, LEADING, API_REQUESTS, JOB_PHASE, JOB_CONDITION,
    JOB_STAGE_TASKS, JOB_SECONDS, JOB_GOODPUT, JOB_RESTARTS, JOB_GPU_SECONDS, JOB_COST, JOB_BUDGET,
)  # fmt: skip
