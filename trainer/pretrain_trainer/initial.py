"""The model that training goes on from (training.initFrom): a Hugging Face folder in safetensors.

Whether it is of the job's shape and tokenizer is found from its small files, before anything heavy is imported. Which model it
is, is told by the SHA-256 of its files. They are read once, and noted in the job's storage; later programs read them again only
if the folder has changed meanwhile.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pretrain_stage import config
from pretrain_stage.errors import StorageError, UserError
from pretrain_stage.manifest import File
from pretrain_stage.storage import Storage, open_folder, s3_store, verify
from pydantic import BaseModel, ConfigDict

from pretrain_trainer.config.presets import Dimensions

if TYPE_CHECKING:
    from pretrain_trainer.model.language_model import FamilyModel

NOTE = "initial.json"
CONFIG, TOKENIZER, WEIGHTS = "config.json", "tokenizer.json", ".safetensors"
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
FIELD = "spec.training.initFrom.uri"
BESIDE_TOKENS = ("post_processor", "truncation", "padding")
"""Parts of tokenizer.json that do not say which token is which text."""


class Initial(BaseModel):
    """A model to go on from."""

    model_config = ConfigDict(frozen=True)

    uri: str
    state: str
    """Digest of the folder's listing: sizes and times."""
    files: tuple[File, ...]
    config: str
    """config.json."""
    tokenizer: str | None
    """tokenizer.json."""

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps([[file.path, file.sha256] for file in self.files]).encode()).hexdigest()


def find_initial(uri: str, section: config.Storage, storage: Storage) -> Initial:
    """The model at `uri`. section, storage: of the job. Raises UserError if it is no folder with weights in safetensors."""
    data = storage.read(NOTE)
    noted = Initial.model_validate_json(data) if data is not None else None
    noted = noted if noted is not None and noted.uri == uri else None
    try:
        source = initial_storage(uri, section)
        entries = [entry for entry in source.entries() if "/" not in entry.path]
    except (StorageError, UserError):
        if noted is None:
            raise
        return noted  # what follows from it is in the job's own storage
    state = hashlib.sha256(json.dumps([[e.path, e.size, str(e.modified)] for e in entries]).encode()).hexdigest()
    if noted is not None and noted.state == state:
        return noted
    _check_listing(uri, [entry.path for entry in entries])
    files = tuple(
        File(path=entry.path, size=entry.size, sha256=source.sha256(entry.path))
        for entry in sorted(entries, key=lambda entry: entry.path)
        if entry.path.endswith(WEIGHTS) or entry.path in (CONFIG, TOKENIZER)
    )
    small = {name: (source.read(name) or b"").decode() for name in (CONFIG, TOKENIZER)}
    found = Initial(uri=uri, state=state, files=files, config=small[CONFIG], tokenizer=small[TOKENIZER] or None)
    storage.write(NOTE, found.model_dump_json().encode())
    return found


def initial_storage(uri: str, section: config.Storage) -> Storage:
    """The folder of the model. Raises UserError if this machine has none at that path."""
    if uri.startswith("s3://"):
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        return Storage(uri.rstrip("/"), s3_store(bucket, prefix.strip("/"), section.endpoint_url, section.region))
    folder = Path(uri.removeprefix("file://")).expanduser()
    if not folder.is_dir():
        raise UserError(f"{FIELD}: {uri}: no such folder; give a Hugging Face folder in safetensors")
    return open_folder(folder)


def check_initial(initial: Initial, shape: Dimensions, vocab_size: int, tokenizer: bytes) -> None:
    """Raises UserError if the model is not of the job's shape or tokenizer. tokenizer: the job's tokenizer.json."""
    uri, found = initial.uri, json.loads(initial.config)
    wrong = [
        f"{field}: {_said(wanted)}, but the model at {uri} has {_said(there)}; set it to {_said(there)}"
        for field, wanted, there in _compared(shape, vocab_size, found)
        if wanted != there
    ]
    if wrong:
        raise UserError("; ".join(wrong))
    if initial.tokenizer is None:
        raise UserError(f"{FIELD}: {uri} has no {TOKENIZER}; put the tokenizer there that the model was trained with")
    if _tokens(initial.tokenizer) != _tokens(tokenizer):
        raise UserError(
            f"spec.tokenizer: another one than that of the model at {uri}, for which the same ids are other texts; set tokenizer.uri "
            f"to {uri.rstrip('/')}/{TOKENIZER}"
        )


def bring_initial(initial: Initial, section: config.Storage, folder: Path) -> Path:
    """Copies the model to a local folder. Raises CorruptError if a file is not the one that was noted."""
    source = initial_storage(initial.uri, section)
    for file in initial.files:
        verify(source, file.path, file.size, file.sha256, folder / file.path)
    return folder


