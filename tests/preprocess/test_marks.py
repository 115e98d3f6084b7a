"""Where words and sentences begin among the tokens of each kind of tokenizer."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from pretrain_preprocess.marks import SENTENCE, WORD, mark, sentence_starts, word_starts
from pretrain_preprocess.split import is_held_out
from pretrain_stage.errors import UserError
from tokenizers import Tokenizer

from tests.preprocess import texts
from tests.preprocess.stages import contents, manifest, run
from tests.preprocess.test_tokens import TOKENIZE, small_corpus, texts_of_shard, trained

ALGORITHMS = ["bpe", "wordpiece", "unigram"]


def pieces(text: str, starts: list[int]) -> list[str]:
    return [text[start:end] for start, end in itertools.pairwise([*starts, len(text)])]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("他说：“你好。”然后走了！真的吗？？是。", ["他说：“你好。”", "然后走了！", "真的吗？？", "是。"]),
        ('He left. "Why?" she asked. Then (so.) End', ["He left. ", '"Why?" she asked. ', "Then (so.) ", "End"]),
        ("See e.g. this, 3.5 or v1.2.3 of it", ["See e.g. this, 3.5 or v1.2.3 of it"]),
        ("Mr. Smith", ["Mr. ", "Smith"]),
        ("标题\n正文。 \n\n  下一段", ["标题\n", "正文。 \n\n  ", "下一段"]),
        ("Ends here.\n", ["Ends here.\n"]),
        ("", [""]),
    ],
)
def test_sentences(text: str, sentences: list[str]) -> None:
    assert pieces(text, sentence_starts(text)) == sentences


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("我们在北京大学学习。", ["我们", "在", "北京大学", "学习", "。"]),
        ("It isn't  so,\nyou see. ", ["It", " is", "n't", "  so", ",", "\nyou", " see", ". "]),
        ("用 Python 写程序", ["用", " Python", " 写", "程序"]),
        ("  ", ["  "]),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert pieces(text, word_starts(text)) == words


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_marks_stand_where_words_and_sentences_begin(tmp_path: Path, algorithm: str) -> None:
    """With few entries a word is several tokens, and with bytes a Chinese character too: their first is marked, no other."""
    size = {"bpe": 300, "wordpiece": 600, "unigram": 1_000}[algorithm]
    tokenizer, _, _ = trained(tmp_path, algorithm=algorithm, vocabSize=size)
    for text in ("我们在北京大学学习。今天下雨！", "He isn't here. She's gone  away.\nNext line", "龘龘 rare 字"):
        encoding = tokenizer.encode(text, add_special_tokens=False)
        found = mark(text, [end for _, end in encoding.offsets])
        assert len(found) == len(encoding.ids) + 1
        assert found[-1] == WORD
        sentences = sentence_starts(text)
        for starts, bit in ((word_starts(text) + sentences, WORD), (sentences, SENTENCE)):
            held = {first_holding(encoding.offsets, start) for start in starts}
            assert np.flatnonzero(found[:-1] & bit).tolist() == sorted(held)
        assert all(found[:-1][(found[:-1] & SENTENCE) > 0] & WORD), "a sentence begins with a word"


def first_holding(offsets: list[tuple[int, int]], place: int) -> int:
    return next(number for number, (start, end) in enumerate(offsets) if start <= place < end)


def test_a_character_of_three_tokens_is_marked_once(tmp_path: Path) -> None:
    tokenizer, _, _ = trained(tmp_path, vocabSize=300)
    text = "龘。你"
    encoding = tokenizer.encode(text)
    assert [start for start, _ in encoding.offsets].count(0) == 3
    found = mark(text, [end for _, end in encoding.offsets]).tolist()
    assert found[:3] == [WORD | SENTENCE, 0, 0]
    assert sum(bool(value & SENTENCE) for value in found) == 2
    assert found[-1] == WORD


def test_a_token_with_several_words_is_marked_once() -> None:
    assert mark("今天下雨了。", [4, 5, 6]).tolist() == [3, 1, 1, 1], "今天 and 下雨 are one token"


def test_text_that_no_token_holds_is_passed_over() -> None:
    """As with a given tokenizer that drops white space."""
    assert mark("a bee. ", [1, 5, 6], "en").tolist() == [3, 1, 1, 1]
    assert mark("", []).tolist() == [1]


@pytest.mark.parametrize("objective", ["masked-lm", "masked-lm+next-sentence"])
def test_marks_lie_beside_the_tokens_for_objectives_that_ask_for_them(tmp_path: Path, objective: str) -> None:
    job = small_corpus(tmp_path, tasks=1)
    run(tmp_path, job, *TOKENIZE)
    plain = contents(tmp_path / "storage")
    assert not [path for path in plain if path.endswith(".marks")]
    job["training"] = {"objective": objective}
    run(tmp_path, job, *TOKENIZE)
    marked = contents(tmp_path / "storage")
    added = marked.keys() - plain.keys()
    assert added == {f"tokens/{split}/source-0/00000.ds.marks" for split in ("train", "held-out")}
    assert {path: marked[path] for path in plain} == plain, "tokens are the same"
    assert added <= {file.path for file in manifest(job, "tokenize").outputs}
    tokenizer = Tokenizer.from_file(str(tmp_path / "storage" / "tokenizer" / "tokenizer.json"))
    expected: dict[str, list[int]] = {path: [] for path in added}
    for text in texts_of_shard(tmp_path / "storage", 0):
        split = "held-out" if is_held_out(text, 0.2) else "train"
        ends = [end for _, end in tokenizer.encode(text).offsets]
        expected[f"tokens/{split}/source-0/00000.ds.marks"] += mark(text, ends).tolist()
    assert {path: list(marked[path]) for path in added} == expected
    assert all(len(marked[path]) == len(marked[path.removesuffix(".marks")]) // 2 for path in added)


def test_a_language_without_spaces_is_refused() -> None:
    with pytest.raises(UserError, match=r"^corpus\.language\.keep: 'ja' is written without spaces .* masked-lm"):
        mark("日本語", [3], "ja")


def test_real_articles_are_marked_at_every_word() -> None:
    text = next(text for text in texts.chinese() if len(text) > 300)
    by_character = mark(text, list(range(1, len(text) + 1)))[:-1]
    assert np.flatnonzero(by_character & WORD).tolist() == sorted({*word_starts(text), *sentence_starts(text)})
