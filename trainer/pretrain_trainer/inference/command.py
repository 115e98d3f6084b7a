"""`pretrain generate` and `pretrain predict`: what they ask of a model, print and end with."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from pretrain_stage.errors import EXIT_USER_ERROR, UserError

from pretrain_trainer.inference.answering import BadRecord, Question, Settings
from pretrain_trainer.inference.folder import open_model_folder
from pretrain_trainer.inference.generation import WritingModel, check_settings
from pretrain_trainer.inference.load import device_named, load_model, memory_explained
from pretrain_trainer.inference.predict import Identity, Piece, Tally, predict

PROMPTS_AT_ONCE = 16
SAID_SECONDS = 10.0
"""Between two lines of progress where nobody watches; on a terminal one line is written over."""
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
HELP = "/reset forgets what was said, /quit or Ctrl-D ends, Ctrl-C ends an answer"


@dataclass(frozen=True)
class Where:
    """The model, and where it computes."""

    model: str
    """Folder, or s3://bucket/prefix."""
    endpoint: str | None
    """Address of an S3-compatible service."""
    device: str
    """auto, cpu or cuda."""


def generate(
    where: Where, prompts: Sequence[str], settings: Settings, seed: int, *, as_json: bool, without_template: bool
) -> int:
    """Continues the prompts, or those on standard input, or talks with a person on a terminal. Returns the exit code."""
    check_settings(settings)
    model = writing_model(where, settings)
    if without_template:
        model.tokenizer.chat_template = None
    if not prompts and sys.stdin.isatty():
        print(f"{model.name}; {HELP}", file=sys.stderr)
        converse(model, seed, input, sys.stdout)
    else:
        asked = prompts or [line.rstrip("\n") for line in sys.stdin if line.strip()]
        answer_prompts(model, asked, seed, sys.stdout, as_json=as_json)
    print(model.rates, file=sys.stderr)
    return 0


def writing_model(where: Where, settings: Settings) -> WritingModel:
    """The model, if it is one that writes."""
    device = device_named(where.device)
    folder = open_model_folder(where.model, where.endpoint)
    if folder.kind != "generation":
        raise UserError(f"{where.model}: a model for {folder.kind}, which writes no text; ask it with `pretrain predict`")
    model = load_model(folder, settings, device)
    assert isinstance(model, WritingModel), "that is what folders for generation become"
    return model


def answer_prompts(model: WritingModel, prompts: Sequence[str], seed: int, out: TextIO, *, as_json: bool) -> None:
    """Prints an answer to each prompt, in order; that of an only one as it comes. Raises UserError if one is too long."""
    questions = [question_of(model, prompt, number, seed + number) for number, prompt in enumerate(prompts)]
    say = speaker(out)
    for first in range(0, len(questions), PROMPTS_AT_ONCE):
        stop = first + PROMPTS_AT_ONCE
        if len(questions) == 1 and not as_json:
            model.answer(questions, lambda row, text: say(text))
            say("\n")
            return
        for prompt, answer in zip(prompts[first:stop], model.answer(questions[first:stop]), strict=True):
            say((json.dumps({"prompt": prompt, **answer}, ensure_ascii=False) if as_json else answer["answer"]) + "\n")


def question_of(model: WritingModel, prompt: str, number: int, seed: int) -> Question:
    """A prompt as the model wants it: a message, if it has a template for conversations."""
    try:
        if model.has_chat:
            return model.conversation([{"role": "user", "content": prompt}], seed)
        return model.prompt(prompt, seed)
    except BadRecord as error:
        raise UserError(f"PROMPT {number + 1}: {error}") from None


def converse(model: WritingModel, seed: int, read: Callable[[str], str], out: TextIO) -> None:
    """Answers a person, line by line, until /quit or the end of input.

    A model with a chat template is told the conversation so far; any other continues all the text so far.
    """
    messages: list[dict[str, str]] = []
    text = ""
    say = speaker(out)
    turn = 0
    while True:
        try:
            line = read("> ").strip()
        except EOFError:
            say("\n")
            return
        except KeyboardInterrupt:
            say("\n")
            continue
        if line == "/quit":
            return
        if line == "/reset":
            messages, text = [], ""
            continue
        if not line:
            continue
        messages.append({"role": "user", "content": line})
        try:
            one = model.conversation(messages, seed + turn) if model.has_chat else model.prompt(text + line, seed + turn)
        except BadRecord as error:
            messages.pop()
            say(f"({error}; /reset forgets what was said)\n")
            continue
        answer = spoken(model, one, say)
        turn += 1
        messages.append({"role": "assistant", "content": answer})
        text += f"{line}{answer}\n"


