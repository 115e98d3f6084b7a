"""Documents with the same text: stages exact-signatures and exact-find.

exact-signatures   corpus/exact-signatures/<index>.sig    task i: the hash of each of its documents
exact-find         corpus/exact-find/<index>.remove       one task: of equal hashes all but the first document's number
"""

from __future__ import annotations

import numpy as np
import xxhash

from pretrain_preprocess.documents import TEXT_BYTES, read_documents
from pretrain_preprocess.duplicates import write_removals
from pretrain_preprocess.signatures import agreeing_pairs, record_type, sort_records
from pretrain_preprocess.task import Outcome, Task

COLUMNS = 2
"""64-bit words of a signature. With 128 bits, ten billion different texts collide with a probability below 10**-18."""


def run(task: Task) -> Outcome:
    """One task of either stage."""
    return signatures(task) if task.stage.name == "exact-signatures" else find(task)


def signatures(task: Task) -> Outcome:
    """The hashes of a shard's documents, sorted."""
    rows = []
    for number, document in enumerate(read_documents(task, "clean")):
        high, low = divmod(xxhash.xxh3_128_intdigest(folded(document.text)), 1 << 64)
        rows.append(((high, low), number))
        task.tally.keep(document.metadata[TEXT_BYTES])
    path = task.scratch / "signatures"
    sort_records(np.array(rows, record_type(COLUMNS))).tofile(path)
    return Outcome(((path, f"corpus/exact-signatures/{task.index:05d}.sig"),))


def find(task: Task) -> Outcome:
    """The documents whose hash an earlier one has: earlier in the order of shards, then of documents."""
    files = [task.bring(file) for file in task.inputs["exact-signatures"].outputs]
    shards = task.inputs["exact-signatures"].tasks
    later = [pairs[:, 2:] for pairs in agreeing_pairs(files, COLUMNS)]
    duplicates = np.concatenate(later) if later else np.empty((0, 2), np.uint32)
    return write_removals(task, duplicates, shards)


def folded(text: str) -> str:
    """What counts as the same text: white space and case do not matter."""
    return " ".join(text.split()).casefold()
