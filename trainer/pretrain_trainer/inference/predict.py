"""A file of records to a file of answers, in the same order. It may be killed at any time and goes on where it was.

Records are read a window at a time; those of about the same length are answered together, and the window's answers written in
the records' order. Then they are committed: a small file beside the answers says how far records and answers go, of what model
and options. What was written after the last commit is thrown away by the next run, which therefore makes the same batches, and
ends with the same bytes.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from pretrain_stage.errors import UserError
from pretrain_stage.storage import file_sha256

from pretrain_trainer.inference.answering import Answer, AnsweringModel, BadRecord, Question

WINDOW_RECORDS, WINDOW_BYTES, WINDOW_BATCHES = 4096, 16 * 1024 * 1024, 8
"""Most records of a window, their bytes, and full batches that they may make: what a kill can cost."""
LINE_BYTES = 16 * 1024 * 1024
"""Most of a record: a longer line is no record but a mistake."""
REVISION = 1
"""Raised when the same records get other answers."""


@dataclass(frozen=True)
class Piece:
    """Lines of a file: those whose first byte is from `start` up to `stop`."""

    path: Path
    start: int
    stop: int


@dataclass(frozen=True)
class Identity:
    """All that decides the answers."""

    model: str
    """Digest of the model."""
    options: Mapping[str, Any]
    records: str
    """Digest of the records."""
    revision: int = REVISION


@dataclass(frozen=True)
class Tally:
    """How far the work is, and what came of it."""

    records: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    new_tokens: int = 0
    read_bytes: int = 0
    """Of the records."""


@dataclass(frozen=True)
class Commit:
    """What can be relied on."""

    identity: Identity
    piece: int = 0
    offset: int = 0
    """Where the next record begins: in which piece, at which byte of its file."""
    written_bytes: int = 0
    sha256: str = hashlib.sha256().hexdigest()
    """Of the answers so far."""
    tally: Tally = field(default_factory=Tally)
    finished: bool = False


@dataclass(frozen=True)
class Line:
    """A line of the input, and where the next one begins."""

    data: bytes
    piece: int
    next_offset: int
    read_bytes: int


@dataclass(frozen=True)
class Asked:
    """A line as a question to the model, or what is wrong with it."""

    line: Line
    said: Answer
    """What its answer says whatever the model does: the record's id, an error."""
    question: Question | None
    cost: int = 0


def predict(
    pieces: Sequence[Piece],
    out: Path,
    identity: Identity,
    model: Callable[[], AnsweringModel],
    batch_tokens: int,
    seed: int,
    tell: Callable[[Tally], None],
) -> Tally:
    """Answers the records of all pieces, one after the other, into `out`. Returns what came of it.

    model: loads the model; not called if there is nothing to do. tell: told what there is when work
    begins, and after each window. Raises UserError if `out` has
    answers of another model, other options or other records, or if another program is at it.
    """
    part, progress = part_of(out), progress_of(out)
    commit = read_commit(progress)
    check_commit(commit, identity, out)
    if commit is not None and commit.finished and out.exists():
        return unchanged(out, commit)
    with claimed(part, out) as file:
        commit = read_commit(progress) or Commit(identity)
        if commit.finished and out.exists():  # by another program, since this one looked
            part.unlink()
            return unchanged(out, commit)
        digest = restore(file, commit, out)
        if not commit.finished:
            answering = model()
            tell(commit.tally)
            asked = (ask(answering, line, seed) for line in lines(pieces, commit.piece, commit.offset))
            for window in windows(asked, batch_tokens):
                answers = answered(answering, window, batch_tokens)
                data = b"".join(json.dumps(answer, ensure_ascii=False).encode() + b"\n" for answer in answers)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                digest.update(data)
                commit = replace(
                    commit,
                    piece=window[-1].line.piece,
                    offset=window[-1].line.next_offset,
                    written_bytes=commit.written_bytes + len(data),
                    sha256=digest.hexdigest(),
                    tally=add(commit.tally, answers, window),
                )
                write_commit(progress, commit)
                tell(commit.tally)
            write_commit(progress, replace(commit, finished=True))
        part.replace(out)
        return commit.tally


def part_of(out: Path) -> Path:
    """Where the answers are until all are there."""
    return out.with_name(out.name + ".part")


def progress_of(out: Path) -> Path:
    """Where it is written how far they go. It stays beside the answers: it says what they are of."""
    return out.with_name(out.name + ".progress.json")


def check_commit(commit: Commit | None, identity: Identity, out: Path) -> None:
    """Raises UserError if what is there is not the beginning of what is wanted."""
    if out.exists() and (commit is None or not commit.finished):
        raise UserError(f"{out}: there already, and not written by this program; name another file, or delete it")
    if commit is None:
        return
    others = {
        "another model": commit.identity.model != identity.model,
        "other options": dict(commit.identity.options) != dict(identity.options),
        "other records": commit.identity.records != identity.records,
        "another version of this program": commit.identity.revision != identity.revision,
    }
    found = [name for name, differs in others.items() if differs]
    if found:
        raise UserError(
            f"{out}: holds answers of {' and '.join(found)}; name another file, or delete it and {progress_of(out).name} to begin anew"
        )


@contextlib.contextmanager
def claimed(part: Path, out: Path) -> Iterator[IO[bytes]]:
    """The file that answers are written to, for this program alone."""
    try:
        file = part.open("a+b")
    except OSError as error:
        raise UserError(
            f"{out}: cannot be written ({error.strerror}); name a file in a folder that you may write to"
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"{out}: another program is writing it; wait for its end, or name another file") from None
        yield file


