"""Our preprocessing stages against datatrove's own blocks: the same documents, one process, taken in turns.

Ours is a task of a stage as `python -m pretrain_preprocess` runs it, with manifests, hashes of outputs and the verification
of inputs. The peer is a pipeline of datatrove chained as its executors chain it, without an executor: LocalPipelineExecutor
would start a server process for each run, which on a text this small would count against it. Imports are outside the timing.
Both read the same files, sources as .jsonl.gz and what clean left as .jsonl.zst, and both write.

    clean                normalize, quality, pii     FTFYFormatter, the four quality filters, PIIFormatter
    minhash-signatures   112 hashes of 5 words       MinhashDedupSignature
    exact-signatures     a hash of each document     ExactDedupSignature
    tokenize             byte-level BPE              DocumentTokenizer, without its shuffling

Where the work differs, ours does more: white space is tidied (normalize), the language is found for each document by its
script, where datatrove's blocks are told it, white space and case are folded (exact), and the text is split into training
and held-out (tokenize). The block language is in neither: datatrove's would have to download its model. Thresholds are the
same on both sides, and it is verified that both keep the same documents, make the same MinHash signatures, and write as many
hashes and tokens.

What our word splitters remember is forgotten before each run, so that no run profits from having seen its documents before.
Runs alternate, and medians are compared, since the machine may be busy with other things.

    python -m benchmarks.preprocess
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.dedup import ExactDedupSignature, MinhashDedupSignature
from datatrove.pipeline.dedup.exact_dedup import ExactDedupConfig, get_sig_dtype
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter
from datatrove.pipeline.formatters import FTFYFormatter, PIIFormatter
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.tokens import DocumentTokenizer
from datatrove.pipeline.writers import JsonlWriter
from pretrain_preprocess.blocks.gopher import kind_of_word
from pretrain_preprocess.blocks.quality import (
    C4_ACROSS_LANGUAGES,
    CHINESE_STOP_WORDS,
    FINEWEB_ACROSS_LANGUAGES,
    REPETITION_ACROSS_LANGUAGES,
)
from pretrain_preprocess.blocks.words import splitter
from pretrain_preprocess.config import PreprocessSpec
from pretrain_preprocess.documents import read_shard, shard_path
from pretrain_preprocess.exact import COLUMNS
from pretrain_preprocess.metrics import Metrics
from pretrain_preprocess.signatures import record_type
from pretrain_preprocess.stages import STAGES
from pretrain_preprocess.task import run_tasks
from pretrain_stage.config import read_job

from benchmarks.figure import Figure, table

ROOT = Path(__file__).parents[1]
RAW = ROOT / "build" / "demo" / "raw"
FEW, MANY = 3, 9
"""Rounds that count. More of them where one is short and the two are close."""
TEXT_BYTES = {"zh": 250_000, "en": 200_000, "both": 2_000_000, "all": sys.maxsize}
"""UTF-8 text of each corpus. Filters and MinHash take one language at a time. Hashing takes all of the demo's text: a task of
ours has about 20 ms of its own (job file, listing, manifests). They are a third of the time that 2 MB take, where 0.88 times
datatrove's speed was measured, and nothing beside the gigabytes of a real shard."""
DATATROVES_CODE = {"zh": "zho_Hani", "en": "eng"}
VOCAB_SIZE = 8_000

Run = Callable[[], None]


def figures() -> list[Figure]:
    """MB/s of UTF-8 text that each stage reads, against datatrove's blocks."""
    with tempfile.TemporaryDirectory() as folder:
        return [measure(pair) for pair in pairs(Path(folder))]


def main() -> int:
    found = figures()
    print(table(found))
    return 0 if all(figure.holds for figure in found) else 1


@dataclass(frozen=True)
class Pair:
    """The two that are compared, and a check that they did the same, which raises RuntimeError if they did not."""

    id: str
    text_bytes: int
    ours: Run
    peer: Run
    same: Callable[[], None]
    rounds: int = FEW


def measure(pair: Pair) -> Figure:
    """Runs both in turns, after a run of each that is not counted."""
    seconds: dict[str, list[float]] = {"ours": [], "peer": []}
    runs = {"ours": pair.ours, "peer": pair.peer}
    for number in range(1 + pair.rounds):
        for name in sorted(runs, reverse=bool(number % 2)):
            forget_words()
            began = time.monotonic()
            runs[name]()
            if number:
                seconds[name].append(time.monotonic() - began)
    pair.same()
    ours, peer = (pair.text_bytes / 1e6 / statistics.median(seconds[name]) for name in ("ours", "peer"))
    return Figure(pair.id, ours, peer, "datatrove", "MB/s", 1.0, "higher")


