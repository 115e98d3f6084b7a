"""Observe, plan, apply: what happens to a job each time it is looked at.

Children first, in the plan's order; then Events; then the status, once, if it changed. A process that ends between any two
of these leaves nothing that the next look does not complete: every write can be repeated, and the status, which comes last,
is derived anew from what exists. What the API server answers to a write goes into the stores like any other news, so that
the next look knows of it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal

from pretrain_operator import reasons
from pretrain_operator.cluster.announce import event
from pretrain_operator.cluster.client import Client
from pretrain_operator.cluster.failures import Failure, Gone, NotLeading, Refused, Stale, Taken, Unavailable
from pretrain_operator.cluster.log import about
from pretrain_operator.cluster.progress import ProgressReader
from pretrain_operator.cluster.stores import Key, Stores, controller, key_of
from pretrain_operator.cluster.work_queue import WorkQueue
from pretrain_operator.events import Announcement
from pretrain_operator.observed import Action, Apply, Body, Delete, Fault, Observed, Patch, Plan, Settings
from pretrain_operator.resources import BY_KIND, PRETRAIN_JOBS

PROGRESS_SECONDS = 15.0
"""Between two writes of a status in which nothing but progress changed."""
STALE_TRIES = 3
"""Looks in a row that find something changed meanwhile before that is called a fault."""

logger = logging.getLogger(__name__)

Outcome = Literal["done", "gone", "fault", "retry"]


@dataclass
class Reconciler:
    """What a look at a job needs. Called by workers, never twice at a time for one key."""

    client: Client
    stores: Stores
    queue: WorkQueue
    progress: ProgressReader
    settings: Settings
    plan: Callable[[Body, Observed, Settings, datetime], Plan]
    events: Callable[[Body, Body], Iterable[Announcement]]
    reporter: str
    """Name of this replica, for Events."""
    now: Callable[[], datetime]
    clock: Callable[[], float]
    _told: dict[Key, float] = field(default_factory=dict)
    """When the status of a job was last written, by `clock`."""
    _same: dict[Key, tuple[Body, Body]] = field(default_factory=dict)
    """The status last sent, and what the API server made of it: the same, perhaps in other words (1.0 is 1)."""

    async def __call__(self, key: Key) -> Outcome:
        """Looks at a job once. Never raises: what goes wrong is said in the job's status, and tried again."""
        job = self.stores.job(key)
        if job is None:
            self._forget(key)
            return "gone"
        try:
            observed = replace(self.stores.observed(job), progress=self.progress.of(key))
            plan = self.plan(job, observed, self.settings, self.now())
            await self._carry_out(job, plan.actions)
            await self._tell(job, plan, urgent=plan.urgent)
        except Exception as error:
            return await self._after(error, job)
        self.queue.forget(key)
        self.progress.follow(key, plan.read_progress)
        if plan.again_seconds is not None:
            self.queue.add(key, plan.again_seconds)
        return "done"

    async def _carry_out(self, job: Body, actions: Iterable[Action]) -> None:
        """The plan's actions, in order."""
        namespace = job["metadata"]["namespace"]
        for action in actions:
            match action:
                case Apply(body):
                    self._check_name(job, body)
                    self._heard(await self.client.apply(body))
                    logger.info("applied %s %s", body["kind"], body["metadata"]["name"], extra=about(job))
                case Patch(kind, name, uid, patch):
                    self._heard(await self.client.patch(BY_KIND[kind], namespace, name, uid, patch))
                    logger.info("patched %s %s: %s", kind, name, patch, extra=about(job))
                case Delete(kind, name):
                    await self._delete(job, action)
                    logger.info("deleted %s %s", kind, name, extra=about(job))

    async def _delete(self, job: Body, action: Delete) -> None:
        resource, key = BY_KIND[action.kind], (job["metadata"]["namespace"], action.name)
        try:
            left = await self.client.delete(
                resource, *key, action.uid, action.propagation, grace_seconds=action.grace_seconds
            )
        except Gone:
            left = {}
        if left.get("kind") == resource.kind:
            self._heard(left)
            return
        known = self.stores.get(action.kind, key)
        if known is not None and known["metadata"]["uid"] == action.uid:
            self._enqueue(self.stores.drop(known))

    def _check_name(self, job: Body, body: Body) -> None:
        """Applying to an object of this name that is not the job's would change what is not ours."""
        kind, key = body["kind"], (body["metadata"]["namespace"], body["metadata"]["name"])
        known = self.stores.get(kind, key)
        if known is None or controller(known) == job["metadata"]["uid"]:
            return
        said = f"{kind} {'/'.join(key)} exists and does not belong to this PretrainJob"
        if known["metadata"].get("deletionTimestamp") is not None or _of_a_namesake(known, job):
            raise Stale(f"{said}: it is left of an earlier one of the same name, and waited for")
        raise Taken(f"{said}; delete it, or give the PretrainJob another name")

    async def _tell(self, job: Body, plan: Plan, *, urgent: bool, then_look: bool = True) -> None:
        """Writes the plan's status if it says anything new, after the Events that go with it.

        then_look: whether the job is looked at again, since a plan may go on from what it has written.
        """
        key, before = key_of(job), job.get("status") or {}
        if plan.status is None or plan.status == before or self._same.get(key) == (plan.status, before):
            return
        wait = self._told.get(key, float("-inf")) + PROGRESS_SECONDS - self.clock()
        if not urgent and wait > 0:
            self.queue.add(key, wait)
            return
        for announcement in self.events(before, plan.status):
            await self._announce(job, before, announcement)
        try:
            written = await self.client.apply(_with_status(job, plan.status), "status", force=True)
        except Gone:
            self._enqueue(self.stores.drop(job))
            return
        self._told[key] = self.clock()
        self._same[key] = (plan.status, written.get("status") or {})
        concerned = self.stores.put(written)
        self._enqueue(concerned if then_look else concerned - {key})

    async def _announce(self, job: Body, before: Body, announcement: Announcement) -> None:
        """Makes an Event. One that cannot be made is only logged: the status says the same, and matters more."""
        try:
            await self.client.apply(event(job, before, announcement, self.reporter, self.now()))
        except Refused as error:
            logger.warning("no Event %s: %s", announcement.reason, error, extra=about(job))

    async def _after(self, error: Exception, job: Body) -> Outcome:
        """What went wrong: into the status where it is worth saying, and the job is looked at again later."""
        key, failures = key_of(job), self.queue.failures(key_of(job)) + 1
        if isinstance(error, NotLeading):
            self.queue.add(key, 1.0)
            return "retry"
        pause = self.queue.retry(key, (isinstance(error, Unavailable) and error.retry_after) or 0.0)
        traceback = None if isinstance(error, Failure) else error
        logger.warning("%s (try %d, the next in %.0f s)", error, failures, pause, extra=about(job), exc_info=traceback)
        if isinstance(error, Stale | Gone) and failures < STALE_TRIES:
            return "retry"
        await self._confess(job, fault_of(error))
        return "fault"

    async def _confess(self, job: Body, fault: Fault) -> None:
        """Writes what is wrong into the job's status, and nothing else."""
        job = self.stores.job(key_of(job)) or job
        observed = replace(self.stores.observed(job), progress=self.progress.of(key_of(job)), fault=fault)
        try:
            await self._tell(job, self.plan(job, observed, self.settings, self.now()), urgent=True, then_look=False)
        except Failure as error:
            logger.warning("%s", error, extra=about(job))
        except Exception:
            logger.exception("the status of a fault could not be made", extra=about(job))

    def _heard(self, body: Body) -> None:
        self._enqueue(self.stores.put(body))

    def _enqueue(self, keys: Iterable[Key]) -> None:
        for key in keys:
            self.queue.add(key)

    def _forget(self, key: Key) -> None:
        self.queue.forget(key)
        self.progress.forget(key)
        self._told.pop(key, None)
        self._same.pop(key, None)


def fault_of(error: Exception) -> Fault:
    """What a status says of an error."""
    match error:
        case Taken():
            return Fault(reasons.NAME_TAKEN, str(error))
        case Unavailable():
            return Fault(reasons.SERVER_UNAVAILABLE, str(error))
        case Failure():
            return Fault(reasons.APPLY_REFUSED, str(error))
        case _:
            cause = f"{type(error).__name__}: {error}"
            return Fault(
                reasons.INTERNAL_ERROR, f"a fault of the operator, not of the job ({cause}); report it with its log"
            )


def _with_status(job: Body, status: Body) -> dict[str, Any]:
    """The job as it is applied to write its status. With the uid, so that a namesake made meanwhile is left alone."""
    metadata = {name: job["metadata"][name] for name in ("name", "namespace", "uid")}
    return {"apiVersion": job["apiVersion"], "kind": job["kind"], "metadata": metadata, "status": status}


def _of_a_namesake(body: Body, job: Body) -> bool:
    """Whether an object was controlled by an earlier PretrainJob of the same name."""
    owners = body["metadata"].get("ownerReferences") or []
    return any(owner.get("kind") == PRETRAIN_JOBS.kind and owner.get("name") == job["metadata"]["name"] for owner in owners)