def put_weights(model: FamilyModel, folder: Path, uri: str) -> None:
    """Puts the weights of the folder into the model. Called by all processes together where ZeRO 3 has sliced the model.

    Raises UserError if one is missing or has another shape. What the model has no place for is left out: heads of other tasks.
    """
    import torch
    from safetensors import safe_open

    with _unpatched(), torch.no_grad():
        places = model.state_dict(keep_vars=True)
        filled = set()
        for path in sorted(folder.glob(f"*{WEIGHTS}")):
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118 - it is no mapping
                    place = places.get(name, places.get(f"network.{name}"))
                    if place is None:
                        continue
                    tensor = file.get_tensor(name)
                    with _gathered(place):
                        if place.shape != tensor.shape:
                            raise UserError(
                                f"{FIELD}: {uri}: {name} is {tuple(tensor.shape)}, and should be {tuple(place.shape)}; its config.json "
                                "belongs to another model"
                            )
                        place.copy_(tensor)
                    filled.add(id(place))
        missing = [
            name for name, place in places.items() if id(place) not in filled and isinstance(place, torch.nn.Parameter)
        ]
    if missing:
        name = missing[0].removeprefix("network.")
        raise UserError(
            f"{FIELD}: {uri} lacks {len(missing)} weights that training.objective needs, the first is {name}; give a model that was "
            "trained for the same objective"
        )


def _check_listing(uri: str, names: list[str]) -> None:
    if CONFIG not in names:
        raise UserError(f"{FIELD}: {uri} has no {CONFIG}; give a Hugging Face folder in safetensors")
    if any(name.endswith(WEIGHTS) for name in names):
        return
    pickle = next((name for name in sorted(names) if name.endswith(PICKLES)), None)
    if pickle is not None:
        raise UserError(
            f"{FIELD}: {uri} has its weights as a pickle ({pickle}), which may run any program when it is read; save the model as "
            "safetensors where you trust it"
        )
    raise UserError(f"{FIELD}: {uri} has no weights (*{WEIGHTS}); give the folder of a whole model")


def _compared(shape: Dimensions, vocab_size: int, found: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Field, the job's value, and the folder's."""
    yield "spec.model.family", shape.family, found.get("model_type")
    if found.get("model_type") != shape.family:
        return
    hidden = found.get({"gpt2": "n_embd", "marian": "d_model"}.get(shape.family, "hidden_size"), 0)
    yield "spec.model.vocabSize", vocab_size, found.get("vocab_size")
    yield "spec.model.hiddenSize", shape.hidden_size, hidden
    yield "spec.model.tieEmbeddings", shape.tie_embeddings, bool(found.get("tie_word_embeddings", shape.family != "llama"))
    match shape.family:
        case "llama":
            rope = {"rope_theta": found.get("rope_theta", 10_000.0)} | (found.get("rope_parameters") or {})
            heads = found.get("num_attention_heads")
            yield "spec.model.layers", shape.layers, found.get("num_hidden_layers")
            yield "spec.model.heads", shape.heads, heads
            yield "spec.model.kvHeads", shape.kv_heads, found.get("num_key_value_heads") or heads
            yield "spec.model.intermediateSize", shape.intermediate_size, found.get("intermediate_size")
            yield "spec.model.ropeTheta", shape.rope_theta, float(rope["rope_theta"])
            yield "spec.model.normEps", shape.norm_eps, found.get("rms_norm_eps", 1e-6)
        case "gpt2":
            yield "spec.model.layers", shape.layers, found.get("n_layer")
            yield "spec.model.heads", shape.heads, found.get("n_head")
            yield "spec.model.intermediateSize", shape.intermediate_size, found.get("n_inner") or 4 * hidden
            yield "spec.model.normEps", shape.norm_eps, found.get("layer_norm_epsilon", 1e-5)
            yield "spec.training.sequenceLength", shape.positions, found.get("n_positions")
        case "bert":
            yield "spec.model.layers", shape.layers, found.get("num_hidden_layers")
            yield "spec.model.heads", shape.heads, found.get("num_attention_heads")
            yield "spec.model.intermediateSize", shape.intermediate_size, found.get("intermediate_size")
            yield "spec.model.normEps", shape.norm_eps, found.get("layer_norm_eps", 1e-12)
            yield "spec.training.sequenceLength", shape.positions, found.get("max_position_embeddings")
        case "marian":
            yield "spec.model.layers", shape.layers, found.get("decoder_layers")
            yield "spec.model.encoderLayers", shape.encoder_layers, found.get("encoder_layers")
            yield "spec.model.heads", shape.heads, found.get("decoder_attention_heads")
            yield "spec.model.intermediateSize", shape.intermediate_size, found.get("decoder_ffn_dim")


def _said(value: Any) -> str:
    """A value as a job has it."""
    return value if isinstance(value, str) else json.dumps(value)


def _tokens(tokenizer: str | bytes) -> dict[str, Any]:
    """What of tokenizer.json says which token is which text."""
    content: dict[str, Any] = json.loads(tokenizer)
    return {name: part for name, part in content.items() if name not in BESIDE_TOKENS}


@contextmanager
def _unpatched() -> Iterator[None]:
    """In here tensors are made as torch makes them, also where ZeRO 3 slices parameters as they are made."""
    from deepspeed.runtime.zero.partition_parameters import restore_init_context, shutdown_init_context

    shutdown_init_context()
    try:
        yield
    finally:
        restore_init_context()


def _gathered(place: Any) -> ExitStack:
    """In here a sliced parameter is whole, and afterwards all processes have what the first made of it."""
    import deepspeed

    stack = ExitStack()
    if hasattr(place, "ds_id"):
        stack.enter_context(deepspeed.zero.GatheredParameters([place], modifier_rank=0))
    return stack
