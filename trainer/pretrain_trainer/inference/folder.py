"""A model's folder in Hugging Face's form: what it holds, and whether it can be asked at all. Imports nothing heavy."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pretrain_stage.config import Storage as StorageSection
from pretrain_stage.errors import UserError
from pretrain_stage.scratch import private_folder
from pretrain_stage.section import parse
from pretrain_stage.storage import Storage, file_sha256, open_storage

from pretrain_trainer.config.presets import Dimensions

Kind = Literal["generation", "classification", "token-classification"]

CONFIG, ADAPTER, TOKENIZER = "config.json", "adapter_config.json", "tokenizer.json"
BOTTLENECKS, BASE = "bottlenecks.safetensors", "base.json"
"""What the export of a task leaves instead of a whole model, and where it says which model that belongs to."""
WEIGHTS = ".safetensors"
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
READ = (WEIGHTS, ".json", ".jinja")
"""Names of the files that make a model end so."""
TASK_TYPES: Mapping[str, Kind] = {
    "SEQ_CLS": "classification",
    "TOKEN_CLS": "token-classification",
    "CAUSAL_LM": "generation",
    "SEQ_2_SEQ_LM": "generation",
}
"""What peft calls tasks."""
GENERATING = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "MTModel")
"""How transformers' classes that generate are called at their end."""


@dataclass(frozen=True)
class ModelFolder:
    """A folder that can be asked."""

    path: Path
    name: str
    """As the user gave it, for messages."""
    kind: Kind
    config: Mapping[str, Any]
    """config.json, of the base where the folder holds only an adapter."""
    base: Path | None
    """Where the model is that an adapter belongs to; None if the folder holds a whole one."""
    adapter: Mapping[str, Any] | None
    """adapter_config.json, where peft made the adapter."""
    tokenizer: Path
    """The folder that has tokenizer.json."""

    @property
    def positions(self) -> int | None:
        """Most tokens of a text; None if the configuration sets no bound."""
        given = self.config.get("max_position_embeddings", self.config.get("n_positions"))
        return int(given) - int((self.adapter or {}).get("num_virtual_tokens", 0)) if given else None

    @property
    def encoder_decoder(self) -> bool:
        """Whether a prompt is read by an encoder of its own."""
        return bool(self.config.get("is_encoder_decoder"))

    @property
    def dimensions(self) -> Dimensions | None:
        """The shape, if it is one of our decoder's; else transformers' classes are used."""
        return decoder_shape(self.config) if self.base is None and self.kind == "generation" else None

    @property
    def digest(self) -> str:
        """SHA-256 of all that makes the model: names and contents. Reads every byte."""
        folders = [self.path] if self.base is None else [self.path, self.base]
        rows = [[file.name, file_sha256(file)] for folder in folders for file in model_files(folder)]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def open_model_folder(uri: str, endpoint: str | None = None) -> ModelFolder:
    """The folder at a path of this machine or at s3://bucket/prefix, which is brought here first.

    Raises UserError if it is no folder that can be asked.
    """
    if uri.startswith("s3://"):
        storage = open_storage(
            parse(StorageSection, {"uri": uri} | ({"endpointURL": endpoint} if endpoint else {}), "MODEL")
        )
        return read_model_folder(bring_model(storage), uri)
    path = Path(uri.removeprefix("file://")).expanduser()
    if not path.is_dir():
        raise UserError(f"{uri}: no such folder; give a Hugging Face folder, for example export/ in a job's storage")
    return read_model_folder(path, uri)


def read_model_folder(path: Path, name: str) -> ModelFolder:
    """What the folder at `path` holds. Raises UserError if that cannot be asked. name: what to call it in messages."""
    adapter = read_json(path / ADAPTER, name)
    base = base_of(adapter, path, name) if adapter is not None or (path / BOTTLENECKS).exists() else None
    config = read_json(path / CONFIG, name)
    if config is None and base is not None:
        config = read_json(base / CONFIG, str(base))
    if config is None:
        exported = (path / "export" / CONFIG).exists()
        advice = f"give {name.rstrip('/')}/export" if exported else "give a Hugging Face folder, for example a job's export/"
        raise UserError(f"{name}: holds no {CONFIG}; {advice}")
    for folder in filter(None, (path, base)):
        check_weights([file.name for file in folder.iterdir()], name if folder is path else str(folder))
    where = next((folder for folder in (path, base) if folder and (folder / TOKENIZER).exists()), None)
    if where is None:
        raise UserError(f"{name}: holds no {TOKENIZER}; save the tokenizer that the model was trained with into the folder")
    check_vocabulary(where / TOKENIZER, config, name)
    return ModelFolder(path, name, kind_of(config, adapter, name), config, base, adapter, where)


def read_json(path: Path, name: str) -> dict[str, Any] | None:
    """The object in a file of JSON, or None if there is no such file."""
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(f"{name}: {path.name} is not JSON ({error}); save the model again") from None
    if not isinstance(found, dict):
        raise UserError(f"{name}: {path.name} holds no object; save the model again")
    return found