def spoken(model: WritingModel, question: Question, say: Callable[[str], None]) -> str:
    """An answer, said as it comes. Ctrl-C ends it."""
    told: list[str] = []

    def hear(row: int, text: str) -> None:
        told.append(text)
        say(text)

    with contextlib.suppress(KeyboardInterrupt):
        model.answer([question], hear)
    say("\n")
    return "".join(told)


def speaker(out: TextIO) -> Callable[[str], None]:
    """Writes text at once; to a terminal without what could command it."""
    watched = out.isatty()

    def say(text: str) -> None:
        if text:
            out.write(CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text) if watched else text)
            out.flush()

    return say


def predict_file(where: Where, records: Path, out: Path, settings: Settings, batch_tokens: int, seed: int) -> int:
    """Answers a file of records into another. Returns the exit code: 65 if not one record could be answered."""
    check_settings(settings)
    device = device_named(where.device)
    total, size, digest = measured(records)
    folder = open_model_folder(where.model, where.endpoint)
    options = {**asdict(settings), "stop": list(settings.stop), "batch_tokens": batch_tokens, "seed": seed}
    identity = Identity(folder.digest, options, digest)
    with narrator(total, size) as tell, memory_explained("--batch-tokens", batch_tokens):
        pieces = [Piece(records, 0, size)]
        tally = predict(pieces, out, identity, lambda: load_model(folder, settings, device), batch_tokens, seed, tell)
    print(summary(tally, out), file=sys.stderr)
    return EXIT_USER_ERROR if tally.records and tally.errors == tally.records else 0


def measured(records: Path) -> tuple[int, int, str]:
    """How many lines of a file are not empty, its size, and its SHA-256."""
    digest = hashlib.sha256()
    total = size = 0
    try:
        with records.open("rb") as file:
            for line in file:
                digest.update(line)
                size += len(line)
                total += bool(line.strip())
    except OSError as error:
        advice = "copy it to this machine" if str(records).startswith("s3:") else "give a file of JSON lines"
        raise UserError(f"{records}: {error.strerror}; {advice}") from None
    return total, size, digest.hexdigest()


@contextlib.contextmanager
def narrator(total: int, size: int) -> Iterator[Callable[[Tally], None]]:
    """Tells on standard error how far the work is."""
    watched = sys.stderr.isatty()
    began = said = 0.0
    first: Tally | None = None

    def tell(tally: Tally) -> None:
        nonlocal began, said, first
        now = time.monotonic()
        if first is None:  # what an earlier run did took none of this one's time
            began, said, first = now, now, tally
        elif watched or now - said >= SAID_SECONDS:
            said = now
            print(
                *("\r\x1b[K" if watched else "", progress(tally, first, total, size, now - began)),
                sep="",
                end="" if watched else "\n",
                file=sys.stderr,
                flush=True,
            )

    try:
        yield tell
    finally:
        if watched and first is not None:
            print(file=sys.stderr)


def progress(tally: Tally, first: Tally, total: int, size: int, seconds: float) -> str:
    """A line on how far the work is. first: what there was when the seconds began."""
    line = f"{tally.records:,} of {total:,} records"
    tokens = tally.prompt_tokens + tally.new_tokens - first.prompt_tokens - first.new_tokens
    done = tally.read_bytes - first.read_bytes
    if done <= 0 or seconds <= 0:
        return line
    left = round((size - tally.read_bytes) * seconds / done)
    return f"{line}, {tokens / seconds:,.0f} tokens/s, {left // 60}m{left % 60:02d}s left"


def summary(tally: Tally, out: Path) -> str:
    """What came of it."""
    bad = f", {tally.errors:,} of them with an error in place of an answer" if tally.errors else ""
    return f"{out}: {tally.records:,} records{bad}; {tally.prompt_tokens:,} tokens read, {tally.new_tokens:,} written"
