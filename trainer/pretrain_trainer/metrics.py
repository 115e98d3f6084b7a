"""What a run tells while it trains: events on standard output, Prometheus metrics, and a record under reports/.

Process 0 alone speaks. Nothing here waits for a device, for storage or for whoever reads: numbers arrive when the run has
them anyway, and files go up with the checkpoints.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from pretrain_stage.config import Metadata
from pretrain_stage.events import Events
from pretrain_stage.storage import Storage
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, start_http_server

RECORD = "reports/training.jsonl"
TENSORBOARD = "reports/tensorboard"
PORT_VARIABLE, ADDRESS_VARIABLE = "PRETRAIN_METRICS_PORT", "PRETRAIN_METRICS_ADDRESS"
SAY_SECONDS = 1.0

SECONDS_BUCKETS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)


@dataclass(frozen=True)
class StepMeasures:
    """One optimizer step. `step` counts finished steps, so the first is 1; times in seconds; the norm is before clipping."""

    step: int
    loss: float
    learning_rate: float
    grad_norm: float
    tokens: int
    seconds: float
    data_wait_seconds: float

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


@dataclass(frozen=True)
class ValidationMeasures:
    """The loss in nats per token on held-out text, after `step` steps."""

    step: int
    loss: float
    perplexity: float


@dataclass(frozen=True)
class CheckpointMeasures:
    """A committed checkpoint: how long training stood still for it, and its size."""

    step: int
    seconds: float
    bytes: int


class Listener(Protocol):
    """Somebody who is told what a run measures."""

    def step(self, measures: StepMeasures) -> None: ...

    def validation(self, measures: ValidationMeasures) -> None: ...

    def checkpoint(self, measures: CheckpointMeasures) -> None: ...

    def publish(self) -> None:
        """Brings to storage what should be there. Called at checkpoints and at the end."""

    def close(self) -> None: ...


class SpokenEvents:
    """Events on standard output: steps at most once a second, everything else always."""

    def __init__(self, events: Events, steps: int, first_step: int) -> None:
        self.events, self.steps, self.first_step = events, steps, first_step
        self.said_at = float("-inf")
        self.tokens, self.seconds, self.mean_seconds = 0, 0.0, 0.0

    def step(self, measures: StepMeasures) -> None:
        self.tokens += measures.tokens
        self.seconds += measures.seconds
        # A mean that forgets: the time that is left follows the speed of the last hundred steps or so.
        share = max(0.01, 1 / (measures.step - self.first_step))
        self.mean_seconds += share * (measures.seconds - self.mean_seconds)
        now = time.monotonic()
        if now - self.said_at < SAY_SECONDS and measures.step not in (self.first_step + 1, self.steps):
            return
        self.said_at = now
        rate = self.tokens / self.seconds
        self.tokens, self.seconds = 0, 0.0
        self.events.say(
            "step",
            f"step {measures.step} of {self.steps}, loss {measures.loss:.4f}, {rate:,.0f} tokens/s",
            step=measures.step,
            steps=self.steps,
            loss=measures.loss,
            learning_rate=measures.learning_rate,
            grad_norm=measures.grad_norm,
            tokens=measures.tokens * measures.step,
            tokens_per_second=rate,
            eta_seconds=(self.steps - measures.step) * self.mean_seconds,
        )

    def validation(self, measures: ValidationMeasures) -> None:
        message = f"validation at step {measures.step}: loss {measures.loss:.4f}, perplexity {measures.perplexity:.2f}"
        self.events.say("validation", message, **asdict(measures))

    def checkpoint(self, measures: CheckpointMeasures) -> None:
        message = f"checkpoint of step {measures.step}: {measures.bytes:,} bytes in {measures.seconds:.1f} s"
        self.events.say("checkpoint", message, **asdict(measures))

    def publish(self) -> None:
        pass

    def close(self) -> None:
        pass


class Prometheus:
    """The metrics of a run in progress, served over HTTP in its own process. Counters of a restarted run begin at zero.

    done, done_tokens: optimizer steps and tokens that the run goes on from, which is where its newest checkpoint is.
    """

    def __init__(self, metadata: Metadata, steps: int, events: Events, done: int = 0, done_tokens: int = 0) -> None:
        # A series more for each counter and histogram, for which nobody asks.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        labels = {"namespace": metadata.namespace, "name": metadata.name}

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"pretrain_training_{name}", text, list(labels), registry=self.registry).labels(**labels)

        def counter(name: str, text: str) -> Counter:
            return Counter(f"pretrain_training_{name}", text, list(labels), registry=self.registry).labels(**labels)

        def histogram(name: str, text: str) -> Histogram:
            return Histogram(
                f"pretrain_training_{name}", text, list(labels), registry=self.registry, buckets=SECONDS_BUCKETS
            ).labels(**labels)

        self.last_step = gauge("step", "Optimizer steps done since training began.")
        self.loss = gauge("loss", "Training loss of the last step, in nats per token.")
        self.validation_loss = gauge("validation_loss", "Loss on held-out text at the last validation, in nats per token.")
        self.learning_rate = gauge("learning_rate", "Learning rate of the last step.")
        self.grad_norm = gauge("gradient_norm", "Norm of the last step's gradient, before clipping.")
        self.tokens_per_second = gauge("tokens_per_second", "Tokens per second in the last step, over all processes.")
        self.tokens = counter("tokens", "Tokens that this process group has trained on since it started.")
        self.step_seconds = histogram("step_seconds", "Duration of an optimizer step.")
        self.data_wait_seconds = histogram("data_wait_seconds", "Time in each step that was spent waiting for samples.")
        self.checkpoint_seconds = histogram("checkpoint_seconds", "Time that training stood still for a checkpoint.")
        self.checkpoint_bytes = gauge("checkpoint_bytes", "Size of the last checkpoint.")
        self.checkpoint_step = gauge("checkpoint_step", "Step of the newest committed checkpoint; 0 before the first.")
        self.trained_tokens = gauge("trained_tokens", "Tokens trained on since training began, over all starts of the run.")
        gauge("steps", "Optimizer steps that the job asks for.").set(steps)
        self.last_step.set(done)
        self.checkpoint_step.set(done)
        self.trained_tokens.set(done_tokens)
        self.server, self.thread = self._serve(events)

    def _serve(self, events: Events) -> Any:
        address = os.environ.get(ADDRESS_VARIABLE, "127.0.0.1")
        wanted = int(os.environ.get(PORT_VARIABLE, "0"))
        try:
            server, thread = start_http_server(wanted, address, self.registry)
        except OSError as error:
            events.warning(f"metrics: port {wanted} cannot be used ({error.strerror}); taking a free one")
            server, thread = start_http_server(0, address, self.registry)
        port = server.server_port
        events.info(f"metrics at http://{address}:{port}/metrics", metrics_port=port)
        return server, thread

    def step(self, measures: StepMeasures) -> None:
        self.last_step.set(measures.step)
        self.loss.set(measures.loss)
        self.learning_rate.set(measures.learning_rate)
        self.grad_norm.set(measures.grad_norm)
        self.tokens.inc(measures.tokens)
        self.trained_tokens.set(measures.tokens * measures.step)
        self.tokens_per_second.set(measures.tokens_per_second)
        self.step_seconds.observe(measures.seconds)
        self.data_wait_seconds.observe(measures.data_wait_seconds)

    def validation(self, measures: ValidationMeasures) -> None:
        self.validation_loss.set(measures.loss)

    def checkpoint(self, measures: CheckpointMeasures) -> None:
        self.checkpoint_seconds.observe(measures.seconds)
        self.checkpoint_bytes.set(measures.bytes)
        self.checkpoint_step.set(measures.step)

    def publish(self) -> None:
        pass

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


class Record:
    """One JSON line for each step, validation and checkpoint, in reports/training.jsonl.

    A resumed run takes up the file and drops the lines of steps that it will do again.
    """

    def __init__(self, storage: Storage, folder: Path, first_step: int) -> None:
        self.storage, self.path = storage, folder / "training.jsonl"
        earlier = storage.read(RECORD) if first_step else None
        lines = [] if earlier is None else [line for line in earlier.splitlines() if _is_done(line, first_step)]
        self.path.write_bytes(b"".join(line + b"\n" for line in lines))
        self.file = self.path.open("a", encoding="utf-8")

    def step(self, measures: StepMeasures) -> None:
        self._write("step", {**asdict(measures), "tokens_per_second": measures.tokens_per_second})

    def validation(self, measures: ValidationMeasures) -> None:
        self._write("validation", asdict(measures))

    def checkpoint(self, measures: CheckpointMeasures) -> None:
        self._write("checkpoint", asdict(measures))

    def publish(self) -> None:
        self.file.flush()
        self.storage.upload(self.path, RECORD)

    def close(self) -> None:
        self.file.close()

    def _write(self, kind: str, measures: dict[str, Any]) -> None:
        self.file.write(json.dumps({"kind": kind, **measures}) + "\n")


class TensorBoard:
    """TensorBoard's event files under reports/tensorboard/: one for each start of the run."""

    def __init__(self, storage: Storage, folder: Path, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.storage, self.folder = storage, folder / "tensorboard"
        # purge_step hides what an earlier start wrote of steps that are done again.
        self.writer = SummaryWriter(str(self.folder), purge_step=first_step + 1)

    def step(self, measures: StepMeasures) -> None:
        for name in ("loss", "learning_rate", "grad_norm", "tokens_per_second"):
            self._add(f"training/{name}", getattr(measures, name), measures.step)

    def validation(self, measures: ValidationMeasures) -> None:
        self._add("validation/loss", measures.loss, measures.step)
        self._add("validation/perplexity", measures.perplexity, measures.step)

    def checkpoint(self, measures: CheckpointMeasures) -> None:
        self._add("checkpoint/seconds", measures.seconds, measures.step)

    def publish(self) -> None:
        self.writer.flush()
        for path in self.folder.iterdir():
            self.storage.upload(path, f"{TENSORBOARD}/{path.name}")

    def close(self) -> None:
        self.writer.close()

    def _add(self, name: str, value: float, step: int) -> None:
        self.writer.add_scalar(name, value, step)


def _is_done(line: bytes, first_step: int) -> bool:
    """Whether a line of an earlier record is of a step that will not be done again. A torn line is not."""
    try:
        return int(json.loads(line)["step"]) <= first_step
    except (ValueError, KeyError, TypeError):
        return False