def forget_words() -> None:
    """Empties what is remembered between documents. The splitters are made anew here, outside the timing, as datatrove's
    are: they count as imports.
    """
    kind_of_word.cache_clear()
    splitter.cache_clear()
    for language in ("zh", "en"):
        splitter(language).word_tokenize("")


def pairs(folder: Path) -> Iterator[Pair]:
    """Everything that is compared, one after another, since each prepares its own text."""
    corpora = {language: Corpus(folder / language, language) for language in TEXT_BYTES}
    for language in ("zh", "en"):
        yield clean(corpora[language])
    for language in ("zh", "en"):
        yield minhash(corpora[language])
    yield exact(corpora["all"])
    yield tokenize(corpora["both"])


class Corpus:
    """Documents of one language or both, laid out as a source, and a job that reads it."""

    def __init__(self, folder: Path, language: str) -> None:
        self.folder, self.language = folder, language
        texts = {"zh": chinese, "en": english, "both": both, "all": both}[language]()
        self.texts = list(head(texts, TEXT_BYTES[language]))
        self.text_bytes = sum(len(text.encode()) for text in self.texts)
        (folder / "raw").mkdir(parents=True)
        with gzip.open(folder / "raw" / "documents.jsonl.gz", "wt", encoding="utf-8") as lines:
            for number, text in enumerate(self.texts):
                lines.write(json.dumps({"id": str(number), "text": text}, ensure_ascii=False) + "\n")

    @property
    def storage(self) -> Path:
        return self.folder / "storage"

    def stage(self, name: str, blocks: Iterable[str] = ()) -> None:
        """One task of a stage of ours, from the beginning, with those blocks of the stage clean."""
        shutil.rmtree(self.storage / "stages" / name, ignore_errors=True)
        (self.storage / "stages" / f"{name}.json").unlink(missing_ok=True)
        path = self.folder / "job.json"
        path.write_text(json.dumps({"metadata": {"name": "benchmark"}, "spec": self._spec(blocks)}))
        with redirect_stdout(io.StringIO()):
            job = read_job(path, PreprocessSpec)
            run_tasks(job, STAGES[name], 0, None, Metrics(job.metadata))

    def _spec(self, blocks: Iterable[str]) -> dict[str, Any]:
        source = {"name": "raw", "uri": str(self.folder / "raw"), "idField": "id"}
        return {
            "storage": {"uri": str(self.storage)},
            "corpus": {"sources": [source], "clean": list(blocks), "deduplicate": {"method": "none"}},
            "tokenizer": {"train": {"vocabSize": VOCAB_SIZE}},
        }

    @property
    def kept(self) -> Path:
        """What the stage clean left."""
        return self.storage / shard_path("clean", 0)

    def peer(self, *steps: PipelineStep, raw: bool = False) -> None:
        """A pipeline of datatrove over the source, or over what the stage clean left."""
        documents: Any = JsonlReader(str(self.folder / "raw" if raw else self.kept.parent))(None)
        for step in steps:
            documents = step(documents)
        deque(documents or (), maxlen=0)


def clean(corpus: Corpus) -> Pair:
    """The stage clean without extract and language."""
    output = corpus.folder / "peer-clean"

    def same() -> None:
        ours = [document.id for document in read_shard(corpus.kept)]
        theirs = [document.id for document in JsonlReader(str(output))(None)]
        agree("clean", ours, theirs)

    return Pair(
        f"clean-{corpus.language}",
        corpus.text_bytes,
        lambda: corpus.stage("clean", ["normalize", "quality", "pii"]),
        lambda: corpus.peer(
            FTFYFormatter(normalization="NFC"),
            *quality_filters(corpus.language),
            PIIFormatter(),
            JsonlWriter(str(output), "${rank}.jsonl.zst", compression="zstd"),
            raw=True,
        ),
        same,
    )


