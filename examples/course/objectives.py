"""What each objective makes of a few sentences, Chinese and English: python examples/course/objectives.py

Tokens are words, in Chinese characters. Words and sentences are marked as the stage tokenize marks them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from pretrain_preprocess.marks import mark
from pretrain_trainer.config.sections import Training
from pretrain_trainer.objectives import objective_of
from pretrain_trainer.objectives.special import SpecialTokens
from pretrain_trainer.order import chance_at
from pretrain_trainer.plan import TokenizerFacts
from pretrain_trainer.sample import DECODER_TOKENS, IGNORED, NEXT_SENTENCE, TOKENS, Sample
from pretrain_trainer.text import Text
from pretrain_trainer.tokens import TokenStream
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

ENGLISH = (
    "The river was high after the rain. We crossed it on the old bridge. The path on the other side went up to the village.",
    "Nobody had lit a lamp there. A dog barked somewhere behind the houses. We knocked at the first door.",
)
CHINESE = (
    "大雨过后，河水涨得很高。我们从老桥上走了过去。对岸的小路一直通向村庄。",
    "那里没有人点灯。房子后面有一只狗在叫。我们敲了敲第一扇门。",
)
SENTINELS = [f"<|sentinel_{number}|>" for number in range(8)]
SPECIAL = ["<|endoftext|>", "<|pad|>", "<|cls|>", "<|sep|>", "<|mask|>", *SENTINELS]
LENGTHS = {"causal-lm": 12, "masked-lm": 32, "masked-lm+next-sentence": 44, "span-corruption": 34}
SHOWN = {"causal-lm": (0,), "masked-lm": (3,), "masked-lm+next-sentence": (0, 2), "span-corruption": (0,)}
"""Indices of the samples that are shown; at others the same text is masked otherwise."""


def main() -> None:
    tokenizer = vocabulary([*ENGLISH, *CHINESE])
    facts: dict[str, Any] = {"vocab_size": tokenizer.get_vocab_size(), "sha256": "", "end_of_text": SPECIAL[0]}
    facts |= {
        "end_of_text_id": 0,
        "pad_id": 1,
        "cls_id": 2,
        "sep_id": 3,
        "mask_id": 4,
        "sentinel_ids": (5, 6, 7, 8, 9, 10, 11, 12),
    }
    special = SpecialTokens(TokenizerFacts(**facts))
    for objective, length in LENGTHS.items():
        print(f"{objective}, sequenceLength {length}")
        section = Training.model_validate(
            {"objective": objective, "sequenceLength": length, "tokens": length, "globalBatchTokens": length}
        )
        for name, documents in (("English", ENGLISH), ("Chinese", CHINESE)):
            text = text_of(name, tokenizer, documents)
            print(f"\n  {name}")
            for index in SHOWN[objective]:
                made = objective_of(section, special).sample(text, 0, chance_at("example", 0, index))
                for line in lines(made, tokenizer):
                    print(f"    {line}")
        print()


def vocabulary(texts: Sequence[str]) -> Tokenizer:
    normalizer, splitter = normalizers.BertNormalizer(lowercase=False), pre_tokenizers.BertPreTokenizer()
    words = {word for text in texts for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))}
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate([*SPECIAL, *sorted(words)])}))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    return tokenizer


def text_of(name: str, tokenizer: Tokenizer, documents: Sequence[str]) -> Text:
    """The documents as training reads them."""
    tokens, marks, ends = [], [], []
    for document in documents:
        encoded = tokenizer.encode(document)
        tokens += [*encoded.ids, 0]
        marks += mark(document, [end for _, end in encoded.offsets]).tolist()  # the end-of-text token has one too
        ends.append(len(tokens))
    stop = np.array([len(tokens)])
    streams = [TokenStream((np.array(row, np.uint16),), stop) for row in (tokens, marks)]
    return Text(name, streams[0], (np.array(ends, np.uint64),), streams[1])


def lines(sample: Sample, tokenizer: Tokenizer) -> Iterator[str]:
    """The sample in words: what is read, and what is asked for at which of its places, counted from 0."""
    yield f"reads    {words(sample.inputs[TOKENS], tokenizer)}"
    read, asked = sample.inputs.get(DECODER_TOKENS), sample.targets[TOKENS]
    if read is not None:
        yield f"decoder  {words(read, tokenizer)}"
    if read is not None or (asked != IGNORED).all():
        yield f"asked    {words(asked, tokenizer)}"
    else:
        places = np.flatnonzero(asked != IGNORED).tolist()
        yield "asked    " + ", ".join(f"{place}: {tokenizer.id_to_token(int(asked[place]))}" for place in places)
    if NEXT_SENTENCE in sample.targets:
        yield f"         the second text {'follows' if sample.targets[NEXT_SENTENCE] == 0 else 'is from elsewhere'}"


def words(row: Any, tokenizer: Tokenizer) -> str:
    shown: Mapping[str, str] = {f"<|sentinel_{number}|>": f"<{number}>" for number in range(8)}
    names = [tokenizer.id_to_token(int(token)) or "" for token in row if token != IGNORED]
    used = len(names)
    while names[used - 1] == SPECIAL[1]:
        used -= 1
    pads, names = len(names) - used, names[:used]
    told = " ".join(shown.get(name, name.replace("<|", "<").replace("|>", ">")) for name in names)
    return told + (f" and {pads} x <pad>" if pads else "")


if __name__ == "__main__":
    main()
