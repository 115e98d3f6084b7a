"""A file of records to a file of answers: order, bad records, kills at any time, and what may not be continued."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from pretrain_stage.errors import UserError
from pretrain_trainer.generate import Sampling
from pretrain_trainer.inference import predict as predicting
from pretrain_trainer.inference.answering import Answer, AnsweringModel, BadRecord, Question, Settings
from pretrain_trainer.inference.folder import open_model_folder
from pretrain_trainer.inference.load import load_model
from pretrain_trainer.inference.predict import Identity, Piece, Tally, part_of, predict, progress_of

IDENTITY = Identity("model", {"temperature": 0}, "records")


class Killed(Exception):
    """As if the program had been killed."""


class Repeating(AnsweringModel):
    """Answers with the prompt; may be killed after some batches."""

    name = "repeating"

    def __init__(self, batches: int = 10**9) -> None:
        self.left = batches
        self.asked: list[int] = []

    def question(self, record: Mapping[str, Any], seed: int) -> Question:
        if "prompt" not in record:
            raise BadRecord("no field prompt; give the record one")
        return Question(tuple(record["prompt"].encode()), seed)

    def cost(self, question: Question) -> int:
        return len(question.tokens)

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        if not self.left:
            raise Killed
        self.left -= 1
        self.asked.append(len(questions))
        # The batch is told, for a run that goes on must make the same.
        return [
            {"answer": bytes(one.tokens).decode(), "seed": one.seed, "new_tokens": 2, "beside": len(questions)}
            for one in questions
        ]


def write(path: Path, lines: Sequence[str | bytes]) -> Path:
    path.write_bytes(b"".join((line if isinstance(line, bytes) else line.encode()) + b"\n" for line in lines))
    return path


@pytest.fixture
def records(tmp_path: Path) -> Path:
    chance = random.Random(3)
    lines = [json.dumps({"id": number, "prompt": "x" * chance.randrange(1, 60)}) for number in range(90)]
    return write(tmp_path / "in.jsonl", lines)


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predicting, "WINDOW_RECORDS", 16)


def whole(path: Path) -> list[Piece]:
    return [Piece(path, 0, path.stat().st_size)]


def run(
    records: Path,
    out: Path,
    model: AnsweringModel | None = None,
    identity: Identity = IDENTITY,
    tell: Callable[[Tally], None] = lambda tally: None,
) -> Tally:
    return predict(whole(records), out, identity, lambda: model or Repeating(), 200, 1, tell)


def answers(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_answers_are_in_the_order_of_the_records(records: Path, tmp_path: Path) -> None:
    model = Repeating()
    told: list[Tally] = []
    tally = run(records, tmp_path / "out.jsonl", model, tell=told.append)
    asked = [json.loads(line) for line in records.read_text().splitlines()]
    assert [(one["id"], one["answer"]) for one in answers(tmp_path / "out.jsonl")] == [
        (one["id"], one["prompt"]) for one in asked
    ]
    prompt_tokens = sum(len(one["prompt"]) for one in asked)
    assert tally == Tally(90, 0, prompt_tokens, 180, records.stat().st_size) == told[-1]
    assert [one.records for one in told] == [0, 16, 32, 48, 64, 80, 90]
    assert max(model.asked) > 3
    assert not part_of(tmp_path / "out.jsonl").exists()


def test_a_window_ends_with_so_many_batches(records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So a slow model loses no more by a kill than a quick one."""
    monkeypatch.setattr(predicting, "WINDOW_BATCHES", 1)
    told: list[Tally] = []
    tally = run(records, tmp_path / "out.jsonl", tell=told.append)
    read = [later.prompt_tokens - earlier.prompt_tokens for earlier, later in pairwise(told)]
    assert all(200 <= tokens < 260 for tokens in read[:-1])
    assert (tally.records, tally.prompt_tokens) == (90, sum(read))


def test_batches_hold_records_of_about_the_same_length() -> None:
    costs = {0: 100, 1: 5, 2: 90, 3: 5, 4: 300, 5: 6}
    assert list(predicting.batches(costs, 200)) == [[4], [0, 2], [5, 1, 3]]
    assert list(predicting.batches({}, 200)) == []


