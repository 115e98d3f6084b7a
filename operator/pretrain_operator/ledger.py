"""Where a job's wall time has gone: its ledger brought up to date from what is observed. Pure.

Nothing is remembered but what the status says: the open interval is cut at the times that objects themselves tell (a pod was
made, scheduled, started, ended; a workload was made, suspended, completed), and what training pods tell of their own time is
booked up to the moment at which it was heard. So an operator that comes late books what a prompt one would have.

Where nothing tells of a change the state that was open goes on. While a training pod tells its own account, what came after its
last word stays open, and is booked when it is next heard, or has ended.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise

from pretrain_stage.ledger import State

from pretrain_operator.books import OF_THE_TRAINER, STALL, Books, account_of, in_seconds
from pretrain_operator.conditions import moment, timestamp
from pretrain_operator.facts import Pod, Workload
from pretrain_operator.observed import Progress
from pretrain_operator.stages import TRAINING
from pretrain_operator.status import Goodput, PretrainJobStatus, ToldAccount
from pretrain_operator.timeline import Ended, Timeline, milliseconds, timeline

DRIFT = 2_000
"""Milliseconds by which a pod and the operator may differ about the time between two words; times have whole seconds."""


@dataclass(frozen=True)
class Word:
    """What a training pod told of itself: milliseconds of its life, by state."""

    pod: str
    attempt: int
    account: Mapping[State, int]
    at: int


@dataclass(frozen=True)
class Scene:
    """What is seen of a job, as far as its ledger goes."""

    created: int
    timeline: Timeline
    words: Sequence[Word]
    """In the order of time."""
    first_pods: Mapping[str, tuple[int, int | None]]
    """When the first pods of training groups, by uid, were made and ended."""
    training_began: int | None
    trained: bool
    finished: int | None


def scene(
    created: datetime,
    nodes: int,
    status: PretrainJobStatus,
    workloads: Sequence[Workload],
    pods: Sequence[Pod],
    heard: Progress | None,
) -> Scene:
    """What is seen of a job of which this is said. nodes: pods of its training group."""
    halt = next((one for one in status.conditions if one.type == "Suspended" and one.status == "True"), None)
    began = next((one.start_time for one in status.stages if one.name == TRAINING), None)
    known = {one.uid: one.attempt for one in pods if one.stage == TRAINING}
    if status.goodput is not None and status.goodput.group is not None:
        known.setdefault(status.goodput.group.pod, status.goodput.group.attempt)
    return Scene(
        created=milliseconds(created),
        timeline=timeline(nodes, pods, workloads, _ended(status), _when(halt.last_transition_time if halt else None)),
        words=sorted((*_said(heard, known), *_last_words(pods)), key=lambda word: word.at),
        first_pods={
            one.uid: (milliseconds(one.created), None if one.gone is None else milliseconds(one.gone))
            for one in pods
            if one.stage == TRAINING and one.index == 0
        },
        training_began=_when(began),
        trained=_trained(status),
        finished=_when(status.completion_time),
    )


def account(before: Goodput | None, scene: Scene, now: datetime) -> Goodput:
    """The ledger until now, or until the job was finished. What is booked adds up to `since` minus its creation, exactly.

    before: what the status says, which may be long ago; None: nothing yet.
    """
    books, attempt = _opened(before, scene), _attempt(before)
    end = max(books.since, milliseconds(now) if scene.finished is None else scene.finished)
    for word in scene.words:
        if books.since < word.at <= end:
            books, attempt = _heard(books, scene, word), word.attempt
    return _written(_seen(books, scene, end), attempt, scene, end)


def _ended(status: PretrainJobStatus) -> Ended | None:
    """The attempt that ended last, if another one has followed or will."""
    if (
        _trained(status)
        or not status.restarts
        or status.training is None
        or status.restarts[-1].attempt >= status.training.attempt
    ):
        return None
    last = status.restarts[-1]
    return Ended(last.attempt, _when(last.time) or 0, last.reason == "Suspended")


def _trained(status: PretrainJobStatus) -> bool:
    return any(one.name == TRAINING and one.state == "Succeeded" for one in status.stages)


def _said(heard: Progress | None, known: Mapping[str, int]) -> Iterator[Word]:
    """What a training pod of this job was heard to say while it ran."""
    if heard is not None and heard.seconds and heard.pod in known:
        yield Word(heard.pod, known[heard.pod], account_of(heard.seconds), milliseconds(heard.at))


def _last_words(pods: Sequence[Pod]) -> Iterator[Word]:
    """What the first pod of a group leaves when it ends well (launch.py)."""
    for pod in pods:
        if pod.stage != TRAINING or pod.index != 0 or pod.exit_code != 0 or pod.gone is None:
            continue
        try:
            said = json.loads(pod.message)
        except ValueError:
            continue
        told = account_of(said.get("seconds")) if isinstance(said, dict) else {}
        if told:
            yield Word(pod.uid, pod.attempt, told, milliseconds(pod.gone))


def _opened(before: Goodput | None, scene: Scene) -> Books:
    if before is None:
        return Books(scene.created, "queued")
    group = before.group
    return Books(
        since=_when(before.since) or scene.created,
        state=before.state or "queued",
        booked=account_of(before.seconds),
        teller=group.pod if group is not None else None,
        told=account_of(group.seconds) if group is not None else {},
    )


def _attempt(before: Goodput | None) -> int:
    return before.group.attempt if before is not None and before.group is not None else 1


def _heard(books: Books, scene: Scene, word: Word) -> Books:
    """Books what a pod tells. What was before a program began that is heard for the first time is seen from outside."""
    begin = word.at - sum(books.news(word.pod, word.account).values())
    if books.teller != word.pod:
        books = _seen(books, scene, max(books.since, begin))
    elif begin - books.since > DRIFT:
        books = books.until(begin, "stalled")
    return books.hear(word.pod, word.account, word.at)


def _seen(books: Books, scene: Scene, end: int) -> Books:
    """Books what can be seen from outside until `end`, and says the state from then on."""
    since = books.since
    for at, until in pairwise([since, *scene.timeline.cuts(since, end), end]):
        tells, state = _tells(books, scene, at), scene.timeline.state(at, since)
        if tells and until == end and scene.finished is None and _tells(books, scene, end):
            return books  # the rest is the program's to tell
        silent = tells or (state is None and not scene.trained and books.state in OF_THE_TRAINER)
        books = books.unheard(until) if silent else books.until(until, state or books.state)
    return replace(books, state=scene.timeline.state(end, end) or "queued")


def _tells(books: Books, scene: Scene, at: int) -> bool:
    """Whether a program that was heard before is there to tell its account."""
    made, gone = scene.first_pods.get(books.teller or "", (at + 1, None))
    return made <= at and (gone is None or at < gone) and scene.timeline.group(at) in ("initializing", "productive")


def _written(books: Books, attempt: int, scene: Scene, end: int) -> Goodput:
    silent = end - books.since > STALL  # nothing but a program that says no more leaves so much open
    group = None if books.teller is None else ToldAccount(pod=books.teller, attempt=attempt, seconds=in_seconds(books.told))
    return Goodput(
        state=books.state if scene.finished is None else None,
        since=timestamp(datetime.fromtimestamp(books.since / 1000, UTC)),
        seconds=in_seconds(books.booked),
        group=group,
        ratio=_ratio(books, scene, end if silent else books.since),
    )


def _ratio(books: Books, scene: Scene, end: int) -> float | None:
    """The productive share of all since training first began; None before its first step."""
    productive = books.booked.get("productive", 0)
    if not productive or scene.training_began is None or end <= scene.training_began:
        return None
    return round(min(1.0, productive / (end - scene.training_began)), 4)


def _when(text: str | None) -> int | None:
    time = moment(text)
    return None if time is None else milliseconds(time)
