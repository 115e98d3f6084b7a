"""Scores of texts, against sacreBLEU, rouge-score and SQuAD's rules by hand."""

from __future__ import annotations

from itertools import pairwise

import pytest
import sacrebleu
from pretrain_trainer.scores import METRICS, metric_of, score
from pretrain_trainer.scores.generation import Generation
from pretrain_trainer.scores.words import answer_words, is_chinese, words
from rouge_score.rouge_scorer import RougeScorer

ENGLISH = [
    ("The cat sat on the mat.", "A cat sat on the mat."),
    ("It is raining in Berlin today, again.", "It rains in Berlin today."),
    ("Nothing to say", ""),
]
CHINESE = [("今天天气很好，我们去公园吧。", "今天天气好，我们去公园。"), ("他在北京大学读书。", "他读书在北京。")]


@pytest.mark.parametrize(("pairs", "tokenize"), [(ENGLISH, "13a"), (CHINESE, "zh")])
def test_sacrebleu_says_the_same(pairs: list[tuple[str, str]], tokenize: str) -> None:
    references, predictions = (list(side) for side in zip(*pairs, strict=True))
    scores = score("generation", references, predictions)
    theirs = sacrebleu.corpus_bleu(predictions, [references], tokenize=tokenize)
    assert scores.metrics["bleu"] == pytest.approx(theirs.score)
    assert 0 < theirs.score < 100
    details = generation(scores.details)
    assert f"tok:{tokenize}" in details.bleu_signature
    assert details.chinese == (tokenize == "zh")


def test_several_references_of_different_number() -> None:
    references = [["a cat sat on the mat", "the cat sat on a mat"], ["it rains in the city"]]
    predictions = ["the cat sat on the mat", "it rains in a city"]
    scores = score("generation", references, predictions)
    streams = [[texts[0] for texts in references], [references[0][1], None]]
    assert scores.metrics["bleu"] == pytest.approx(sacrebleu.corpus_bleu(predictions, streams).score)
    assert "nrefs:var" in generation(scores.details).bleu_signature


def test_the_best_reference_counts() -> None:
    metrics = score("generation", [["not at all", "yes, of course"], ["no", "yes"]], ["of course", "Yes."]).metrics
    assert metrics["exact-match"] == 1 / 2
    assert metrics["token-f1"] == pytest.approx((4 / 5 + 1) / 2)
    assert metrics["rouge-l"] == pytest.approx((4 / 5 + 1) / 2)


def test_rouge_by_its_own_tokenizer_and_ours_agree_on_plain_english() -> None:
    references, predictions = (list(side) for side in zip(*ENGLISH, strict=True))
    scores = score("generation", references, predictions, resamples=0)
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])
    theirs = [scorer.score(one, other) for one, other in ENGLISH]
    for ours, name in (("rouge-1", "rouge1"), ("rouge-2", "rouge2"), ("rouge-l", "rougeL")):
        assert scores.metrics[ours] == pytest.approx(sum(found[name].fmeasure for found in theirs) / 3)


def test_rouge_of_chinese_by_hand() -> None:
    one, other = "我爱北京", "我在北京"
    assert RougeScorer(["rouge1"]).score(one, one)["rouge1"].fmeasure == 0, "its own tokenizer drops Chinese"
    scores = score("generation", [one], [other], resamples=0)
    assert scores.metrics["rouge-1"] == 3 / 4
    assert scores.metrics["rouge-2"] == pytest.approx(1 / 3), "of 3 pairs 北京 is in both"
    assert scores.metrics["rouge-l"] == 3 / 4
    assert len(set(pairwise(one)) & set(pairwise(other))) == 1


def test_words() -> None:
    assert words("用Python 3写的 naïve 程序（v2.0）。𠮷野") == [
        "用", "python", "3", "写", "的", "naïve", "程", "序", "v2", "0", "𠮷", "野",
    ]  # fmt: skip
    assert words("snake_case") == ["snake", "case"]
    assert is_chinese(["他用 Python 写程序"])
    assert not is_chinese(["The word 你好 means hello"])
    assert not is_chinese([])


def test_answers_in_english() -> None:
    assert answer_words("The  Eiffel Tower, (in Paris)!", chinese=False) == ["eiffel", "tower", "in", "paris"]
    scores = score("generation", ["the Eiffel Tower", "1889", "Gustave Eiffel"], ["Eiffel tower.", "in 1889", ""])
    assert scores.metrics["exact-match"] == pytest.approx(1 / 3)
    assert scores.metrics["token-f1"] == pytest.approx((1 + 2 / 3 + 0) / 3)


def test_answers_in_chinese() -> None:
    assert answer_words("埃菲尔铁塔（Eiffel Tower）。", chinese=True) == [*"埃菲尔铁塔", "eiffel", "tower"]
    scores = score("generation", ["一八八九年。", "在巴黎"], ["一八八九年", "巴黎市"])
    assert scores.metrics["exact-match"] == 1 / 2
    assert scores.metrics["token-f1"] == pytest.approx((1 + 2 * 2 / 6) / 2)
    english = score("generation", ["在巴黎"], ["巴黎市"], chinese=False)
    assert english.metrics["token-f1"] == 0, "without spaces a clause is one word"


def test_repeated_words_count_as_often_as_they_are_on_both_sides() -> None:
    scores = score("generation", ["no no no"], ["no no yes yes"], resamples=0)
    assert scores.metrics["token-f1"] == pytest.approx(2 * 2 / 7)


def test_nothing_is_answered() -> None:
    scores = score("generation", ["一二三四五", "六"], ["", " "])
    assert set(scores.metrics.values()) == {0}
    assert generation(scores.details).empty_predictions == 2
    both = score("generation", [""], [""], resamples=0)
    assert (both.metrics["exact-match"], both.metrics["token-f1"]) == (1, 1)


def test_metrics_that_a_model_is_chosen_by() -> None:
    scores = score("generation", ["a b c d"], ["a b c d"], loss=1.5)
    assert [metric_of(scores, name) for name in METRICS["generation"]] == pytest.approx([1.5, 100, 1, 1, 1])


def generation(details: object) -> Generation:
    assert isinstance(details, Generation)
    return details