def test_a_bad_record_has_an_error_in_its_place(tmp_path: Path) -> None:
    lines: list[str | bytes] = [
        '{"id": "a", "prompt": "one"}',
        "not json",
        b'{"prompt": "\xff"}',
        "[1]",
        "",
        '{"id": 5, "text": "two"}',
        '{"prompt": "\\ud800"}',
        '{"prompt": "\\ud83c\\udf89"}',
    ]
    tally = run(write(tmp_path / "in.jsonl", lines), tmp_path / "out.jsonl")
    found = answers(tmp_path / "out.jsonl")
    assert [one.get("answer") for one in found] == ["one", None, None, None, None, None, "🎉"], "an empty line is no record"
    said = [one["error"] for one in found if "error" in one]
    expected = ["not JSON", "not UTF-8 (byte 12)", "no JSON object but list", "no field prompt", "half of a surrogate pair"]
    assert all(text.startswith(start) for text, start in zip(said, expected, strict=True))
    assert found[4] == {"id": 5, "error": "no field prompt; give the record one"}
    assert (tally.records, tally.errors) == (7, 5)


def test_a_line_that_is_too_long_is_refused_and_the_next_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predicting, "LINE_BYTES", 50)
    lines = [json.dumps({"prompt": "x" * size}) for size in (10, 36, 37, 200, 11)]
    assert len(lines[1]) == 50
    run(write(tmp_path / "in.jsonl", lines), tmp_path / "out.jsonl")
    assert [len(one.get("answer", "")) for one in answers(tmp_path / "out.jsonl")] == [10, 36, 0, 0, 11]


