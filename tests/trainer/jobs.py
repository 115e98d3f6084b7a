"""What the trainer's tests run on: real text with a real tokenizer, in the form in which preprocessing leaves it, and a
small job on top of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
from pretrain_stage.events import read_event
from pretrain_stage.manifest import File, Part, close, identity, leave_part, put_output
from pretrain_stage.storage import Storage, open_folder
from pretrain_trainer.text import SENTENCE, WORD
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

ROOT = Path(__file__).resolve().parents[2]
VOCAB_SIZE = 400
END_OF_TEXT = "<|endoftext|>"
SPECIAL = ["<|pad|>", "<|user|>", "<|cls|>", "<|sep|>", "<|mask|>"]
SENTINELS = 4
SEQUENCE = 32
SAMPLES = 8
"""Of a step."""
STEPS = 48

_LITTLE = {"hiddenSize": 64, "layers": 1, "heads": 2}
MODELS: dict[str, dict[str, Any]] = {
    "causal-lm": {"family": "gpt2", **_LITTLE},
    "masked-lm": {"family": "bert", **_LITTLE},
    "masked-lm+next-sentence": {"family": "bert", **_LITTLE},
    "span-corruption": {"family": "marian", **_LITTLE},
}
"""A little model for each objective."""

Spec = dict[str, Any]

STARTED: list[Run] = []
"""All programs that `start` started in a test; whatever is left of them when the test ends is killed."""


def prepare(
    storage: Storage, scratch: Path, documents: list[str] | dict[str, list[str]] | None = None, shards: int = 2
) -> None:
    """Leaves tokenizer and tokens in the storage, with the manifests of their stages: every tenth document is held out.

    documents: of the source `topics`, or of several sources by name.
    """
    documents = documents if documents is not None else [topics[name] for name in sorted(topics)]
    sources = documents if isinstance(documents, dict) else {"topics": documents}
    tokenizer = _tokenizer([text for texts in sources.values() for text in texts])
    path = scratch / "tokenizer.json"
    tokenizer.save(str(path))
    file = put_output(storage, path, "tokenizer/tokenizer.json")
    end = tokenizer.token_to_id(END_OF_TEXT)
    assert end is not None
    facts: dict[str, Any] = {"vocab_size": tokenizer.get_vocab_size(), "sha256": file.sha256, "algorithm": "bpe"}
    facts |= {"end_of_text": END_OF_TEXT, "end_of_text_id": end}
    facts |= {f"{name}_id": tokenizer.token_to_id(f"<|{name}|>") for name in ("pad", "cls", "sep", "mask")}
    facts |= {"sentinel_ids": [tokenizer.token_to_id(f"<|sentinel_{number}|>") for number in range(SENTINELS)]}
    digest = _leave(storage, "tokenizer", {}, {"corpus": "topics"}, (file,), facts)

    outputs: list[File] = []
    counts: dict[str, Any] = {}
    for name, texts in sources.items():
        counts[name] = {f"{split}_{what}": 0 for split in ("train", "held_out") for what in ("tokens", "documents", "bytes")}
        for shard in range(shards):
            for split, folder, held_out in (("train", "train", False), ("held_out", "held-out", True)):
                mine = [
                    text for number, text in enumerate(texts) if number % shards == shard and (number % 10 == 9) == held_out
                ]
                if not mine:
                    continue
                encoded = [tokenizer.encode(text) for text in mine]
                marks = [[*_marks(text, one.offsets), WORD] for text, one in zip(mine, encoded, strict=True)]
                ids = [[*one.ids, end] for one in encoded]
                outputs += _write_shard(storage, scratch, f"tokens/{folder}/{name}/{shard:05d}.ds", ids, marks)
                counts[name][f"{split}_tokens"] += sum(map(len, ids))
                counts[name][f"{split}_documents"] += len(mine)
                counts[name][f"{split}_bytes"] += sum(len(text.encode()) for text in mine)
    totals = {what: sum(of_source[what] for of_source in counts.values()) for what in next(iter(counts.values()))}
    _leave(
        storage,
        "tokenize",
        {"tasks": shards},
        {"tokenizer": digest},
        tuple(outputs),
        {**totals, "dtype": "uint16", "tokenizer_sha256": file.sha256, "sources": counts},
    )


def _marks(text: str, offsets: Sequence[tuple[int, int]]) -> list[int]:
    """Marks of the tokens: words stand between white space, sentences end with a full stop."""
    starts = [start for start, _ in offsets]
    words = [start == 0 or text[start].isspace() or text[start - 1].isspace() for start in starts]
    return [
        WORD * word | SENTENCE * (word and (start == 0 or text[:start].rstrip().endswith(".")))
        for word, start in zip(words, starts, strict=True)
    ]


def job(storage_uri: str, **training: Any) -> Spec:
    """A job with a model of a million parameters, some of them in matrices that ZeRO 3 really partitions (100,000 numbers and
    more). Keywords are fields of spec.training.
    """
    return {
        "apiVersion": "pretrain.dev/v1alpha1",
        "kind": "PretrainJob",
        "metadata": {"name": "little", "namespace": "tests"},
        "spec": {
            "storage": {"uri": storage_uri},
            "model": {
                "hiddenSize": 128,
                "intermediateSize": 1024,
                "layers": 2,
                "heads": 4,
                "kvHeads": 2,
                "tieEmbeddings": True,
            },
            "training": {
                "tokens": STEPS * SAMPLES * SEQUENCE,
                "sequenceLength": SEQUENCE,
                "globalBatchTokens": SAMPLES * SEQUENCE,
                # So one process with two micro-batches computes what two processes with one each do, to the last bit.
                "microBatchSize": SAMPLES // 2,
                "optimizer": {"learningRate": 3e-3},
                "schedule": {"kind": "cosine", "warmupSteps": 2},
                "precision": "fp32",
                "deepspeed": {"zeroStage": 2},
                "checkpoints": {"everySteps": 16, "keepLast": 3},
                "validation": {"everySteps": 24, "maxSequences": 24},
                **training,
            },
            "evaluation": {"maxNewTokens": 8},
            "export": {},
        },
    }


def write_job(folder: Path, spec: Spec) -> Path:
    path = folder / "job.json"
    path.write_text(json.dumps(spec))
    return path


@dataclass
class Run:
    """A program of the trainer in a process of its own, and what it said so far."""

    process: subprocess.Popen[str]
    stderr: Path
    events: list[dict[str, Any]] = field(default_factory=list)

    def until(self, event: str, **fields: Any) -> dict[str, Any]:
        """Reads events up to the first of that kind with those fields. Fails if the program ends before."""
        for said in self._said():
            if said["event"] == event and fields.items() <= said.items():
                return said
        raise AssertionError(f"ended without {event} {fields}: {self.ended()}, {self.errors}\n{self.stderr.read_text()}")

    def ended(self) -> int:
        """Waits for the end, reads what is left, and returns the exit code."""
        for _ in self._said():
            pass
        assert self.process.stdout is not None
        self.process.stdout.close()
        return self.process.wait(timeout=120)

    def kill(self) -> None:
        """kill -9 of the program and all that it started, at one stroke."""
        victims = [*descendants(self.process.pid), self.process.pid]
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.ended()

    def stop(self) -> int:
        """Asks the program to stop and returns its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.ended()

    def of(self, event: str) -> list[dict[str, Any]]:
        return [said for said in self.events if said["event"] == event]

    @property
    def errors(self) -> list[str]:
        return [said["message"] for said in self.of("error")]

    @property
    def result(self) -> dict[str, Any]:
        """The facts of a run that finishes."""
        code = self.ended()
        assert code == 0, f"exit code {code}: {self.errors}\n{self.stderr.read_text()}"
        return self.of("result")[-1]

    def _said(self) -> Iterator[dict[str, Any]]:
        assert self.process.stdout is not None
        if self.process.stdout.closed:
            return
        for line in self.process.stdout:
            said = read_event(line)
            if said is not None:
                self.events.append(said)
                yield said