def restore(file: IO[bytes], commit: Commit, out: Path) -> hashlib._Hash:
    """Cuts off what was not committed. Returns the digest of the rest, to be continued."""
    file.seek(0)
    digest = hashlib.sha256()
    left = commit.written_bytes
    while left and (data := file.read(min(left, LINE_BYTES))):
        digest.update(data)
        left -= len(data)
    if left or digest.hexdigest() != commit.sha256:
        raise UserError(f"{part_of(out)}: not what was written there; delete it and {progress_of(out).name} to begin anew")
    file.truncate(commit.written_bytes)
    return digest


def unchanged(out: Path, commit: Commit) -> Tally:
    """What came of answers that are all there. Raises UserError if they were changed since."""
    if file_sha256(out) != commit.sha256:
        raise UserError(f"{out}: not what was written there; delete it and {progress_of(out).name} to begin anew")
    return commit.tally


def read_commit(path: Path) -> Commit | None:
    """The last commit, or None if there was none."""
    try:
        found = json.loads(path.read_bytes())
        return Commit(
            **{**found, "identity": Identity(**found["identity"]), "tally": Tally(**found["tally"])},
        )
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError):
        raise UserError(f"{path}: not what was written there; delete it, and the answers, to begin anew") from None


def write_commit(path: Path, commit: Commit) -> None:
    """Replaces the last commit at one stroke."""
    new = path.with_name(path.name + ".new")
    with new.open("w") as file:
        json.dump(asdict(commit), file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def lines(pieces: Sequence[Piece], first: int, offset: int) -> Iterator[Line]:
    """The lines from a place on that are not empty. offset: 0 begins the piece."""
    for number in range(first, len(pieces)):
        piece = pieces[number]
        with piece.path.open("rb") as file:
            place = offset if number == first and offset else _first_line(file, piece.start)
            file.seek(place)
            while place < piece.stop and (data := file.readline(LINE_BYTES + 1)):
                while not data.endswith(b"\n") and (rest := file.readline(LINE_BYTES)):
                    # Its end is only looked for: what is so long is refused, and need not be kept.
                    data = data[: LINE_BYTES + 1] if not rest.endswith(b"\n") else data[: LINE_BYTES + 1] + b"\n"
                after = file.tell()
                if data.strip():
                    yield Line(data, number, after, after - place)
                place = after


def _first_line(file: IO[bytes], start: int) -> int:
    """Where the first line begins that begins at `start` or later."""
    if start:
        file.seek(start - 1)
        while (data := file.readline(LINE_BYTES)) and not data.endswith(b"\n"):
            pass
    return file.tell()


def ask(model: AnsweringModel, line: Line, seed: int) -> Asked:
    """Reads a line."""
    said: Answer = {}
    try:
        record = parse_record(line.data)
        said = {"id": record["id"]} if "id" in record else {}
        question = model.question(record, seed_of(seed, line.data))
    except BadRecord as error:
        return Asked(line, {**said, "error": str(error)}, None)
    return Asked(line, said, question, model.cost(question))


def windows(asked: Iterator[Asked], batch_tokens: int) -> Iterator[list[Asked]]:
    """Questions in groups, which a run that goes on groups alike."""
    window: list[Asked] = []
    size = cost = 0
    for one in asked:
        window.append(one)
        size, cost = size + len(one.line.data), cost + one.cost
        if len(window) == WINDOW_RECORDS or size >= WINDOW_BYTES or cost >= WINDOW_BATCHES * batch_tokens:
            yield window
            window, size, cost = [], 0, 0
    if window:
        yield window


def answered(model: AnsweringModel, window: Sequence[Asked], batch_tokens: int) -> list[Answer]:
    """An answer to each question, in their order."""
    found = [dict(one.said) for one in window]
    costs = {place: one.cost for place, one in enumerate(window) if one.question is not None}
    for batch in batches(costs, batch_tokens):
        questions = [question for place in batch if (question := window[place].question) is not None]
        for place, answer in zip(batch, model.answer(questions), strict=True):
            found[place] |= answer
    return found


def parse_record(line: bytes) -> dict[str, Any]:
    """The object in a line. Raises BadRecord if there is none."""
    if len(line.rstrip(b"\n")) > LINE_BYTES:
        raise BadRecord(f"longer than {LINE_BYTES // 1024 // 1024} MiB; give each record a line of its own")
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise BadRecord(f"not UTF-8 (byte {error.start}); save the file as UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise BadRecord(f"not JSON ({error}); give an object on each line") from None
    if not isinstance(record, dict):
        raise BadRecord(f"no JSON object but {type(record).__name__}; give an object on each line")
    if b"\\ud" in line.lower():
        try:
            json.dumps(record, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise BadRecord("half of a surrogate pair (\\ud800 to \\udfff); write the character as it is") from None
    return record


def seed_of(seed: int, line: bytes) -> int:
    """The seed of one record: what it is asked decides, not where it stands."""
    return int.from_bytes(hashlib.sha256(b"%d " % seed + line.strip()).digest()[:8]) >> 1


def batches(costs: Mapping[int, int], batch_tokens: int) -> Iterator[list[int]]:
    """Places whose records are answered together: longest first, as many as stay within `batch_tokens` with padding."""
    batch: list[int] = []
    for place in sorted(costs, key=lambda one: (-costs[one], one)):
        if batch and (len(batch) + 1) * costs[batch[0]] > batch_tokens:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def add(tally: Tally, answers: Sequence[Answer], window: Sequence[Asked]) -> Tally:
    """The tally after a window."""
    return Tally(
        tally.records + len(answers),
        tally.errors + sum("error" in answer for answer in answers),
        tally.prompt_tokens + sum(len(one.question.tokens) for one in window if one.question is not None),
        tally.new_tokens + sum(answer.get("new_tokens", 0) for answer in answers),
        tally.read_bytes + sum(one.line.read_bytes for one in window),
    )
