"""The metrics that every stage program serves, whichever it is."""

from __future__ import annotations

from pretrain_stage.metric import JOB_LABELS, Metric

STORAGE_ERRORS = Metric(
    "pretrain_storage_errors_total",
    "counter",
    "Requests to storage that failed, by operation: read, write, list or delete. Those that the S3 client has repeated by "
    "itself count once, and only if they failed to the end.",
    (*JOB_LABELS, "operation"),
)

METRICS = (STORAGE_ERRORS,)
