"""`pretrain generate` and `pretrain predict` as a user types them, and a conversation on a terminal."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pretrain_stage.errors import UserError
from pretrain_trainer.generate import Sampling
from pretrain_trainer.inference.answering import Settings
from pretrain_trainer.inference.command import (
    Where,
    answer_prompts,
    converse,
    generate,
    predict_file,
    progress,
    writing_model,
)
from pretrain_trainer.inference.generation import WritingModel
from pretrain_trainer.inference.predict import Tally

RATES = r"prompt [\d,]+ tokens at [\d,]+ tokens/s, answer [\d,]+ tokens at [\d,]+ tokens/s\n"


class Terminal(io.StringIO):
    """Somebody watches."""

    def isatty(self) -> bool:
        return True


def here(folder: Path) -> Where:
    return Where(str(folder), None, "cpu")


def model_of(folder: Path, **settings: object) -> WritingModel:
    return writing_model(here(folder), Settings(**{"max_new_tokens": 8, **settings}))  # type: ignore[arg-type]


def said(folder: Path, lines: list[str | type[BaseException]], **settings: object) -> tuple[str, list[tuple[int, ...]]]:
    """What a conversation prints, and the prompts that the model was given."""
    model = model_of(folder, **settings)
    given: list[tuple[int, ...]] = []
    loop = model.loop

    def noting(prompts, *more):  # type: ignore[no-untyped-def]
        given.extend(tuple(prompt) for prompt in prompts)
        return loop(prompts, *more)

    model.loop = noting
    script: Iterator[str | type[BaseException]] = iter(lines)

    def read(prompt: str) -> str:
        line = next(script)
        if isinstance(line, str):
            return line
        raise line

    out = io.StringIO()
    converse(model, 1, read, out)
    return out.getvalue(), given


def test_a_conversation_continues_the_text_so_far(llama: Path) -> None:
    printed, given = said(llama, ["if x", "else", "/reset", "", "else", "/quit", "never read"])
    answers = printed.split("\n")
    model = model_of(llama)
    assert given == [
        model.prompt("if x", 0).tokens,
        model.prompt(f"if x{answers[0]}\nelse", 0).tokens,
        model.prompt("else", 0).tokens,
    ]


def test_a_conversation_goes_through_the_models_template(chatting: Path) -> None:
    printed, given = said(chatting, ["hello", "and", EOFError])
    first = printed.split("\n")[0]
    model = model_of(chatting)
    assert given[1] == model.prompt(f"<|user|>hello\n<|assistant|>{first}\n<|user|>and\n<|assistant|>", 0).tokens


def test_ctrl_c_ends_the_line_and_ctrl_d_the_conversation(llama: Path) -> None:
    printed, given = said(llama, [KeyboardInterrupt, "if x", EOFError])
    assert len(given) == 1
    assert printed.startswith("\n")


def test_ctrl_c_ends_an_answer_and_what_was_said_stays(llama: Path) -> None:
    model = model_of(llama, max_new_tokens=30)
    pieces: list[str] = []

    class Impatient(io.StringIO):
        def write(self, text: str) -> int:
            pieces.append(text)
            if len(pieces) == 3:
                raise KeyboardInterrupt
            return super().write(text)

    lines = iter(["if x", "else", "/quit"])
    converse(model, 1, lambda prompt: next(lines), Impatient())
    assert pieces[3] == "\n", "the answer ends where it was"
    assert len(pieces) > 8, "the next one is whole"


def test_a_conversation_that_is_too_long_says_so_and_goes_on(llama: Path) -> None:
    printed, given = said(llama, ["a b" * 200, "if x", EOFError])
    assert "but the model has 160 positions; shorten the text; /reset forgets what was said)\n" in printed
    assert len(given) == 1


def test_the_text_of_one_prompt_comes_as_it_is_written(llama: Path) -> None:
    model = model_of(llama, max_new_tokens=20)
    pieces: list[str] = []

    class Stream(io.StringIO):
        def flush(self) -> None:
            pieces.append(self.getvalue())

    answer_prompts(model, ["if x"], 0, Stream(), as_json=False)
    assert len(pieces) > 5
    assert pieces[-1] == model.answer([model.prompt("if x", 0)])[0]["answer"] + "\n"


def test_control_characters_do_not_reach_a_terminal(llama: Path) -> None:
    model = model_of(llama)
    escape = model.tokenizer("\x1b[2J\x9b\x07ok")["input_ids"]

    def loop(prompts, limits, sampling, ends, generators, told):  # type: ignore[no-untyped-def]
        for token in escape:
            told(0, token)
        return [escape]

    model.loop = loop
    out, plain = Terminal(), io.StringIO()
    answer_prompts(model, ["x"], 0, out, as_json=False)
    answer_prompts(model, ["x"], 0, plain, as_json=False)
    assert (out.getvalue(), plain.getvalue()) == ("\\x1b[2J\\x9b\\x07ok\n", "\x1b[2J\x9b\x07ok\n")


def test_several_prompts_are_answered_in_order(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pretrain_trainer.inference.command.PROMPTS_AT_ONCE", 2)
    model = model_of(llama, sampling=Sampling(0.8))
    prompts = ["if x", "else", "a", "while", "if x"]
    out = io.StringIO()
    answer_prompts(model, prompts, 5, out, as_json=True)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["prompt"] for line in lines] == prompts
    alone = [model.answer([model.prompt(prompt, 5 + number)])[0] for number, prompt in enumerate(prompts)]
    assert [{**line, "prompt": None} for line in lines] == [{"prompt": None, **answer} for answer in alone]
    assert lines[0]["answer"] != lines[4]["answer"], "each has a seed of its own"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (Settings(max_new_tokens=0), "--max-new-tokens: 0; give 1 or more"),
        (Settings(sampling=Sampling(-1.0)), "--temperature: -1.0; give 0"),
        (Settings(sampling=Sampling(1.0, 0)), "--top-k: 0; give 1 or more"),
        (Settings(sampling=Sampling(1.0, None, 0.0)), "--top-p: 0.0; give more than 0"),
        (Settings(stop=("",)), "--stop: an empty text"),
    ],
)
def test_settings_that_no_text_can_be_written_with(llama: Path, settings: Settings, words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)):
        generate(here(llama), ["x"], settings, 0, as_json=False, without_template=False)


def test_what_cannot_be_asked(llama: Path, classifier: Path, tmp_path: Path) -> None:
    def refusal(folder: Path, *prompts: str, device: str = "cpu") -> str:
        with pytest.raises(UserError) as refused:
            generate(Where(str(folder), None, device), prompts, Settings(), 0, as_json=False, without_template=False)
        return str(refused.value)

    assert "a model for classification, which writes no text; ask it with `pretrain predict`" in refusal(classifier, "x")
    assert "PROMPT 2: 400 tokens, but the model has 160 positions" in refusal(llama, "x", "x\n" * 200)
    assert "this machine has no CUDA device; give cpu" in refusal(llama, "x", device="cuda")
    with pytest.raises(UserError, match="No such file or directory; give a file of JSON lines"):
        predict_file(here(llama), tmp_path / "in.jsonl", tmp_path / "out.jsonl", Settings(), 100, 0)
    with pytest.raises(UserError, match="copy it to this machine"):
        predict_file(here(llama), Path("s3://bucket/in.jsonl"), tmp_path / "out.jsonl", Settings(), 100, 0)


def test_it_fails_only_if_no_record_could_be_answered(
    classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = tmp_path / "in.jsonl"

    def ended(text: str, out: str) -> int:
        records.write_text(text)
        return predict_file(here(classifier), records, tmp_path / out, Settings(), 100, 0)

    assert ended('{"text": "a class"}\n{"txt": "x"}\n', "some.jsonl") == 0
    assert "2 records, 1 of them with an error in place of an answer;" in capsys.readouterr().err
    assert ended('{"txt": "x"}\n', "none.jsonl") == 65
    assert ended("", "empty.jsonl") == 0
    records.write_text('{"text": "another"}\n')
    with pytest.raises(UserError, match="answers of other records"):
        predict_file(here(classifier), records, tmp_path / "some.jsonl", Settings(), 100, 0)


def test_progress_counts_what_this_run_did() -> None:
    line = progress(Tally(30, 0, 900, 600, 3000), Tally(10, 0, 300, 200, 1000), 100, 10_000, 10.0)
    assert line == "30 of 100 records, 100 tokens/s, 0m35s left"


def pretrain(*arguments: object, stdin: str | int | None = None) -> subprocess.CompletedProcess[str]:
    given = {"input": stdin} if isinstance(stdin, str) else {"stdin": stdin}
    return subprocess.run(
        [sys.executable, "-m", "pretrain_operator.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        **given,
    )


@pytest.mark.slow
def test_generate_answers_prompts_of_standard_input(llama: Path) -> None:
    options = ("--max-new-tokens", 8, "--temperature", 0, "-o", "json")
    piped = pretrain("generate", llama, *options, stdin="if x\n\nelse\n")
    assert piped.returncode == 0, piped.stderr
    model = model_of(llama)
    expected = [{"prompt": text, **model.answer([model.prompt(text, 0)])[0]} for text in ("if x", "else")]
    assert [json.loads(line) for line in piped.stdout.splitlines()] == expected
    assert re.fullmatch(RATES, piped.stderr), piped.stderr


@pytest.mark.slow
def test_on_a_terminal_a_conversation_begins(llama: Path) -> None:
    terminal, other = pty.openpty()
    timer = threading.Timer(0.1, os.write, (terminal, b"if x\n/quit\n"))
    timer.start()
    talk = pretrain("generate", llama, "--max-new-tokens", 8, "--temperature", 0, stdin=other)
    timer.join()
    os.close(terminal)
    os.close(other)
    model = model_of(llama)
    assert talk.returncode == 0, talk.stderr
    assert model.answer([model.prompt("if x", 1)])[0]["answer"] in talk.stdout
    assert "/reset forgets what was said, /quit or Ctrl-D ends" in talk.stderr
    assert re.search(RATES, talk.stderr)


@pytest.mark.slow
def test_predict_refuses_in_one_sentence(classifier: Path, tmp_path: Path) -> None:
    records, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    records.write_text('{"id": 1, "text": "a class"}\n')
    settings = Settings(sampling=Sampling(0.0))
    assert predict_file(here(classifier), records, out, settings, 8192, 0) == 0
    assert list(json.loads(out.read_text())) == ["id", "label", "score", "scores"]
    refused = pretrain("predict", classifier, records, out, "--batch-tokens", 9)
    assert refused.returncode == 65
    assert refused.stderr == (
        f"error: {out}: holds answers of other options; name another file, or delete it and out.jsonl.progress.json to begin anew\n"
    )