def test_an_empty_file_and_one_without_a_last_newline(tmp_path: Path) -> None:
    empty = write(tmp_path / "empty.jsonl", [])
    assert run(empty, tmp_path / "none.jsonl").records == 0
    assert (tmp_path / "none.jsonl").read_bytes() == b""
    assert run(empty, tmp_path / "none.jsonl").records == 0, "again"
    (tmp_path / "in.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"}')
    run(tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    assert [one["answer"] for one in answers(tmp_path / "out.jsonl")] == ["a", "b"]


@pytest.mark.parametrize("tasks", [1, 2, 3, 7, 200])
def test_shares_of_a_file_are_all_of_it_once(records: Path, tmp_path: Path, tasks: int) -> None:
    size = records.stat().st_size
    bounds = [size * number // tasks for number in range(tasks + 1)]
    for number in range(tasks):
        piece = Piece(records, bounds[number], bounds[number + 1])
        predict([piece], tmp_path / f"{number:05d}", IDENTITY, Repeating, 200, 1, lambda tally: None)
    found = [one for number in range(tasks) for one in answers(tmp_path / f"{number:05d}")]
    assert [one["id"] for one in found] == list(range(90))


def test_a_run_goes_on_where_it_was_and_ends_with_the_same_bytes(records: Path, tmp_path: Path) -> None:
    expected = tmp_path / "undisturbed.jsonl"
    model = Repeating()
    run(records, expected, model)
    all_batches = len(model.asked)
    out = tmp_path / "out.jsonl"
    redone = 0
    for _ in range(all_batches):
        model = Repeating(batches=all_batches // 3)
        try:
            run(records, out, model)
        except Killed:
            redone += len(model.asked)
            assert not out.exists(), "what is not whole does not bear the name"
            with part_of(out).open("ab") as file:
                file.write(b'{"answer": "half wr')
        else:
            break
    assert out.read_bytes() == expected.read_bytes()
    assert redone > 0
    idle = Repeating(batches=0)
    assert run(records, out, idle).records == 90, "a finished run is told again, and nothing is asked"


@pytest.mark.parametrize("last", ["finished", "renamed"])
def test_killed_between_the_last_answer_and_its_name(records: Path, tmp_path: Path, last: str) -> None:
    out = tmp_path / "out.jsonl"
    run(records, out)
    data = out.read_bytes()
    if last == "finished":
        out.rename(part_of(out))
    else:
        part_of(out).touch()
    assert run(records, out, Repeating(batches=0)).records == 90
    assert out.read_bytes() == data


@pytest.mark.parametrize(
    ("identity", "words"),
    [
        (Identity("other", {"temperature": 0}, "records"), "answers of another model;"),
        (Identity("model", {"temperature": 1}, "records"), "answers of other options;"),
        (Identity("model", {"temperature": 0}, "others"), "answers of other records;"),
        (Identity("other", {"temperature": 0}, "others"), "answers of another model and other records;"),
        (Identity("model", {"temperature": 0}, "records", 0), "another version of this program"),
    ],
)
@pytest.mark.parametrize("batches", [5, 10**9], ids=["begun", "finished"])
def test_what_was_begun_with_something_else_is_not_continued(
    records: Path, tmp_path: Path, identity: Identity, words: str, batches: int
) -> None:
    out = tmp_path / "out.jsonl"
    try:
        run(records, out, Repeating(batches))
    except Killed:
        assert progress_of(out).exists()
    with pytest.raises(UserError, match=words) as refused:
        run(records, out, Repeating(0), identity)
    assert "delete it and out.jsonl.progress.json to begin anew" in str(refused.value)


def test_files_of_others_are_not_overwritten(records: Path, tmp_path: Path) -> None:
    out = write(tmp_path / "out.jsonl", ["precious"])
    with pytest.raises(UserError, match="there already, and not written by this program"):
        run(records, out)
    assert out.read_text() == "precious\n"
    with pytest.raises(UserError, match=r"cannot be written \(No such file or directory\)"):
        run(records, tmp_path / "nowhere" / "out.jsonl")


def test_answers_that_were_changed_are_not_trusted(records: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with pytest.raises(Killed):
        run(records, out, Repeating(8))
    data = part_of(out).read_bytes()
    part_of(out).write_bytes(b"!" + data[1:])
    with pytest.raises(UserError, match="not what was written there; delete it and"):
        run(records, out)
    part_of(out).write_bytes(data)
    run(records, out)
    out.write_bytes(out.read_bytes() + b"x")
    with pytest.raises(UserError, match="not what was written there; delete it and"):
        run(records, out)
    progress_of(out).write_text("{")
    with pytest.raises(UserError, match="not what was written there; delete it, and the answers"):
        run(records, out)


def test_two_programs_do_not_write_the_same_file(records: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"

    class Intruding(Repeating):
        def answer(self, questions: Sequence[Question]) -> list[Answer]:
            with pytest.raises(UserError, match="another program is writing it"):
                run(records, out)
            return super().answer(questions)

    assert run(records, out, Intruding()).records == 90


def test_a_seed_is_of_what_is_asked() -> None:
    assert predicting.seed_of(1, b'{"prompt": "a"}\n') == predicting.seed_of(1, b'{"prompt": "a"}')
    assert predicting.seed_of(1, b'{"prompt": "a"}') != predicting.seed_of(2, b'{"prompt": "a"}')
    assert 0 <= predicting.seed_of(1, b"x") < 2**63


def test_killed_at_any_time_it_ends_with_the_same_bytes(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real model that samples, in a process that is killed twice: soon after it wrote something, and later."""
    monkeypatch.setattr(predicting, "WINDOW_RECORDS", 4)
    chance = random.Random(5)
    lines = [json.dumps({"id": number, "prompt": "if x " * chance.randrange(1, 20)}) for number in range(60)]
    records = write(tmp_path / "in.jsonl", lines)
    settings = Settings(24, Sampling(0.9, 40, 0.95))
    model = load_model(open_model_folder(str(llama)), settings, torch.device("cpu"))
    expected, out = tmp_path / "undisturbed.jsonl", tmp_path / "out.jsonl"
    run(records, expected, model)
    for more in (1, 2000):
        size = part_of(out).stat().st_size if part_of(out).exists() else 0
        child = os.fork()
        if child == 0:
            run(records, out, model)
            os._exit(0)
        while not part_of(out).exists() or part_of(out).stat().st_size < size + more:
            time.sleep(0.001)
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL, "it was not done yet"
        assert not out.exists()
    assert run(records, out, model).records == 60
    assert out.read_bytes() == expected.read_bytes()
    assert [one["id"] for one in answers(out)] == list(range(60))
