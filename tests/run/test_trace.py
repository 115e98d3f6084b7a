"""What `pretrain trace` says of a step is what two processes of a real run were trained on, down to the raw text."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from pretrain_preprocess.documents import read_shard
from pretrain_stage.storage import open_folder
from pretrain_trainer.plan import read_inputs
from pretrain_trainer.tokens import TRAIN, open_stream, shard_files
from tokenizers import Tokenizer

from tests.run import whole

LENGTH, STEPS, RANKS = 64, 5, 2


@dataclass(frozen=True)
class Ran:
    """A job whose training is done, and what its processes took."""

    text: Path
    job: Path
    storage: Path
    before: dict[str, Any]
    """What was told of step 3 before the training began."""

    def trace(self, step: int) -> dict[str, Any]:
        said = pretrain("trace", self.job, "--step", step, "-o", "json")
        assert (said.returncode, said.stderr) == (0, "")
        found: dict[str, Any] = json.loads(said.stdout)
        return found


def pretrain(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pretrain_operator.cli", *map(str, arguments)], capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """Three tasks of text, of which near duplicates are dropped; five steps by two processes with two micro-batches each."""
    folder = tmp_path_factory.mktemp("trace")
    whole.lay_out_text(folder / "raw")
    job = whole.job(folder, folder / "raw")
    manifest = yaml.safe_load(job.read_text())
    manifest["spec"]["corpus"] |= {"tasks": 3}
    manifest["spec"]["training"] |= {"tokens": STEPS * 16 * LENGTH, "microBatchSize": 4, "checkpoints": {"everySteps": 100}}
    job.write_text(yaml.safe_dump(manifest, allow_unicode=True))
    until = pretrain("run", job, "--until", "tokenize", "--plain")
    assert until.returncode == 0, until.stdout + until.stderr
    found = Ran(folder / "raw", job, folder / "storage", {})
    found.before.update(found.trace(3))
    resolved = folder / "job.json"
    resolved.write_text(pretrain("render", job, "--job-file").stdout)
    launched = subprocess.run(
        [sys.executable, "-m", "pretrain_trainer", "launch", "--job", resolved, "--record-samples", folder / "samples"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert launched.returncode == 0, launched.stdout + launched.stderr
    return found


def test_the_samples_are_those_that_the_processes_took(ran: Ran) -> None:
    recorded = {
        (rank, line["step"]): line
        for rank in range(RANKS)
        for line in map(json.loads, (ran.job.parent / "samples" / f"rank-{rank}.jsonl").read_text().splitlines())
    }
    assert len(recorded) == RANKS * STEPS
    for step in (1, 3, STEPS):
        samples = ran.trace(step)["samples"]
        for rank in range(RANKS):
            mine = [sample for sample in samples if sample["rank"] == rank]
            assert [sample["index"] for sample in mine] == recorded[rank, step]["indices"]
            assert [sample["sample"] for sample in mine] == recorded[rank, step]["samples"]
            assert [sample["micro_step"] for sample in mine] == [0] * 4 + [1] * 4
    assert ran.before == ran.trace(3), "it is told before the training as after it"


def test_the_documents_are_those_whose_tokens_the_batch_has(ran: Ran) -> None:
    """Each piece's tokens in the batch are those of its document's text, which is found in the raw text by file and record."""
    storage = open_folder(ran.storage)
    inputs = read_inputs(storage)
    streams, first = [], [0]
    for source in ("en", "zh"):
        files = shard_files(inputs.tokenize, TRAIN, source)
        streams.append(open_stream([ran.storage / file.path for file in files], "uint16"))
        first.append(first[-1] + (len(streams[-1]) - 1) // LENGTH)
    tokenizer = Tokenizer.from_file(str(ran.storage / "tokenizer" / "tokenizer.json"))
    end = inputs.tokenizer_facts.end_of_text_id
    texts = {
        document.id: document.text
        for shard in (ran.storage / "corpus" / "minhash-filter").iterdir()
        for document in read_shard(shard)
    }
    sources = set()
    for step in (1, 3):
        for sample in ran.trace(step)["samples"]:
            which = int(sample["sample"] >= first[1])
            start = (sample["sample"] - first[which]) * LENGTH
            taken = streams[which].read(start, start + LENGTH + 1).tolist()
            for piece in sample["documents"]:
                ids = [*tokenizer.encode(texts[piece["id"]]).ids, end]
                tokens, taken = taken[: piece["tokens"]], taken[piece["tokens"] :]
                assert tokens == ids[piece["first"] : piece["first"] + piece["tokens"]]
                decoded = tokenizer.decode(tokens, skip_special_tokens=True).strip("\N{REPLACEMENT CHARACTER}")
                assert decoded in texts[piece["id"]]
                assert alike(raw(ran.text, piece), texts[piece["id"]])
                sources.add(piece["source"])
            assert taken == []
    assert sources == {"zh", "en"}


def raw(text: Path, piece: dict[str, Any]) -> str:
    """The raw text of the record that a piece is said to be from."""
    path = text / str(piece["file"])
    if piece["source"] == "en":
        return path.read_text(encoding="utf-8").splitlines()[int(piece["record"])]
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        record = json.loads(list(lines)[int(piece["record"])])
    assert record["id"] == piece["id"]
    return str(record["text"])


def alike(before: str, after: str) -> bool:
    """Whether cleaning may have made one of the other: lines are dropped, white space is tidied."""
    return set("".join(after.split())) <= set("".join(before.split())) and after[:20].split()[0] in before


def test_people_read_a_table(ran: Ran) -> None:
    said = pretrain("trace", ran.job, "--step", 2)
    summary, _, heading, *rows = said.stdout.splitlines()
    samples = ran.trace(2)["samples"]
    assert summary.startswith(f"step 2 of {STEPS}: 16 samples of {LENGTH} tokens, from ")
    assert heading.split() == ["SAMPLE", "RANK", "MICRO-STEP", "SOURCE", "DOCUMENT", "FILE", "RECORD", "TOKENS"]
    assert [row.split() for row in rows] == [
        [str(value) for value in (*(sample[key] for key in ("index", "rank", "micro_step")), *whose(piece))]
        for sample in samples
        for piece in sample["documents"]
    ]


def whose(piece: dict[str, Any]) -> list[Any]:
    return [piece[key] for key in ("source", "id", "file", "record", "tokens")]


def test_a_step_that_is_none(ran: Ran) -> None:
    said = pretrain("trace", ran.job, "--step", STEPS + 1)
    assert (said.returncode, said.stdout) == (65, "")
    assert f"--step: {STEPS + 1}, but the training of whole has {STEPS} steps; give one from 1 to {STEPS}" in said.stderr


def test_it_needs_no_torch(ran: Ran) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from pretrain_operator.kubectl.traced import trace_file\n"
        "trace_file(Path(sys.argv[1]), 1, None)\n"
        "sys.exit(', '.join({'torch', 'deepspeed', 'datatrove', 'tokenizers'} & sys.modules.keys()) or 0)"
    )
    said = subprocess.run([sys.executable, "-c", code, ran.job], capture_output=True, text=True)
    assert (said.returncode, said.stderr) == (0, "")


def test_its_extra_is_named(ran: Ran) -> None:
    code = "import sys; sys.modules['pyarrow'] = None\nfrom pretrain_operator.cli import main\nmain()"
    said = subprocess.run(
        [sys.executable, "-c", code, "trace", ran.job, "--step", "1"], capture_output=True, text=True, check=False
    )
    assert (said.returncode, said.stderr) == (
        1, "error: pyarrow is not installed; run: pip install 'pretrain-operator[trace]'\n",
    )  # fmt: skip
