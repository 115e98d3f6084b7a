"""`trace`: the documents in the batch of one step, of a job in a file or in a cluster.

What is read is in the job's storage; it is read with the user's own credentials, as `checkpoints` does (stored.py).
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from pretrain_stage.config import Job
from pretrain_stage.config import Storage as StorageSection
from pretrain_stage.section import parse
from pretrain_stage.storage import open_storage
from pretrain_trainer.config.sections import TrainerSpec
from pretrain_trainer.trace import Trace, trace

from pretrain_operator.api import PretrainJob, load_job, parse_job
from pretrain_operator.kubectl.connection import Cluster
from pretrain_operator.kubectl.plain import plain
from pretrain_operator.kubectl.stored import reachable_storage, storage_of

HEADINGS = ("SAMPLE", "RANK", "MICRO-STEP", "SOURCE", "DOCUMENT", "FILE", "RECORD", "TOKENS")


def trace_file(path: Path, step: int, endpoint: str | None) -> Trace:
    """The batch of a step of the job in a file. Raises UserError with what to do."""
    made = load_job(path)
    job, section = _training(made), made.job_file()["spec"]["storage"]
    if job.spec.storage.uri.startswith("s3://"):
        return trace(job, reachable_storage(section, job.metadata.namespace, endpoint), step)
    return trace(job, open_storage(parse(StorageSection, section, "spec.storage")), step)


def trace_job(cluster: Cluster, name: str, namespace: str, step: int, endpoint: str | None) -> Trace:
    """The batch of a step of a job in a cluster. Raises UserError with what to do."""
    body = cluster.job(name, namespace)
    job = parse_job({key: body[key] for key in ("apiVersion", "kind", "metadata", "spec")}, f"pretrainjob {name}")
    return trace(_training(job), storage_of(body, namespace, endpoint), step)


def _training(job: PretrainJob) -> Job[TrainerSpec]:
    """What the trainer knows of the job."""
    return parse(Job[TrainerSpec], job.job_file(), "the job")


def print_trace(found: Trace, *, as_json: bool) -> None:
    """Prints the batch: a line for each document in each sample, or everything as JSON."""
    if as_json:
        print(json.dumps(found.as_json(), ensure_ascii=False, indent=2))
        return
    for line in (summary(found), "", *table(found)):
        print(line)


def summary(found: Trace) -> str:
    """The batch in one line."""
    pieces = [piece for sample in found.samples for piece in sample.documents]
    documents = len({(piece.source, piece.file, piece.record, piece.id) for piece in pieces})
    tokens: Counter[str] = Counter()
    for piece in pieces:
        tokens[piece.source] += piece.tokens
    shares = ", ".join(f"{plain(source)} {number / tokens.total():.0%}" for source, number in tokens.most_common())
    return (
        f"step {found.step:,} of {found.steps:,}: {len(found.samples):,} samples of {found.sequence_length:,} tokens, from "
        f"{documents:,} documents ({shares})"
    )


def table(found: Trace) -> list[str]:
    """The batch as lines of text."""
    rows = [
        HEADINGS,
        *(
            (
                *(str(sample.index), str(sample.rank), str(sample.micro_step)),
                *(plain(piece.source), plain(piece.id), plain(piece.file), str(piece.record), str(piece.tokens)),
            )
            for sample in found.samples
            for piece in sample.documents
        ),
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