def quality_filters(language: str) -> list[PipelineStep]:
    """The filters of datatrove with the thresholds that the block quality has by default for the language."""
    code = {"language": DATATROVES_CODE[language]}
    if language == "en":
        return [
            judge(**code) for judge in (GopherRepetitionFilter, GopherQualityFilter, C4QualityFilter, FineWebQualityFilter)
        ]
    return [
        GopherRepetitionFilter(
            **REPETITION_ACROSS_LANGUAGES,
            dup_line_frac=0.287,
            top_n_grams=((2, 0.256), (3, 0.201), (4, 0.171)),
            dup_n_grams=((5, 0.198), (6, 0.182), (7, 0.167), (8, 0.154), (9, 0.14), (10, 0.127)),
            **code,
        ),
        GopherQualityFilter(
            min_avg_word_length=1,
            max_avg_word_length=5,
            max_non_alpha_words_ratio=0.735,
            stop_words=CHINESE_STOP_WORDS,
            **code,
        ),
        C4QualityFilter(**C4_ACROSS_LANGUAGES, **code),
        FineWebQualityFilter(**FINEWEB_ACROSS_LANGUAGES, line_punct_thr=0.106, new_line_ratio=0.178, **code),
    ]


def minhash(corpus: Corpus) -> Pair:
    """The stage minhash-signatures over all documents."""
    corpus.stage("clean")
    output = corpus.folder / "peer-signatures"
    options = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)

    def same() -> None:
        folders = (corpus.storage / "corpus" / "minhash-signatures", output)
        ours, theirs = ([path.read_bytes() for path in sorted(folder.rglob("*.sig"))] for folder in folders)
        agree("minhash-signatures", ours, theirs)

    return Pair(
        f"minhash-signatures-{corpus.language}",
        corpus.text_bytes,
        lambda: corpus.stage("minhash-signatures"),
        lambda: corpus.peer(MinhashDedupSignature(str(output), options, language=DATATROVES_CODE[corpus.language])),
        same,
    )


def exact(corpus: Corpus) -> Pair:
    """The stage exact-signatures over all documents."""
    corpus.stage("clean")
    output = corpus.folder / "peer-hashes"
    options = ExactDedupConfig(content_getter=text_of)

    def same() -> None:
        (ours,) = (corpus.storage / "corpus" / "exact-signatures").glob("*.sig")
        (theirs,) = (path for path in output.rglob("*") if path.is_file())
        numbers = [
            len(np.fromfile(path, record))
            for path, record in ((ours, record_type(COLUMNS)), (theirs, get_sig_dtype(options.hash_config)))
        ]
        agree("exact-signatures", *numbers)

    return Pair(
        "exact-signatures",
        corpus.text_bytes,
        lambda: corpus.stage("exact-signatures"),
        lambda: corpus.peer(ExactDedupSignature(str(output), options)),
        same,
        MANY,
    )


def text_of(document: Document) -> str:
    """What datatrove is to hash. It wants the type annotated."""
    text: str = document.text
    return text


def tokenize(corpus: Corpus) -> Pair:
    """The stage tokenize over all documents."""
    corpus.stage("clean")
    corpus.stage("tokenizer")
    tokenizer = corpus.storage / "tokenizer" / "tokenizer.json"
    output = corpus.folder / "peer-tokens"

    def same() -> None:
        ours = sum(path.stat().st_size for path in (corpus.storage / "tokens").rglob("*.ds"))
        theirs = sum(path.stat().st_size for path in output.rglob("*.ds"))
        agree("tokenize", ours, theirs)

    return Pair(
        "tokenize",
        corpus.text_bytes,
        lambda: corpus.stage("tokenize"),
        lambda: corpus.peer(
            DocumentTokenizer(str(output), str(tokenizer), eos_token="<|endoftext|>", shuffle_documents=False)
        ),
        same,
        MANY,
    )


def agree(what: str, ours: object, theirs: object) -> None:
    """Raises RuntimeError if the two did not do the same work, for then their speeds must not be compared."""
    if ours != theirs:
        raise RuntimeError(f"{what}: ours and datatrove's results differ")


def head(texts: Iterable[str], size: int) -> Iterator[str]:
    """The first texts that are `size` UTF-8 bytes together, or a little more."""
    for text in texts:
        if size <= 0:
            return
        size -= len(text.encode())
        yield text


def chinese() -> Iterator[str]:
    """Articles of the People's Daily."""
    with gzip.open(raw() / "peoples-daily.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)["text"]


def english() -> Iterator[str]:
    """News, then the topics of Python's help system."""
    yield from (raw() / "news.txt").read_text(encoding="utf-8").splitlines()
    with (raw() / "language-reference.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield row["text"]


def both() -> Iterator[str]:
    """All of the English, then Chinese."""
    yield from english()
    yield from chinese()


@cache
def raw() -> Path:
    """The folder with the demo's raw text. The script returns at once if it is there."""
    subprocess.run([sys.executable, ROOT / "examples" / "demo" / "corpus.py", RAW], check=True, stdout=subprocess.DEVNULL)
    return RAW


if __name__ == "__main__":
    sys.exit(main())
