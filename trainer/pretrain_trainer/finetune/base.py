"""The model that fine-tuning starts from: a Hugging Face folder in safetensors, the job's own export or another.

Which model it is, is told by a digest of its files. Whatever makes it useless for a task is found here, from its small files,
before anything heavy is imported.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretrain_stage.config import Job
from pretrain_stage.errors import UserError
from pretrain_stage.finetune import Finetune, Task
from pretrain_stage.manifest import File, read_manifest
from pretrain_stage.storage import Storage, open_folder, s3_store, verify
from pydantic import JsonValue

from pretrain_trainer.config.sections import TrainerSpec
from pretrain_trainer.finetune.section import field_of

CONFIG, TOKENIZER, WEIGHTS = "config.json", "tokenizer.json", ".safetensors"
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
READ = (WEIGHTS, ".json", ".jinja")
"""Names of the files that are read end so."""

FITTING: dict[str, tuple[Task, ...]] = {
    "llama": ("classification", "token-classification", "generation"),
    "gpt2": ("classification", "token-classification", "generation"),
    "bert": ("classification", "token-classification"),
    "marian": ("generation",),
}
"""The tasks that the model families of this project can learn. Others are asked of transformers (network.py)."""


@dataclass(frozen=True)
class Base:
    """A model to start from."""

    name: str
    """For messages: where it lies."""
    digest: str
    files: tuple[File, ...]
    """Paths below its storage."""
    config: dict[str, Any]
    """config.json."""
    own: bool
    """Whether this job trained it."""

    @property
    def inputs(self) -> dict[str, str]:
        """What it is called among the inputs in manifests."""
        return {"export" if self.own else "base": self.digest}

    @property
    def family(self) -> str:
        return str(self.config.get("model_type"))

    @property
    def positions(self) -> int | None:
        """Most tokens of a text; None if the configuration sets no bound."""
        given = self.config.get("max_position_embeddings", self.config.get("n_positions"))
        return int(given) if given else None

    @property
    def encoder_decoder(self) -> bool:
        return bool(self.config.get("is_encoder_decoder"))


def find_base(job: Job[TrainerSpec], section: Finetune, storage: Storage) -> Base:
    """The model that the task starts from. Raises UserError if there is none, or the task cannot start from it."""
    field = field_of(job, section.name)
    base = _own(storage) if section.base is None else _given(job, section, f"{field}.base.uri")
    _check(base, base_storage(job, section, storage), section, field)
    return base


def base_storage(job: Job[TrainerSpec], section: Finetune, storage: Storage) -> Storage:
    """Where the base's files are. storage: the job's."""
    if section.base is None:
        return storage
    uri = section.base.uri
    if not uri.startswith("s3://"):
        return open_folder(Path(uri.removeprefix("file://")))
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    given = job.spec.storage
    return Storage(uri.rstrip("/"), s3_store(bucket, prefix.strip("/"), given.endpoint_url, given.region))


def bring_base(base: Base, storage: Storage, folder: Path) -> Path:
    """Copies the base to a local folder and verifies it. storage: the base's. Raises CorruptError if a file has changed."""
    for file in base.files:
        verify(storage, file.path, file.size, file.sha256, folder / Path(file.path).name)
    return folder


def _own(storage: Storage) -> Base:
    """The export of this job."""
    export, train = read_manifest(storage, "export"), read_manifest(storage, "train")
    if export is None:
        raise UserError(f"{storage.uri}/stages/export.json: missing; run the stage export before fine-tuning")
    if train is not None and export.inputs.get("train") != train.digest:
        raise UserError(
            f"{storage.uri}/export: is of an earlier training than stages/train.json; run the stage export again before "
            "fine-tuning"
        )
    files = tuple(file for file in export.outputs if file.path.endswith(READ))
    return Base(f"{storage.uri}/export", export.digest, files, _config(storage, "export/", f"{storage.uri}/export"), True)


def _given(job: Job[TrainerSpec], section: Finetune, field: str) -> Base:
    """The folder at base.uri. Its digest takes reading all of it."""
    assert section.base is not None, "called for such sections only"
    uri = section.base.uri
    if not uri.startswith("s3://") and not Path(uri.removeprefix("file://")).is_dir():
        raise UserError(f"{field}: {uri}: no such folder; give a Hugging Face folder in safetensors")
    # The job's own storage is not asked.
    storage = base_storage(job, section, None)  # type: ignore[arg-type]
    names = {entry.path: entry.size for entry in storage.entries() if "/" not in entry.path}
    config = _config(storage, "", f"{field}: {uri}")
    if not any(name.endswith(WEIGHTS) for name in names):
        pickle = next((name for name in sorted(names) if name.endswith(PICKLES)), None)
        raise UserError(
            f"{field}: {uri} has its weights as a pickle ({pickle}), which may run any program when it is read; save the model as "
            "safetensors"
            if pickle
            else f"{field}: {uri} has no weights (*{WEIGHTS}); give the folder of a whole model in safetensors"
        )
    files = tuple(
        File(path=name, size=size, sha256=storage.sha256(name))
        for name, size in sorted(names.items())
        if name.endswith(READ)
    )
    digest = hashlib.sha256(json.dumps([[file.path, file.sha256] for file in files]).encode()).hexdigest()
    return Base(uri, digest, files, config, False)


def _config(storage: Storage, prefix: str, name: str) -> dict[str, Any]:
    data = storage.read(prefix + CONFIG)
    if data is None:
        raise UserError(f"{name}: no {CONFIG}; give a Hugging Face folder")
    config: dict[str, Any] = json.loads(data)
    return config


def _check(base: Base, storage: Storage, section: Finetune, field: str) -> None:
    """Raises UserError if the task cannot start from the base."""
    fitting = FITTING.get(base.family)
    if fitting is not None and section.task not in fitting:
        raise UserError(
            f"{field}.task: {section.task} cannot be learned by {base.name}, a model of family {base.family}; choose "
            f"{' or '.join(fitting)}, or a base of another family"
        )
    taken = section.sequence_length + (section.prefix_tokens if section.method == "prefix" else 0)
    if base.positions is not None and taken > base.positions:
        said = f"{section.sequence_length}" + (
            f" and {section.prefix_tokens} of the prefix" if section.method == "prefix" else ""
        )
        raise UserError(
            f"{field}.sequenceLength: {said}, but {base.name} has {base.positions} positions; choose at most "
            f"{base.positions - taken + section.sequence_length}"
        )
    _check_vocabulary(base, storage)


def _check_vocabulary(base: Base, storage: Storage) -> None:
    """Raises UserError if the base's tokenizer is missing, or makes tokens that its model does not know."""
    path = next((file.path for file in base.files if Path(file.path).name == TOKENIZER), None)
    data = None if path is None else storage.read(path)
    if data is None:
        raise UserError(f"{base.name}: no {TOKENIZER}; put the tokenizer there that the model was trained with")
    content = json.loads(data)
    vocabulary: JsonValue = content["model"]["vocab"]
    ids = vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))  # type: ignore[arg-type]
    tokens = 1 + max([*ids, *(token["id"] for token in content.get("added_tokens", []))])
    rows = base.config.get("vocab_size")
    if rows is not None and tokens > rows:
        raise UserError(
            f"{base.name}: its tokenizer has {tokens} tokens, but its model knows {rows} (vocab_size); put the tokenizer there that "
            "the model was trained with"
        )
