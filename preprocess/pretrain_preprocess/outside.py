"""What a stage reads from outside the job: the sources, labelled examples, or a tokenizer that exists already."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from pretrain_stage.config import Storage as StorageSection
from pretrain_stage.errors import StorageError, UserError
from pretrain_stage.finetune import Finetune
from pretrain_stage.storage import Storage, s3_store

from pretrain_preprocess.config import PreprocessSpec, Source
from pretrain_preprocess.labelled.stage import task_of
from pretrain_preprocess.sources import Listing, list_files, list_sources


@dataclass(frozen=True)
class GivenTokenizer:
    """The tokenizer.json at tokenizer.uri."""

    uri: str
    content: bytes

    @property
    def name(self) -> str:
        """What it is called among the inputs in the manifest."""
        return "tokenizer-file"

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


Outside = Listing | GivenTokenizer


def outside(stage: str, spec: PreprocessSpec) -> Outside | None:
    """What the stage reads from outside. Raises UserError or StorageError if it is not there."""
    if stage == "clean":
        return list_sources(spec.corpus.sources, spec.storage)
    if stage == "tokenizer" and spec.tokenizer.uri is not None:
        return read_tokenizer(spec.tokenizer.uri, spec.storage)
    place = task_of(stage, spec)
    if place is not None:
        return list_examples(spec.finetune[place], place, spec.storage)
    return None


def list_examples(task: Finetune, place: int, storage: StorageSection) -> Listing:
    """The files with a task's examples. Raises UserError if there are none, StorageError if S3 refuses."""
    source = Source(name=task.name, uri=task.examples.uri, format=task.examples.format)
    return Listing(tuple(list_files(source, f"finetune[{place}].examples.uri", storage)), "examples")


def read_tokenizer(uri: str, storage: StorageSection) -> GivenTokenizer:
    """The file at a path on this machine or at s3://..., through the job's own endpoint."""
    content: bytes | None
    if uri.startswith("s3://"):
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        store = Storage(f"s3://{bucket}", s3_store(bucket, "", storage.endpoint_url, storage.region))
        try:
            content = store.read(key)
        except StorageError as error:
            raise StorageError(f"tokenizer.uri: {error}", temporary=error.exit_code != UserError.exit_code) from None
    else:
        try:
            content = Path(uri.removeprefix("file://")).expanduser().read_bytes()
        except FileNotFoundError:
            content = None
        except OSError as error:
            raise UserError(f"tokenizer.uri: {uri}: {error.strerror}; give a tokenizer.json that can be read") from None
    if content is None:
        raise UserError(
            f"tokenizer.uri: {uri}: no such file; give the path of a tokenizer.json, or train one (tokenizer.train)"
        )
    return GivenTokenizer(uri, content)
