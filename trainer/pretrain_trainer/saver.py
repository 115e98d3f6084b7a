"""Makes checkpoints while training goes on.

    training    hands over the state of the engine (host_copy.py) and takes its next step
    a thread    copies the state to main memory, which the optimizer's next update waits for; writes each file to local disk, takes its
                SHA-256 on the way, uploads and deletes it. Then the processes tell each other their files, and process 0 commits
                the checkpoint (checkpoint.py) and deletes those that need not be kept

Each process has such a thread, and these have a group of their own, so that they never meet the collectives of a step. At most one
checkpoint is on its way, so memory is bounded: when the next is due before, training waits. All processes learn alike how
a checkpoint ended. If disk or storage failed and may recover, training goes on, and the next checkpoint is the next try.
"""

from __future__ import annotations

import dataclasses
import logging
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import torch.distributed as dist
from pretrain_stage.errors import EXIT_TEMPORARY, PEER_LEFT, StorageError, UserError
from pretrain_stage.storage import Storage

from pretrain_trainer import checkpoint
from pretrain_trainer.account import Account
from pretrain_trainer.checkpoint import CheckpointManifest, RankFile, Segment
from pretrain_trainer.commit_log import Attempt, Superseded
from pretrain_trainer.host_copy import HostCopy, HostMemory, write_hashed
from pretrain_trainer.plan import RunPlan
from pretrain_trainer.rank import PeerLost
from pretrain_trainer.ranks import STORAGE_TIMEOUT, Group
from pretrain_trainer.snapshot import KEPT, Resume
from pretrain_trainer.watch.rollback import past

MOST_FAILURES = 3
"""So many checkpoints that fail in a row end the run, though each might have been followed by a better one."""
LEAVE_SECONDS = 300.0
"""How long a run that ends for another reason waits for the checkpoint that is on its way."""
PAUSE_SECONDS = 2.0
"""Before a checkpoint that is waited for is tried again."""
WAIT_SECONDS = 0.1
"""A wait for the checkpoint before that is shorter is not worth a word."""

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Saved:
    """A checkpoint that was committed."""

    manifest: CheckpointManifest
    stall_seconds: float
    """That training stood still for it: until its state was handed over, and before an update for its copy. For one that is waited
    for, until it was committed."""
    seconds: float
    """From when it was due until it was committed."""
    time: float
    """Unix time of that."""


@dataclass(frozen=True)
class Failed:
    """A checkpoint that was not."""

    step: int
    error: UserError
    tries_left: int
    """How many more may fail before the run ends; 0 if it ends now."""


class Told(Protocol):
    """Who is told how checkpoints fare, between two steps."""

    def checkpoint(self, saved: Saved) -> None: ...

    def checkpoint_failed(self, failed: Failed) -> None: ...

    def checkpoint_waited(self, step: int, seconds: float) -> None:
        """The checkpoint of `step` was due, and training waited for the one before it."""
        ...


@dataclass
class _Flight:
    """A checkpoint on its way. The thread leaves its end in `end` and sets `ended`; all else is training's."""

    step: int
    measures: dict[str, float]
    state: HostCopy
    """Dropped with the flight: the next copies to the same memory."""
    publish: Callable[[], None]
    began: float
    stall_seconds: float = 0.0
    end: Saved | _Fault | BaseException | None = None
    ended: threading.Event = dataclasses.field(default_factory=threading.Event)


@dataclass(frozen=True)
class _Fault:
    """What went wrong with a checkpoint, and at which process. All of them know."""

    rank: int
    error: UserError

    @property
    def temporary(self) -> bool:
        """Whether disk or storage may recover."""
        return isinstance(self.error, StorageError) and self.error.exit_code == EXIT_TEMPORARY

    def seen_by(self, rank: int) -> UserError:
        """As what that process ends: only the one that it happened to says so of itself."""
        if rank == self.rank or isinstance(self.error, PeerLost):
            return self.error
        return PeerLost(f"{PEER_LEFT}: {self.error}")