def start(program: str, job_file: Path, *options: str, command: Sequence[str] = (), **env: str) -> Run:
    """Starts a program of the trainer. command: what to put before it. env: variables besides those of the tests."""
    threads = {"OMP_NUM_THREADS": "1", "PRETRAIN_METRICS_PORT": "0"}
    stderr, scratch = job_file.parent / "stderr.txt", job_file.parent / "scratch"
    scratch.mkdir(exist_ok=True)
    with stderr.open("w") as file:
        process = subprocess.Popen(
            [*command, sys.executable, "-m", "pretrain_trainer", program, "--job", str(job_file), *options],
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
            env={**os.environ, **threads, "TMPDIR": str(scratch), **env},
        )
    STARTED.append(Run(process, stderr))
    return STARTED[-1]


def probed(module: str, folder: Path, job_files: Sequence[Path], processes: int) -> dict[str, dict[str, Any]]:
    """What a program of the tests, run by so many processes, says of each job, by the names of the jobs' files: lines SAID name {...}.

    One run for all jobs: most of the time of one that trains little is spent on imports. folder: for what processes keep beside them.
    """
    (folder / "scratch").mkdir(exist_ok=True)
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone"]
    done = subprocess.run(
        [*command, "-m", module, *map(str, job_files)],
        capture_output=True,
        text=True,
        timeout=1200,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(folder / "scratch")},
    )
    assert done.returncode == 0, done.stderr[-5000:]
    lines = [line.removeprefix("SAID ") for line in done.stdout.splitlines() if line.startswith("SAID ")]
    return {line[: line.index(" {")]: json.loads(line[line.index("{") :]) for line in lines}


