"""The metrics that a preprocessing process serves. Imports nothing heavy: the documentation is made from it too."""

from __future__ import annotations

from pretrain_stage.metric import JOB_LABELS, Metric

DOCUMENTS = Metric(
    "pretrain_preprocess_documents_total",
    "counter",
    "Documents, by what became of them: outcome read, kept or dropped; of dropped ones the block and its reason.",
    (*JOB_LABELS, "stage", "outcome", "block", "reason"),
)
BYTES = Metric(
    "pretrain_preprocess_bytes_total",
    "counter",
    "UTF-8 bytes of the documents' text, by what became of them: read, kept or dropped.",
    (*JOB_LABELS, "stage", "outcome"),
)
TASKS = Metric(
    "pretrain_preprocess_tasks_total",
    "counter",
    "Tasks that this process has ended, by result: done, unchanged (found done already) or failed.",
    (*JOB_LABELS, "stage", "result"),
)

METRICS = (DOCUMENTS, BYTES, TASKS)