class Saver:
    """Makes checkpoints of an engine. All processes call it alike. As a context it has a checkpoint that is on its way arrive before
    an error ends the run.

    account: where the time goes that an update waits for a copy. committed: is called by process 0's thread after a commit, to delete
    what only checkpoints before it needed.
    """

    def __init__(
        self,
        engine: Any,
        storage: Storage,
        plan: RunPlan,
        group: Group,
        scratch: Path,
        resume: Resume | None,
        attempt: Attempt,
        told: Told,
        account: Account,
        committed: Callable[[CheckpointManifest], None] = lambda _: None,
    ) -> None:
        self.engine, self.storage, self.plan, self.group, self.attempt = engine, storage, plan, group, attempt
        self.told, self.account, self.committed = told, account, committed
        self.behind = dataclasses.replace(group, control=dist.new_group(backend="gloo", timeout=STORAGE_TIMEOUT))
        self.memory = HostMemory(pinned=group.device.type == "cuda")
        self.local = scratch / "save" / f"rank-{group.place.rank}"
        self.parent = resume.reference if resume else None
        self.refused = resume.refused if resume else ()
        self.segments = _segments(plan, resume)
        self.failures = 0
        """Checkpoints that failed since the last that did not."""
        self._last: CheckpointManifest | None = None
        self._flight: _Flight | None = None
        # Nothing but the optimizer changes what a copy may still be made of.
        engine.basic_optimizer.register_step_pre_hook(self._hold)
        # DeepSpeed leaves programs of its own beside its files.
        engine._copy_recovery_script = lambda _: None

    @property
    def last(self) -> CheckpointManifest:
        """The checkpoint that was committed last."""
        assert self._last is not None, "asked for after one was waited for"
        return self._last

    def save(
        self, step: int, measures: dict[str, float], publish: Callable[[], None] = lambda: None, *, wait: bool = False
    ) -> None:
        """Begins a checkpoint after `step` steps, once the one before has ended, which is told.

        publish: what process 0's thread brings to storage before it commits. wait: until the checkpoint is committed; if it fails and
        may be tried again, it is. Raises StorageError if disk or storage fails for good, or too often; nothing is committed then.
        """
        began = time.monotonic()
        self._end_flight()
        waited = time.monotonic() - began
        if waited > WAIT_SECONDS:
            self.told.checkpoint_waited(step, waited)
        while True:
            self._flight = flight = _Flight(step, dict(measures), self._handed_over(), publish, began)
            threading.Thread(target=self._run, args=(flight,), name=f"checkpoint-{step}", daemon=True).start()
            if wait:
                flight.ended.wait()
            flight.stall_seconds = time.monotonic() - began
            if not wait:
                return
            self._end_flight()
            if not self.failures:
                return
            time.sleep(PAUSE_SECONDS)

    def hear(self) -> None:
        """Tells of the checkpoint that was on its way, if it has ended. Raises as `save` does."""
        if self._flight is not None and self._flight.ended.is_set():
            self._end_flight()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        # A RuntimeError is most often that of a collective, whose processes are no more.
        if isinstance(error, Exception) and not isinstance(error, RuntimeError):
            self.leave()

    def leave(self) -> None:
        """The run ends for a reason of its own: waits for a checkpoint that is on its way, and tells of it if it was committed."""
        flight = self._flight
        if flight is not None and flight.ended.wait(LEAVE_SECONDS) and isinstance(flight.end, Saved):
            self._end_flight()

    def _handed_over(self) -> HostCopy:
        """The state of the engine as it is now. DeepSpeed has the processes meet for it."""
        state = HostCopy(self.memory, self.engine.module)
        own, self.engine.checkpoint_engine = self.engine.checkpoint_engine, state
        try:
            kept = self.engine.module.kept()
            self.engine.save_checkpoint(
                str(self.local),
                tag="files",
                client_state={KEPT: kept} if kept else {},
                save_latest=False,
                exclude_frozen_parameters=not self.engine.module.whole_checkpoints,
            )
        finally:
            self.engine.checkpoint_engine = own
        return state

    def _hold(self, *_: Any) -> None:
        """The optimizer is about to change parameters: waits until they have been copied."""
        flight = self._flight
        if flight is None or flight.state.copied.is_set():
            return
        began = time.monotonic()
        self.account.saves()
        flight.state.copied.wait()
        self.account.computes(flight.step + 1)
        flight.stall_seconds += time.monotonic() - began

    def _end_flight(self) -> None:
        """Waits for the checkpoint that is on its way, and tells of it. Raises what ends the run."""
        flight = self._flight
        if flight is None:
            return
        flight.ended.wait()
        self._flight = None
        match flight.end:
            case Saved() as saved:
                self.failures, self._last = 0, saved.manifest
                self.told.checkpoint(dataclasses.replace(saved, stall_seconds=flight.stall_seconds))
            case _Fault() as fault:
                self.failures += 1
                tries_left = MOST_FAILURES - self.failures if fault.temporary else 0
                if not isinstance(fault.error, Superseded):
                    self.told.checkpoint_failed(Failed(flight.step, fault.error, tries_left))
                if not tries_left:
                    raise fault.seen_by(self.group.place.rank)
            case error:
                assert error is not None, "whoever sets `ended` has set `end`"
                raise error

    # What follows is done by the thread.

    def _run(self, flight: _Flight) -> None:
        try:
            flight.end = self._bring(flight)
        except BaseException as error:
            flight.end = error
        finally:
            flight.ended.set()

    def _bring(self, flight: _Flight) -> Saved | _Fault:
        """Brings a checkpoint to storage. Raises RuntimeError if another process is gone, and what is a fault of ours."""
        ours: list[RankFile] | UserError
        bug = None
        try:
            ours = self._files(flight)
        except UserError as error:
            ours = error
        except Exception as error:
            ours, bug = PeerLost(f"{PEER_LEFT}: {type(error).__name__}: {error}"), error
        gathered = self.behind.gather(ours)
        if bug is not None:
            raise bug
        faults = [_Fault(rank, files) for rank, files in enumerate(gathered) if isinstance(files, UserError)]
        if faults:
            return min(faults, key=lambda fault: fault.temporary)
        manifest = self._manifest(flight, tuple(file for files in gathered for file in files))
        try:
            self.behind.from_first(lambda: self._commit(flight, manifest))
        except UserError as error:
            return _Fault(0, error)
        return Saved(manifest, 0.0, time.monotonic() - flight.began, time.time())

    def _files(self, flight: _Flight) -> list[RankFile]:
        """This process's files, in storage. One after the other is on local disk."""
        flight.state.copy_rest()
        place, rank = checkpoint.folder(flight.step, self.attempt), self.group.place.rank
        files = []
        try:
            for name in sorted(flight.state.files):
                path = self.local / name
                size, sha256 = self._written(flight, path)
                self.storage.upload(path, f"{place}/{name}")
                path.unlink()
                files.append(RankFile(name=name, size=size, sha256=sha256, rank=rank))
        finally:
            # A full disk must not stay full: the next try, and the message about it, need room.
            shutil.rmtree(self.local, ignore_errors=True)
        return files

    def _written(self, flight: _Flight, path: Path) -> tuple[int, str]:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return write_hashed(flight.state.files[path.name], path)
        except OSError as error:
            raise StorageError(
                f"cannot write the checkpoint of step {flight.step} to local disk {self.local} ({error.strerror or error}); free some "
                "space there or set TMPDIR to a larger disk, and start again: the checkpoints before it are kept",
                temporary=True,
            ) from None

    def _manifest(self, flight: _Flight, files: tuple[RankFile, ...]) -> CheckpointManifest:
        training, batch = self.plan.job.spec.training, self.plan.batch
        return CheckpointManifest(
            step=flight.step,
            attempt=self.attempt.number,
            start=self.attempt.start,
            tokens=flight.step * batch.tokens,
            next_sample=past(self.attempt.skipped, flight.step * batch.samples),
            skipped=self.attempt.skipped,
            world_size=batch.world_size,
            zero_stage=training.deepspeed.zero_stage,
            seed=training.seed,
            configuration=self.plan.stage_identity,
            identity=self.plan.checkpoint_identity,
            parent=self.parent,
            measures=flight.measures,
            segments=self.segments,
            files=files,
        )

    def _commit(self, flight: _Flight, manifest: CheckpointManifest) -> None:
        """What leads up to the step is in storage before its checkpoint is one. What cannot be deleted is no fault of it."""
        flight.publish()
        checkpoint.commit(self.storage, self.attempt, manifest)
        try:
            self._delete_others(manifest)
        except StorageError as error:
            LOG.warning("%s; it is tried again after the next checkpoint", error)

    def _delete_others(self, manifest: CheckpointManifest) -> None:
        """Deletes what this checkpoint has made needless. Raises Superseded if a newer attempt has begun."""
        for place in self.refused:
            checkpoint.remove(self.storage, self.attempt, place)
        self.refused = ()
        in_use = [self.parent.folder] if self.parent else []
        checkpoint.retain(self.storage, self.attempt, self.plan.job.spec.training.checkpoints, in_use)
        self.committed(manifest)


def _segments(plan: RunPlan, resume: Resume | None) -> tuple[Segment, ...]:
    """How the steps so far were trained, and how those to come will be."""
    training = plan.job.spec.training
    now = Segment(
        first_step=resume.manifest.step if resume else 0,
        world_size=plan.batch.world_size,
        settings={
            "tokens": training.tokens,
            "optimizer": training.optimizer.model_dump(mode="json"),
            "schedule": training.schedule.model_dump(mode="json"),
        },
    )
    before = resume.manifest.segments if resume else ()
    if before and (before[-1].world_size, before[-1].settings) == (now.world_size, now.settings):
        return before
    return (*before, now)
