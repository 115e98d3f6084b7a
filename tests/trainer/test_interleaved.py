"""Two attempts at one storage, stopped between any two of their requests: what is committed, by whom, and what is left of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.store import MemoryStore
from pretrain_stage import uploads
from pretrain_stage.storage import Storage
from pretrain_trainer import checkpoint, commit_log
from pretrain_trainer.checkpoint import CheckpointManifest, Folder
from pretrain_trainer.commit_log import Attempt, Superseded
from pretrain_trainer.config.sections import Checkpoints

from tests.trainer.rank_files import put_rank_file

REQUESTS = ("put", "get", "head", "list", "list_with_delimiter", "delete")

Before = Callable[[int], None]


class Killed(BaseException):
    """The process is gone."""


class Here(threading.local):
    """What happens before this thread's requests, by their number."""

    before: Before | None = None
    requests = 0


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> Here:
    """Has each request to storage stopped at first, as the thread that makes it wants."""
    own = Here()

    def stopped(request: Callable[..., Any]) -> Callable[..., Any]:
        def made(*args: Any, **kwargs: Any) -> Any:
            if own.before is not None:
                own.before(own.requests)
                own.requests += 1
            return request(*args, **kwargs)

        return made

    for name in REQUESTS:
        monkeypatch.setattr(obstore, name, stopped(getattr(obstore, name)))
    monkeypatch.setattr(uploads, "unfinished", lambda *_: [])  # they are beside what a client of objects sees
    return own


def new_storage() -> Storage:
    return Storage("memory", MemoryStore())  # type: ignore[arg-type]


def save(storage: Storage, attempt: Attempt, step: int, local: Path) -> None:
    """What a run does at a checkpoint."""
    place = checkpoint.folder(step, attempt)
    file = put_rank_file(storage, place, local / f"rank_{attempt.number}.pt", 0)
    manifest = CheckpointManifest(
        step=step,
        attempt=attempt.number,
        start=attempt.start,
        tokens=0,
        next_sample=0,
        world_size=1,
        zero_stage=0,
        seed=1,
        identity={},
        measures={},
        segments=(),
        files=(file,),
    )
    checkpoint.commit(storage, attempt, manifest)
    checkpoint.retain(storage, attempt, Checkpoints(keepLast=1))


def older(storage: Storage, local: Path) -> bool:
    """Attempt 1: two checkpoints. Whether it came to its end."""
    try:
        attempt = checkpoint.begin(storage, 1)
        for step in (2, 4):
            save(storage, attempt, step, local)
    except Superseded:
        return False
    return True


def newer(storage: Storage, local: Path) -> list[Folder]:
    """Attempt 2: reads what is there, and makes one more. What it has read."""
    attempt = checkpoint.begin(storage, 2)
    found = checkpoint.committed(storage)
    for place in found[:1]:
        whole(storage, place, local)
    save(storage, attempt, 6, local)
    return found


def whole(storage: Storage, place: Folder, local: Path) -> None:
    manifest = checkpoint.read_checkpoint(storage, place)
    checkpoint.fetch_files(storage, manifest, manifest.files, local / f"of-{threading.get_ident()}")


def entries(storage: Storage) -> Iterator[commit_log.Entry]:
    for slot in range(1, commit_log.last(storage).slot + 1):
        yield commit_log.read(storage, slot)


def commits_before_2(storage: Storage) -> list[int]:
    """Steps that attempt 1 has committed, which it may before the beginning of attempt 2 alone."""
    log = [(entry.kind, entry.attempt, entry.step) for entry in entries(storage)]
    begun = log.index(("begin", 2, None))
    assert all(attempt == 2 for _, attempt, _ in log[begun:]), log
    assert log[-1] == ("commit", 2, 6)
    return [step for kind, _, step in log[:begun] if kind == "commit" and step is not None]


def check(storage: Storage, found: list[Folder], local: Path) -> None:
    """Nothing half-committed counts; attempt 2 had all that was committed before it, and its own is whole."""
    before = commits_before_2(storage)
    assert [place.step for place in found[:1]] == before[-1:]
    assert checkpoint.committed(storage)[0] == Folder(6, 2)
    whole(storage, Folder(6, 2), local)


@pytest.fixture
def local(tmp_path: Path) -> Path:
    for number in (1, 2):
        (tmp_path / f"rank_{number}.pt").write_bytes(b"of attempt %d" % number)
    return tmp_path


def requests_of(here: Here, program: Callable[[Storage, Path], object], local: Path, storage: Storage) -> int:
    here.before, here.requests = lambda number: None, 0
    program(storage, local)
    here.before = None
    return here.requests


def test_killed_before_any_request(here: Here, local: Path) -> None:
    for killed in range(requests_of(here, older, local, new_storage())):
        storage = new_storage()

        def before(number: int, killed: int = killed) -> None:
            if number == killed:
                raise Killed

        here.before, here.requests = before, 0
        with pytest.raises(Killed):
            older(storage, local)
        here.before = None
        check(storage, newer(storage, local), local)


def test_cut_off_before_any_request_and_back_when_another_has_finished(here: Here, local: Path) -> None:
    for stopped in range(requests_of(here, older, local, new_storage())):
        storage = new_storage()
        found: list[Folder] = []

        def before(number: int, stopped: int = stopped, storage: Storage = storage, found: list[Folder] = found) -> None:
            if number == stopped:
                here.before = None
                found += newer(storage, local)

        here.before, here.requests = before, 0
        ended = older(storage, local)
        check(storage, found, local)
        assert not ended or commits_before_2(storage) == [2, 4], "else it would have had something left to commit"


def test_two_interleaved_at_every_point(here: Here, local: Path) -> None:
    """The older one stops before request i, the newer one then before request j; the older one goes on to its end."""
    first = requests_of(here, older, local, new_storage())
    taken = new_storage()
    older(taken, local)
    second = requests_of(here, newer, local, taken)
    for i in range(first):
        for j in range(i % 7, second, 7):  # spread over all pairs
            storage = new_storage()
            found: list[Folder] = []
            stopped, goes_on = threading.Event(), threading.Event()

            def later(
                j: int = j,
                storage: Storage = storage,
                found: list[Folder] = found,
                stopped: threading.Event = stopped,
                goes_on: threading.Event = goes_on,
            ) -> None:
                def before(number: int) -> None:
                    if number == j:
                        stopped.set()
                        goes_on.wait(60)

                here.before, here.requests = before, 0
                found += newer(storage, local)
                stopped.set()

            thread = threading.Thread(target=later)

            def before(
                number: int, i: int = i, thread: threading.Thread = thread, stopped: threading.Event = stopped
            ) -> None:
                if number == i:
                    here.before = None
                    thread.start()
                    stopped.wait(60)

            here.before, here.requests = before, 0
            older(storage, local)
            goes_on.set()
            thread.join(60)
            assert checkpoint.committed(storage)[0] == Folder(6, 2), (i, j)
            whole(storage, Folder(6, 2), local)
            commits_before_2(storage)
