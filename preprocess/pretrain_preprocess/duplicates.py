"""Dropping duplicates: stages exact-filter and minhash-filter.

    corpus/exact-find/<index>.remove, corpus/minhash-cluster/<index>.remove    numbers of the shard's documents to drop, sorted
    corpus/exact-filter/<index>.jsonl.zst, corpus/minhash-filter/...           the others

There is a .remove file for every shard, an empty one where nothing is to go: a missing file is an error, not a shard
without duplicates.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pretrain_stage.errors import UserError

from pretrain_preprocess.documents import ShardWriter, read_documents, shard_path
from pretrain_preprocess.task import Outcome, Task

BLOCK = "deduplicate"


def run(task: Task) -> Outcome:
    """Drops the documents of one shard that are listed."""
    method = task.stage.name.removesuffix("-filter")
    listed = removals(task, "exact-find" if method == "exact" else "minhash-cluster")
    remove = set(listed.tolist())
    dropped = task.tally.reasons(BLOCK)
    shard = task.scratch / "shard.jsonl.zst"
    with ShardWriter(shard, task) as writer:
        for number, document in enumerate(read_documents(task, "clean")):
            if number in remove:
                dropped.add(method, document.text)
            else:
                writer.write(document)
    if dropped[method] != len(remove):
        raise UserError(
            f"stage {task.stage.name}, task {task.index}: {len(remove)} documents were to go, but only {dropped[method]} of them "
            "are in the shard; delete the stages after clean under stages/ to run them again"
        )
    return Outcome(
        ((shard, shard_path(task.stage.name, task.index)),),
        {
            "text_bytes": sum(writer.text_bytes.values()),
            "documents_by_source": dict(writer.documents),
            "text_bytes_by_source": dict(writer.text_bytes),
        },
    )


def removals(task: Task, stage: str) -> NDArray[np.uint32]:
    """The numbers of this task's documents that an earlier stage found to be duplicates. Raises UserError if it left none."""
    path = remove_path(stage, task.index)
    file = next((file for file in task.inputs[stage].outputs if file.path == path), None)
    if file is None:
        raise UserError(
            f"{task.storage.uri}/{path}: stage {stage} left no such file, so nobody knows which documents of task {task.index} "
            f"are duplicates; delete stages/{stage}.json and stages/{stage}/ to run it again"
        )
    return np.fromfile(task.bring(file), "<u4")


def remove_path(stage: str, shard: int) -> str:
    """Where the list of a shard lies below the storage URI."""
    return f"corpus/{stage}/{shard:05d}.remove"


def write_removals(task: Task, duplicates: NDArray[np.unsignedinteger], shards: int) -> Outcome:
    """A sorted list for each of `shards`. duplicates: rows (shard, document)."""
    outputs = []
    duplicates = duplicates[np.lexsort((duplicates[:, 1], duplicates[:, 0]))]
    bounds = np.searchsorted(duplicates[:, 0], np.arange(shards + 1))
    for shard in range(shards):
        path = task.scratch / f"{shard:05d}.remove"
        duplicates[bounds[shard] : bounds[shard + 1], 1].astype("<u4").tofile(path)
        outputs.append((path, remove_path(task.stage.name, shard)))
    return Outcome(tuple(outputs), {"duplicates": len(duplicates)})