def base_of(adapter: Mapping[str, Any] | None, path: Path, name: str) -> Path:
    """The folder of the model that an adapter belongs to."""
    told = read_json(path / BASE, name) or {}
    given = [str((adapter or {}).get("base_model_name_or_path") or ""), str(told.get("uri") or "")]
    for one in filter(None, (*given, "../../../export" if told.get("own") else "")):
        for folder in (path / one, Path(one)):
            if (folder / CONFIG).exists():
                return folder
    where = next(filter(None, given), "nothing")
    raise UserError(
        f"{name}: holds only an adapter, of {where}, which is no folder here; copy that here and name it in "
        f"{ADAPTER if adapter else BASE}, or give a folder into which the adapter is merged"
    )


def check_weights(names: Sequence[str], name: str) -> None:
    """Raises UserError unless there are weights in safetensors."""
    if any(file.endswith(WEIGHTS) for file in names):
        return
    pickles = sorted(file for file in names if file.endswith(PICKLES))
    if pickles:
        raise UserError(
            f"{name}: has weights only as pickle ({pickles[0]}), which can run any code when it is loaded; save the model as "
            "safetensors where you trust it"
        )
    raise UserError(f"{name}: holds no weights (*{WEIGHTS}); give the folder of a whole model")


def check_vocabulary(tokenizer: Path, config: Mapping[str, Any], name: str) -> None:
    """Raises UserError if the tokenizer can make tokens that the model has no row for."""
    content = read_json(tokenizer, name) or {}
    vocabulary = content.get("model", {}).get("vocab", {})
    ids = vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))
    last = max([*ids, *(token["id"] for token in content.get("added_tokens", []))], default=-1)
    rows = config.get("vocab_size")
    if rows is not None and last >= rows:
        raise UserError(
            f"{name}: its tokenizer has {last + 1:,} tokens, but the model knows {rows:,} (vocab_size); put the tokenizer that the "
            "model was trained with into the folder"
        )


def kind_of(config: Mapping[str, Any], adapter: Mapping[str, Any] | None, name: str) -> Kind:
    """What the model answers with."""
    if adapter is not None and adapter.get("task_type") in TASK_TYPES:
        return TASK_TYPES[adapter["task_type"]]
    architecture = next(iter(config.get("architectures") or []), "of no known class")
    if architecture.endswith("ForSequenceClassification"):
        return "classification"
    if architecture.endswith("ForTokenClassification"):
        return "token-classification"
    if architecture.endswith(GENERATING):
        return "generation"
    raise UserError(
        f"{name}: a model {architecture}, which neither generates nor classifies; give one that was trained for causal-lm or "
        "span-corruption, or fine-tuned for a task"
    )


def decoder_shape(config: Mapping[str, Any]) -> Dimensions | None:
    """The shape of a Llama that computes what our decoder does, to the last detail; None for any other model."""
    rope = {"rope_type": "default", "rope_theta": config.get("rope_theta", 10_000.0)} | (config.get("rope_parameters") or {})
    hidden, heads = config.get("hidden_size", 0), config.get("num_attention_heads", 1)
    same = (
        config.get("architectures") == ["LlamaForCausalLM"]
        and config.get("hidden_act", "silu") == "silu"
        and not any(config.get(key) for key in ("attention_bias", "mlp_bias", "rope_scaling", "quantization_config"))
        and rope["rope_type"] == "default"
        and (config.get("head_dim") or hidden // heads) * heads == hidden
    )
    if not same:
        return None
    return Dimensions(
        hidden_size=hidden,
        intermediate_size=config["intermediate_size"],
        layers=config["num_hidden_layers"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        rope_theta=float(rope["rope_theta"]),
        norm_eps=float(config.get("rms_norm_eps", 1e-6)),
        tie_embeddings=bool(config.get("tie_word_embeddings", False)),
    )


def model_files(folder: Path) -> list[Path]:
    """The files of a folder that make the model, by name."""
    return sorted(file for file in folder.iterdir() if file.name.endswith(READ) and file.is_file())


def bring_model(storage: Storage) -> Path:
    """Copies a model from object storage into this user's own folder, unless the same is there; returns that."""
    entries = {PurePosixPath(entry.path).name: entry for entry in storage.entries() if "/" not in entry.path.strip("/")}
    if not entries:
        raise UserError(f"{storage.uri}: no such folder; give a Hugging Face folder, for example export/ of a job's storage")
    check_weights(list(entries), storage.uri)
    mine = {name: entry for name, entry in sorted(entries.items()) if name.endswith(READ)}
    state = json.dumps([[name, entry.size, entry.etag, str(entry.modified)] for name, entry in mine.items()])
    folder = private_folder(storage) / f"model-{hashlib.sha256(state.encode()).hexdigest()[:16]}"
    with alone(folder):
        for name, entry in mine.items():
            target = folder / name
            if not target.exists() or target.stat().st_size != entry.size:
                storage.download(entry.path, target)
    return folder


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Waits until no other program of this machine is at a folder or file."""
    with path.with_name(path.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
