"""The metrics that rank 0 of a training group serves. Imports nothing heavy: the documentation is made from it too."""

from __future__ import annotations

from pretrain_stage.ledger import State
from pretrain_stage.metric import JOB_LABELS, Metric

STATES: tuple[State, ...] = ("initializing", "productive", "data_wait", "checkpoint", "repeated", "stalled")
"""Of the goodput ledger, those that a rank of training can be in."""
VERIFIED_RESULTS = ("ok", "corrupt")

STEP = Metric("pretrain_training_step", "gauge", "Optimizer steps done since training began.")
STEPS = Metric("pretrain_training_steps", "gauge", "Optimizer steps that the job asks for.")
LOSS = Metric("pretrain_training_loss", "gauge", "Training loss of the last step, in nats per token.")
VALIDATION_LOSS = Metric(
    "pretrain_training_validation_loss", "gauge", "Loss on held-out text at the last validation, in nats per token."
)
LEARNING_RATE = Metric("pretrain_training_learning_rate", "gauge", "Learning rate of the last step.")
GRADIENT_NORM = Metric("pretrain_training_gradient_norm", "gauge", "Norm of the last step's gradient, before clipping.")
TOKENS_PER_SECOND = Metric(
    "pretrain_training_tokens_per_second", "gauge", "Tokens per second in the last step, over all processes."
)
MFU = Metric(
    "pretrain_training_mfu_ratio",
    "gauge",
    "Model FLOPs utilization of the last step: FLOPs that the model needs for its tokens (PaLM, appendix B) over the peak of "
    "all devices. Only where the peak is known, or told in training.peakTeraflops.",
)
TOKENS = Metric("pretrain_training_tokens_total", "counter", "Tokens that this attempt has trained on since it started.")
TRAINED_TOKENS = Metric(
    "pretrain_training_trained_tokens", "gauge", "Tokens trained on since training began, over all attempts."
)
STEP_SECONDS = Metric("pretrain_training_step_seconds", "histogram", "Duration of an optimizer step.")
DATA_WAIT_SECONDS = Metric(
    "pretrain_training_data_wait_seconds", "histogram", "Time in each step that was spent waiting for samples."
)
SKIPPED_STEPS = Metric(
    "pretrain_training_skipped_steps_total",
    "counter",
    "Steps whose update was left out because a gradient overflowed in fp16; the loss scale was lowered.",
)
NONFINITE_STEPS = Metric(
    "pretrain_training_nonfinite_steps_total",
    "counter",
    "Steps whose loss or gradient was not a finite number: their update was left out; after three in a row the attempt ends.",
)
LOSS_SPIKES = Metric(
    "pretrain_training_loss_spikes_total",
    "counter",
    "Times that the loss of a step, or of some in a row, stood far above those before.",
)
CHECKPOINT_SECONDS = Metric(
    "pretrain_training_checkpoint_seconds",
    "histogram",
    "Time that training stood still for a checkpoint, which is written and uploaded behind the steps that follow.",
)
CHECKPOINT_COMMIT_SECONDS = Metric(
    "pretrain_training_checkpoint_commit_seconds",
    "histogram",
    "Time from when a checkpoint was due until it was committed.",
)
CHECKPOINT_WAIT_SECONDS = Metric(
    "pretrain_training_checkpoint_wait_seconds_total",
    "counter",
    "Time that training stood still because a checkpoint was due while the one before was still on its way to storage.",
)
CHECKPOINT_BYTES = Metric("pretrain_training_checkpoint_bytes", "gauge", "Size of the last checkpoint.")
CHECKPOINT_STEP = Metric(
    "pretrain_training_checkpoint_step", "gauge", "Step of the newest committed checkpoint; 0 before the first."
)
CHECKPOINT_TIMESTAMP = Metric(
    "pretrain_training_checkpoint_timestamp_seconds",
    "gauge",
    "Unix time at which the newest checkpoint was committed, or this attempt began if that was later: its age is "
    "time() minus this.",
)
CHECKPOINT_INTERVAL = Metric(
    "pretrain_training_checkpoint_interval_seconds",
    "gauge",
    "Time that should pass between checkpoints: training.checkpoints.everySteps at the mean pace of this attempt; 0 before "
    "its first step.",
)
CHECKPOINT_FAILURES = Metric(
    "pretrain_training_checkpoint_failures_total",
    "counter",
    "Checkpoints that could not be saved; after three in a row, or one that never can be, the attempt ends.",
)
CHECKPOINTS_VERIFIED = Metric(
    "pretrain_training_checkpoints_verified_total",
    "counter",
    "Checkpoints whose files were compared with their manifest, by result: ok, or corrupt, which is then not loaded.",
    (*JOB_LABELS, "result"),
)
SECONDS = Metric(
    "pretrain_training_seconds_total",
    "counter",
    "Wall time of this attempt's rank 0 since it started, by state of the goodput ledger.",
    (*JOB_LABELS, "state"),
)
LAST_STEP_TIMESTAMP = Metric(
    "pretrain_training_last_step_timestamp_seconds", "gauge", "Unix time at which the last step ended; 0 before the first."
)

METRICS = (
    STEP, STEPS, LOSS, VALIDATION_LOSS, LEARNING_RATE, GRADIENT_NORM, TOKENS_PER_SECOND, MFU, TOKENS, TRAINED_TOKENS,
    STEP_SECONDS, DATA_WAIT_SECONDS, SKIPPED_STEPS, NONFINITE_STEPS, LOSS_SPIKES, CHECKPOINT_SECONDS, CHECKPOINT_COMMIT_SECONDS,
    CHECKPOINT_WAIT_SECONDS, CHECKPOINT_BYTES, CHECKPOINT_STEP, CHECKPOINT_TIMESTAMP, CHECKPOINT_INTERVAL, CHECKPOINT_FAILURES, CHECKPOINTS_VERIFIED, SECONDS, LAST_STEP_TIMESTAMP,
)  # fmt: skip
