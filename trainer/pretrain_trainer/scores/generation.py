"""Scores of texts: BLEU, ROUGE, and for answers to questions exact match and F1 of words. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pretrain_trainer.scores.interval import Metrics, Multiplicities
from pretrain_trainer.scores.words import answer_words, is_chinese, words

ROUGE = {"rouge-1": "rouge1", "rouge-2": "rouge2", "rouge-l": "rougeL"}
"""ROUGE (Lin 2004): our name, and that of rouge-score."""
ORDERS = 4
"""BLEU looks at sequences of up to so many words."""


@dataclass(frozen=True)
class Generation:
    """What is told of texts besides the metrics. bleu_signature: how sacreBLEU counted (Post 2018)."""

    chinese: bool
    bleu_signature: str
    empty_predictions: int


def compare_texts(
    references: Sequence[Sequence[str]], predictions: Sequence[str], chinese: bool | None = None
) -> tuple[Generation, Metrics]:
    """The scores, and the metrics of a sample of the examples. Each example has one reference or more.

    bleu is sacreBLEU's, from 0 to 100, over all words of the sample; the others are means over examples, from 0 to 1, of
    the best reference each.
    chinese: whether BLEU and answers take Chinese by characters. Omit to look at the references.
    """
    if chinese is None:
        chinese = is_chinese(text for texts in references for text in texts)
    signature, ngrams = _ngrams(references, predictions, "zh" if chinese else "13a")
    means = {
        **_rouge(references, predictions),
        **_answers(references, predictions, chinese),
    }

    def metrics(sample: Multiplicities) -> dict[str, float]:
        size = sample.sum()
        found = {name: float(sample @ values / size) if size else 0.0 for name, values in means.items()}
        return {"bleu": _bleu(sample @ ngrams), **found}

    empty = sum(not text.strip() for text in predictions)
    return Generation(chinese, signature, empty), metrics


def _ngrams(references: Sequence[Sequence[str]], predictions: Sequence[str], tokenize: str) -> tuple[str, NDArray[np.int64]]:
    """SacreBLEU's signature, and what BLEU counts in each example: (examples, right and all sequences of 1 to 4 words, and
    the lengths of prediction and reference).
    """
    from sacrebleu.metrics.bleu import BLEU

    # Without force it complains about text that ends in a separate full stop; effective_order quiets it about single sentences.
    counter = BLEU(tokenize=tokenize, effective_order=True, force=True)
    rows = []
    for texts, text in zip(references, predictions, strict=True):
        found = counter.sentence_score(text, list(texts))
        rows.append([*found.counts, *found.totals, found.sys_len, found.ref_len])
    corpus = BLEU(tokenize=tokenize, force=True)
    most = max((len(texts) for texts in references), default=1)
    streams = [[texts[place] if place < len(texts) else None for texts in references] for place in range(most)]
    if predictions:
        corpus.corpus_score(list(predictions), streams)
    signature = str(corpus.get_signature()) if predictions else ""
    return signature, np.array(rows, np.int64).reshape(len(rows), 2 * ORDERS + 2)


def _bleu(counts: NDArray[np.int64]) -> float:
    """BLEU (Papineni et al. 2002) of sums of the counts, with sacreBLEU's default smoothing."""
    from sacrebleu.metrics.bleu import BLEU

    *grams, predicted, asked = (int(count) for count in counts)
    return float(BLEU.compute_bleu(grams[:ORDERS], grams[ORDERS:], predicted, asked, smooth_method="exp").score)


def _rouge(references: Sequence[Sequence[str]], predictions: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    from rouge_score.rouge_scorer import RougeScorer

    class Words:
        def tokenize(self, text: str) -> list[str]:
            return words(text)

    # Its own tokenizer keeps nothing but a-z and 0-9.
    scorer = RougeScorer(list(ROUGE.values()), tokenizer=Words())
    found = [
        [scorer.score(text, prediction) for text in texts] for texts, prediction in zip(references, predictions, strict=True)
    ]
    return {
        name: np.array([max(score[theirs].fmeasure for score in scores) for scores in found], float)
        for name, theirs in ROUGE.items()
    }


def _answers(
    references: Sequence[Sequence[str]], predictions: Sequence[str], chinese: bool
) -> dict[str, NDArray[np.float64]]:
    found = [
        ([answer_words(text, chinese) for text in texts], answer_words(prediction, chinese))
        for texts, prediction in zip(references, predictions, strict=True)
    ]
    return {
        "exact-match": np.array([float(answer in asked) for asked, answer in found], float),
        "token-f1": np.array([max(_token_f1(one, answer) for one in asked) for asked, answer in found], float),
    }


def _token_f1(asked: list[str], answer: list[str]) -> float:
    """F1 of words as SQuAD 2.0 has it: 1 if both sides are empty, 0 if one is."""
    if not asked or not answer:
        return float(asked == answer)
    return 2 * (Counter(asked) & Counter(answer)).total() / (len(asked) + len(answer))
