"""The metrics that every stage program serves, whichever it is."""

from __future__ import annotations

from pretrain_stage.metric import JOB_LABELS, Metric

STORAGE_ERRORS = Metric(
    "pretrain_storage_errors_total",
    "counter",
    "Requests to storage that failed, by operation: read, write, list or delete. What the S3 client repeats by itself, for some "
    "seconds, is not seen; what is tried again after that counts each time.",
    (*JOB_LABELS, "operation"),
)

METRICS = (STORAGE_ERRORS,)