def descendants(pid: int) -> list[int]:
    """The processes that a process started, and those that they started."""
    try:
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return [found for child in children for found in (child, *descendants(child))]


def samples_taken(folder: Path) -> list[int]:
    """The global sample indices that all ranks of all runs recorded there, in order."""
    lines = [json.loads(line) for path in folder.iterdir() for line in path.read_text().splitlines()]
    return sorted(index for line in lines for index in line["indices"])


def _tokenizer(documents: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[END_OF_TEXT, *SPECIAL, *(f"<|sentinel_{number}|>" for number in range(SENTINELS))],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    return tokenizer


def _write_shard(
    storage: Storage, scratch: Path, path: str, documents: list[list[int]], marks: list[list[int]]
) -> list[File]:
    """A shard as preprocessing writes it: tokens, the documents' ends, a note, and the marks."""
    ids = np.array([token for document in documents for token in document], dtype="<u2")
    ends = np.cumsum([len(document) for document in documents]).astype("<u8")
    marked = bytes(mark for document in marks for mark in document)
    files = []
    parts = {"": ids.tobytes(), ".index": ends.tobytes(), ".metadata": b"tokenizer.json|2\n", ".marks": marked}
    for suffix, data in parts.items():
        local = scratch / "shard"
        local.write_bytes(data)
        files.append(put_output(storage, local, path + suffix))
    return files


def _leave(
    storage: Storage, stage: str, config: Any, inputs: dict[str, str], outputs: tuple[File, ...], facts: dict[str, Any]
) -> str:
    key = identity(stage, 1, config, inputs)
    leave_part(storage, Part(stage=stage, index=0, identity=key, outputs=outputs, facts=facts))
    manifest = close(storage, stage, key, config, inputs, tasks=1)
    assert manifest is not None
    return manifest.digest


def folder_storage(folder: Path, **options: Any) -> Storage:
    """A storage folder with tokenizer and tokens in it."""
    storage = open_folder(folder / "storage")
    scratch = folder / "prepare"
    scratch.mkdir(exist_ok=True)
    prepare(storage, scratch, **options)
    return storage
