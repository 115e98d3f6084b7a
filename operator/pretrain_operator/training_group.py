"""What has become of an attempt to train, and when the next one may begin. Pure.

A training group lives and dies as a whole: if one pod ends early, the others can only be taken away, and the whole group is
started again as the next attempt, which goes on from the newest checkpoint. Who pays for it depends on the cause: a fault of
the group's own uses up training.maxRestarts; a pod that Kubernetes took away, or could not start, does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import takewhile
from typing import Literal

from pretrain_stage.errors import EXIT_STOPPED, EXIT_USER_ERROR, PEER_LEFT

from pretrain_operator.conditions import moment
from pretrain_operator.facts import LOST_NODE, Pod
from pretrain_operator.status import Restart

SETTLE_SECONDS = 10.0
"""How long to wait, after the first pod has failed, for one that says why: an echo can end before its cause."""
FORCE_SECONDS = 60.0
"""How long after its grace period a pod may stay before it counts as lost with its node."""
DELETED_BY_NAME_SECONDS = 3.0
"""How long Kubernetes may take to delete a pod after it has said that it takes it from a lost node. It does so by name alone, and
must not meet the pod of the same name that is made in its place."""
HURRIED_GRACE_SECONDS = 20
"""What pods get to end in that have nothing to save any more, because one of them is gone: a checkpoint needs them all."""
FIRST_BACKOFF = {"Infrastructure": 5.0, "Disruption": 0.0, "Unschedulable": 60.0}
LONGEST_BACKOFF = 600.0

Ending = Literal["Infrastructure", "Disruption", "Unschedulable", "UserError"]


@dataclass(frozen=True)
class Verdict:
    """Why an attempt is over."""

    reason: Ending
    message: str


@dataclass(frozen=True)
class Wait:
    """Nothing is decided yet; look again then."""

    seconds: float


def verdict(
    pods: Sequence[Pod], nodes: int, *, group_failed: str | None, now: datetime, patience: float
) -> Verdict | Wait | None:
    """What pods of the current attempt say of it; None while all is well.

    nodes: pods that the group should have. group_failed: what the workload says of itself, if it says that it has failed.
    patience: seconds that a pod may take to be started.
    """
    failed = [pod for pod in pods if pod.failed]
    mistakes = [pod for pod in failed if pod.exit_code == EXIT_USER_ERROR]
    if mistakes:
        return Verdict("UserError", _said(mistakes[0]))
    taken = [pod for pod in pods if pod.disruption is not None or pod.deleted is not None]
    if taken:
        return Verdict("Disruption", _taken(taken[0]))
    missing = nodes - len(pods) if group_failed is not None else 0
    if missing > 0 and all(pod.exit_code == EXIT_STOPPED for pod in failed):
        return Verdict("Disruption", f"{missing} of {nodes} pods were deleted")
    if failed:
        return _of_failed(pods, failed, now)
    if group_failed is not None:
        return Verdict("Infrastructure", group_failed)
    return _of_hindered(pods, now, patience)


def _of_failed(pods: Sequence[Pod], failed: Sequence[Pod], now: datetime) -> Verdict | Wait:
    """The cause is the pod that failed first for a reason of its own; others may still be about to say it."""
    first_end = min((pod.ended for pod in failed if pod.ended is not None), default=now)
    own = [pod for pod in failed if PEER_LEFT not in pod.message]
    settled = (now - first_end).total_seconds()
    if not own and settled < SETTLE_SECONDS and not all(pod.over for pod in pods):
        return Wait(SETTLE_SECONDS - settled)
    cause = min(own or failed, key=lambda pod: (pod.ended or now, pod.index))
    return Verdict("Infrastructure", _said(cause))


def _of_hindered(pods: Sequence[Pod], now: datetime, patience: float) -> Verdict | Wait | None:
    hindered = [pod for pod in pods if pod.hindrance is not None and pod.phase == "Pending"]
    if not hindered:
        return None
    longest = min(hindered, key=lambda pod: pod.hindrance.since if pod.hindrance else now)
    assert longest.hindrance is not None, "filtered above"
    left = patience - (now - longest.hindrance.since).total_seconds()
    if left > 0:
        return Wait(left)
    return Verdict(
        "Unschedulable",
        f"pod {longest.index} could not be started for {patience:.0f} s ({longest.hindrance.message}); "
        f"the other {len(pods) - len(hindered)} were let go meanwhile",
    )


def _said(pod: Pod) -> str:
    said = pod.message or "it left no message"
    return f"pod {pod.index} ended with {pod.exit_code}: {said}" if pod.exit_code is not None else f"pod {pod.index}: {said}"


def _taken(pod: Pod) -> str:
    if pod.disruption == LOST_NODE:
        return f"pod {pod.index}: node {pod.node} did not answer"
    return f"pod {pod.index} was taken from node {pod.node} ({pod.disruption or 'deleted'})"


def hurried(pod: Pod, now: datetime) -> bool:
    """Whether a pod that has nothing to save still has longer to end than it needs."""
    return not pod.over and (pod.deleted is None or pod.deleted > now + timedelta(seconds=HURRIED_GRACE_SECONDS))


def lost(pod: Pod, now: datetime) -> bool:
    """Whether a pod can no longer say that it has ended, because its node is gone: only force removes it.

    Kubernetes says that it takes a pod from a lost node a moment before it deletes the pod.
    """
    if pod.over:
        return False
    overstays = pod.deleted is not None and now > pod.deleted + timedelta(seconds=FORCE_SECONDS)
    return pod.disruption == LOST_NODE or overstays


def forced(pod: Pod, now: datetime) -> bool:
    """Whether to remove a lost pod by force now."""
    if not lost(pod, now):
        return False
    return pod.disruption != LOST_NODE or pod.gone is None or now >= pod.gone + timedelta(seconds=DELETED_BY_NAME_SECONDS)


def not_before(restarts: Sequence[Restart]) -> datetime | None:
    """When the next attempt may begin: later each time in a row that an attempt ended for the same reason and got nowhere."""
    if not restarts or restarts[-1].reason not in FIRST_BACKOFF:
        return None
    last = restarts[-1]
    in_a_row = sum(1 for _ in takewhile(lambda one: _same(one, last), reversed(restarts)))
    ended = moment(last.time)
    assert ended is not None, "a restart has a time"
    return ended + timedelta(seconds=min(LONGEST_BACKOFF, FIRST_BACKOFF[last.reason] * 2 ** (in_a_row - 1)))


def _same(one: Restart, last: Restart) -> bool:
    return one.reason == last.reason and one.checkpoint_step == last.checkpoint_step
