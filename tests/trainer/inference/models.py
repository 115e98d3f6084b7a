"""Small models with fresh weights, each in a folder as transformers saves it, with a real tokenizer of real text."""

from __future__ import annotations

from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

END, PAD, CLS, SEP = "<|endoftext|>", "<|pad|>", "<|cls|>", "<|sep|>"
CHINESE = "今天天气很好，我们去公园散步。你喜欢读书吗？语言模型把文字变成数字。"
POSITIONS = 160
LABELS = ("bad", "fair", "good")
TAGS = ("B-PER", "I-PER", "O")
CHAT = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def tokenizer(*, framed: bool) -> Tokenizer:
    """A byte-level BPE; it knows no Chinese character, so each is several tokens. framed: texts stand between CLS and SEP."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=[END, PAD, CLS, SEP],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([topics[name] for name in sorted(topics)[:20]], trainer)
    if framed:
        made.post_processor = processors.TemplateProcessing(
            single=f"{CLS} $A {SEP}", special_tokens=[(CLS, made.token_to_id(CLS)), (SEP, made.token_to_id(SEP))]
        )
    return made


def save(folder: Path, model: Any, *, framed: bool = False, chat: bool = False) -> Path:
    """Leaves the model in the folder, with its tokenizer."""
    model.save_pretrained(folder)
    tokenizer(framed=framed).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        f'{{"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "{END}", "pad_token": "{PAD}"}}'
    )
    if chat:
        (folder / "chat_template.jinja").write_text(CHAT)
    return folder


def lively(model: Any) -> Any:
    """Weights so large that the next token depends on all before it: fresh ones say nearly the same whatever they are asked."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn_like(parameter) * 0.3)
    return model.eval()


COMMON = {"vocab_size": 512, "eos_token_id": 0, "pad_token_id": 1, "bos_token_id": None}


def llama(**changes: Any) -> Any:
    config = transformers.LlamaConfig(
        **COMMON,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=POSITIONS,
        **changes,
    )
    return lively(transformers.LlamaForCausalLM(config))


def gpt2() -> Any:
    config = transformers.GPT2Config(**COMMON, n_embd=64, n_layer=2, n_head=4, n_positions=POSITIONS)
    return lively(transformers.GPT2LMHeadModel(config))


def marian() -> Any:
    config = transformers.MarianConfig(
        vocab_size=512,
        eos_token_id=0,
        pad_token_id=1,
        decoder_start_token_id=1,
        forced_eos_token_id=0,
        d_model=64,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=96,
        decoder_ffn_dim=96,
        max_position_embeddings=POSITIONS,
    )
    return lively(transformers.MarianMTModel(config))


def bert_config(labels: tuple[str, ...] = ()) -> Any:
    named = {"id2label": dict(enumerate(labels)), "label2id": {label: number for number, label in enumerate(labels)}}
    return transformers.BertConfig(
        vocab_size=512,
        pad_token_id=1,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        max_position_embeddings=POSITIONS,
        **(named if labels else {}),
    )


def classifier() -> Any:
    return lively(transformers.BertForSequenceClassification(bert_config(LABELS)))


def tagger() -> Any:
    return lively(transformers.BertForTokenClassification(bert_config(TAGS)))
