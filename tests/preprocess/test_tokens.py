"""Tokenizers that are trained or given, and the token files that are made with them."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from datatrove.utils.dataset import DatatroveFileDataset
from hypothesis import given
from hypothesis import strategies as st
from pretrain_preprocess import origins
from pretrain_preprocess.config import Learned, TrainTokenizer
from pretrain_preprocess.split import is_held_out, is_sampled
from pretrain_preprocess.tokenizer import alphabet, check_options
from pretrain_preprocess.tokens import words_of
from pretrain_stage.errors import CorruptError, UserError
from pydantic import ValidationError
from tokenizers import Tokenizer, models, pre_tokenizers

from tests.preprocess import texts
from tests.preprocess.stages import Spec, contents, documents, manifest, run, spec, write_job, write_jsonl

ALGORITHMS = ["bpe", "wordpiece", "unigram"]
TOKENIZE = ("clean", "tokenizer", "tokenize")


def small_corpus(folder: Path, tasks: int = 2, **tokenizer: Any) -> Spec:
    """Some English and Chinese documents in two files, and a job that makes tokens of them."""
    write_jsonl(folder / "raw" / "en.jsonl", texts.english()[:12])
    write_jsonl(folder / "raw" / "zh.jsonl", texts.chinese()[:40])
    job = spec(folder / "storage", {"uri": str(folder / "raw")}, tasks=tasks, heldOutFraction=0.2)
    return {**job, "tokenizer": tokenizer or {"train": {"vocabSize": 600}}}


def trained(folder: Path, **train: Any) -> tuple[Tokenizer, Spec, dict[str, Any]]:
    job = small_corpus(folder, train=train)
    run(folder, job, "clean", "tokenizer")
    path = folder / "storage" / "tokenizer" / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.encode_special_tokens = True
    return tokenizer, job, manifest(job, "tokenizer").facts


def back(tokenizer: Tokenizer, text: str) -> str:
    decoded: str = tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids, skip_special_tokens=False)
    return decoded


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_trained_tokenizer_is_what_was_asked_for(tmp_path: Path, algorithm: str) -> None:
    special = ["<eos>", "<pad>", "<user>"]
    tokenizer, _, facts = trained(tmp_path, algorithm=algorithm, vocabSize=3_000, specialTokens=special)
    assert [tokenizer.id_to_token(number) for number in range(3)] == special
    assert facts["vocab_size"] == tokenizer.get_vocab_size() <= 3_000
    assert facts["vocab_size"] > 2_500
    assert (facts["end_of_text"], facts["end_of_text_id"], facts["pad_id"]) == ("<eos>", 0, 1)
    assert facts["algorithm"] == algorithm
    assert sorted(tokenizer.get_vocab().values()) == list(range(facts["vocab_size"]))
    seen = [text for text in (*texts.english()[:12], *texts.chinese()[:40]) if not is_held_out(text, 0.2)]
    assert all(back(tokenizer, text) == text for text in seen), "text that it was trained on comes back as it was"


@pytest.mark.parametrize("algorithm", ["bpe", "unigram"])
def test_any_text_comes_back(tmp_path: Path, algorithm: str) -> None:
    tokenizer, _, _ = trained(tmp_path, algorithm=algorithm, vocabSize=1_500)
    for text in (
        "𠀀 é ﷺ \x00 \t\n  x",
        "👩\u200d🚀",
        " blank first",
        "a  b   c ",
        "<0x0A> <|endoftext|> <unk>",
        "##a ▂ \u2580",
    ):
        assert back(tokenizer, text) == text


def test_what_wordpiece_loses(tmp_path: Path) -> None:
    tokenizer, _, _ = trained(tmp_path, algorithm="wordpiece", vocabSize=1_500)
    assert back(tokenizer, "## Title  with two blanks\nand ##a") == "## Title  with two blanks\nand ##a"
    assert back(tokenizer, "中国人民") == "中国人民"
    assert "<unk>" in back(tokenizer, "𠀀")
    assert back(tokenizer, "a▁b") == "a b"


@pytest.mark.parametrize("algorithm", [*ALGORITHMS, "word"])
def test_text_that_spells_a_special_token_is_text(tmp_path: Path, algorithm: str) -> None:
    tokenizer, _, facts = trained(tmp_path, algorithm=algorithm, vocabSize=1_500)
    for text in ("<|endoftext|>", "a <|endoftext|> b <|pad|>", "中<|endoftext|>国"):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert facts["end_of_text_id"] not in ids
        assert facts["pad_id"] not in ids


@pytest.mark.parametrize("algorithm", [*ALGORITHMS, "word"])
def test_the_same_text_gives_the_same_tokenizer(tmp_path: Path, algorithm: str) -> None:
    found = set()
    for name in ("one", "two"):  # in processes of their own: hash seeds differ between processes
        folder = tmp_path / name
        job = small_corpus(folder, train={"algorithm": algorithm, "vocabSize": 1_200})
        run(folder, job, "clean")
        path = write_job(folder, job)
        done = subprocess.run(
            [sys.executable, "-m", "pretrain_preprocess", "tokenizer", "--job", path], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        found.add((folder / "storage" / "tokenizer" / "tokenizer.json").read_bytes())
    assert len(found) == 1


def test_special_tokens_are_told_by_what_they_are_for(tmp_path: Path) -> None:
    tokenizer, _, facts = trained(tmp_path, vocabSize=400, sentinels=3)
    assert [tokenizer.id_to_token(number) for number in range(8)] == [
        *("<|endoftext|>", "<|pad|>", "<|cls|>", "<|sep|>", "<|mask|>"),
        *("<|sentinel_0|>", "<|sentinel_1|>", "<|sentinel_2|>"),
    ]
    assert [facts[f"{role}_id"] for role in ("end_of_text", "pad", "cls", "sep", "mask")] == [0, 1, 2, 3, 4]
    assert facts["sentinel_ids"] == [5, 6, 7]
    assert all(token.special for token in tokenizer.get_added_tokens_decoder().values())


def test_special_tokens_of_a_given_tokenizer_are_found_by_berts_names(tmp_path: Path) -> None:
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, "the": 5}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    tokenizer.save(str(tmp_path / "given.json"))
    job = {**small_corpus(tmp_path), "tokenizer": {"uri": str(tmp_path / "given.json"), "endOfText": "[SEP]"}}
    job["training"] = {"objective": "masked-lm"}
    run(tmp_path, job, "tokenizer")
    facts = manifest(job, "tokenizer").facts
    assert [facts[f"{role}_id"] for role in ("end_of_text", "pad", "cls", "sep", "mask")] == [3, 0, 2, 3, 4]
    assert facts["sentinel_ids"] == []
    job["training"] = {"objective": "span-corruption"}
    job["storage"]["uri"] = str(tmp_path / "other")
    with pytest.raises(UserError, match=r"^training\.objective: span-corruption takes .* but there are 0;"):
        run(tmp_path, job, "tokenizer")


@pytest.mark.parametrize(
    ("training", "train", "message"),
    [
        (
            {"objective": "masked-lm"},
            {"specialTokens": ["<|endoftext|>", "<|pad|>", "<|cls|>", "<|sep|>"]},
            r"training\.objective: masked-lm needs a token <\|mask\|> or \[MASK\], which tokenizer\.train\.specialTokens lacks; add",
        ),
        (
            {"objective": "masked-lm+next-sentence"},
            {"specialTokens": ["</s>", "<p>", "[CLS]", "[MASK]"]},
            r"training\.objective: masked-lm\+next-sentence needs a token <\|sep\|> or \[SEP\]",
        ),
        (
            {"objective": "span-corruption"},
            {"specialTokens": ["</s>"], "sentinels": 102},
            r"training\.objective: .* <\|pad\|> or",
        ),
        (
            {"objective": "span-corruption", "sequenceLength": 512},
            {"sentinels": 27},
            r"training\.objective: span-corruption takes 28 spans out of a sample \(sequenceLength 512\).* set .*\.sentinels to 28",
        ),
        (
            {"objective": "span-corruption", "sequenceLength": 100, "masking": {"fraction": 0.5, "meanSpan": 10}},
            {"sentinels": 8},
            r"training\.objective: span-corruption takes 9 spans out of a sample",
        ),
        (
            {},
            {"sentinels": 340},
            r"tokenizer\.train\.vocabSize: 600 is too small for 345 special .* raise it to 601 at least",
        ),
    ],
)
def test_a_tokenizer_without_what_the_objective_needs_is_refused(
    training: dict[str, Any], train: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        check_options(TrainTokenizer.model_validate({"vocabSize": 600, **train}), Learned.model_validate(training))


def test_an_objective_with_all_it_needs_is_fine() -> None:
    check_options(TrainTokenizer(sentinels=28), Learned(objective="span-corruption", sequenceLength=512))
    check_options(TrainTokenizer(), Learned(objective="masked-lm+next-sentence"))
    check_options(TrainTokenizer(specialTokens=["</s>"]), Learned(objective="causal-lm"))


def test_whole_words(tmp_path: Path) -> None:
    """Known words are one token each; an unknown one is one <unk>, even if there are known words in it."""
    tokenizer, _, facts = trained(tmp_path, algorithm="word", vocabSize=6_000, minFrequency=1)
    unknown = tokenizer.token_to_id("<unk>")
    assert facts["algorithm"] == "word"
    text = "我们在中国，the statement isabel (if) 龘龘."
    encoding = tokenizer.encode(text)
    assert [tokenizer.id_to_token(number) for number in encoding.ids] == [
        *("我们", "在", "中国", "，", "⟨the⟩", "⟨statement⟩", "<unk>", "(", "⟨if⟩", ")", "<unk>", "."),
    ]
    assert [text[:end] for _, end in encoding.offsets][6] == "我们在中国，the statement isabel"
    assert back(tokenizer, "中国人民 use the statement.") == "中国人民 use the statement."
    assert tokenizer.encode("").ids == []
    assert tokenizer.encode("<|endoftext|>").ids != [facts["end_of_text_id"]]
    assert unknown not in tokenizer.encode(texts.english()[3]).ids, "all words of the training text are known"


def test_rare_frequent_and_stop_words_are_left_out(tmp_path: Path) -> None:
    write_jsonl(
        tmp_path / "raw" / "a.jsonl",
        ["the cat of 我们 的 猫", "the dog of 我们 的 狗", "dog the bird 猫", "Cat often, THE end 狗 often"],
    )
    job = spec(tmp_path / "storage", {"uri": str(tmp_path / "raw")}, heldOutFraction=0)

    def words(**train: Any) -> set[str]:
        job["tokenizer"] = {"train": {"algorithm": "word", "vocabSize": 300, "minFrequency": 1, **train}}
        run(tmp_path, job, "clean", "tokenizer")
        entries = Tokenizer.from_file(str(tmp_path / "storage" / "tokenizer" / "tokenizer.json")).get_vocab()
        return {entry.strip("⟨⟩") for entry in entries if not entry.startswith("<")}

    everything = {"the", "THE", "cat", "Cat", "dog", "bird", "of", "often", "end", ",", "我们", "的", "猫", "狗"}
    assert words() == everything
    assert words(minFrequency=2) == {"the", "dog", "of", "often", "我们", "的", "猫", "狗"}
    assert words(maxDocumentShare=0.5) == everything - {"the"}
    assert words(caseFold=True) == everything - {"THE", "Cat"}
    assert words(caseFold=True, maxDocumentShare=0.75) == everything - {"THE", "Cat", "the"}
    assert words(stopWords=["en"]) == everything - {"the", "THE", "of", "often"}
    assert words(stopWords=["zh"]) == everything - {"我们", "的", ","}
    with pytest.raises(UserError, match=r"^tokenizer\.train: none of 14 words is left after minFrequency 9"):
        words(minFrequency=9)


@pytest.mark.parametrize("algorithm", [*ALGORITHMS, "word"])
def test_case_is_folded(tmp_path: Path, algorithm: str) -> None:
    tokenizer, _, _ = trained(tmp_path, algorithm=algorithm, vocabSize=1_500, caseFold=True)
    assert tokenizer.encode("The STATEMENT").ids == tokenizer.encode("the statement").ids
    assert not [entry for entry in tokenizer.get_vocab() if "T" in entry and len(entry) > 1], (
        "no entry is wasted on what cannot occur"
    )
    plain, _, _ = trained(tmp_path / "plain", algorithm=algorithm, vocabSize=1_500)
    assert plain.encode("The STATEMENT").ids != plain.encode("the statement").ids


@pytest.mark.parametrize("field", [{"stopWords": ["en"]}, {"maxDocumentShare": 0.9}])
def test_words_are_left_out_of_a_vocabulary_of_words_only(field: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="remove them, or set algorithm to word"):
        TrainTokenizer.model_validate(field)
    TrainTokenizer.model_validate({**field, "algorithm": "word"})


def test_unigram_needs_room_for_bytes_and_characters(tmp_path: Path) -> None:
    job = small_corpus(tmp_path, train={"algorithm": "unigram", "vocabSize": 999})
    with pytest.raises(UserError, match=r"^tokenizer\.train\.vocabSize: 999 is too small for unigram, which needs 1000"):
        run(tmp_path, job, "clean", "tokenizer")


def test_characters_of_a_wordpiece_vocabulary() -> None:
    first, continuing = alphabet(["aab 中中国国国", "a."], room=100)
    assert first == sorted(["a", "b", "中", "国", ".", "▁"])
    assert continuing == sorted(["a", "b", "▁"])
    assert alphabet(["aab 中中国国国", "a."], room=4) == (["a", "中", "国"], ["a"])


def test_a_small_text_gives_a_small_vocabulary_and_a_warning(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "raw" / "a.jsonl", ["the cat sat on the mat"] * 3)
    job = spec(tmp_path / "storage", {"uri": str(tmp_path / "raw")}, heldOutFraction=0)
    job["tokenizer"] = {"train": {"vocabSize": 5_000}}
    said = run(tmp_path, job, "clean", "tokenizer")
    size = manifest(job, "tokenizer").facts["vocab_size"]
    assert isinstance(size, int)
    assert 258 < size < 300
    (warning,) = [event for event in said if event["event"] == "warning"]
    assert warning["message"] == (
        f"tokenizer.train.vocabSize: 5000 was asked for, but the text gave {size} entries; going on with {size}"
    )


def test_a_tokenizer_is_trained_on_a_sample_without_held_out_text(tmp_path: Path) -> None:
    job = small_corpus(tmp_path, train={"vocabSize": 400, "maxTextBytes": 60_000})
    run(tmp_path, job, "clean", "tokenizer")
    counts = manifest(job, "tokenizer").counts
    total = manifest(job, "clean").facts["text_bytes"]
    assert isinstance(total, int)
    held_out = [text for _, text in documents(job, "clean") if is_held_out(text, 0.2)]
    assert counts.dropped["sample"]["held_out"] == len(held_out) > 0
    assert counts.dropped["sample"]["not_sampled"] > 0
    chosen = [text for _, text in documents(job, "clean") if is_sampled(text, 60_000 / total) and text not in held_out]
    assert counts.kept == len(chosen) > 0


@given(st.text(), st.floats(0, 1))
def test_the_split_is_a_function_of_the_text(text: str, fraction: float) -> None:
    assert is_held_out(text, fraction) == is_held_out(str(text), fraction)
    assert not is_held_out(text, 0)
    assert is_held_out(text, 1)


def test_the_split_takes_its_share() -> None:
    numbers = [str(number) for number in range(20_000)]
    held_out, sampled = [is_held_out(n, 0.1) for n in numbers], [is_sampled(n, 0.1) for n in numbers]
    assert 0.09 < np.mean(held_out) < 0.11
    assert 0.09 < np.mean(sampled) < 0.11
    assert 0.007 < np.mean(np.logical_and(held_out, sampled)) < 0.013


def test_token_files_are_datatroves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And beside each there is a list of its documents, written a few at a time."""
    monkeypatch.setattr(origins, "ROWS_AT_ONCE", 7)
    job = small_corpus(tmp_path, tasks=3)
    run(tmp_path, job, *TOKENIZE)
    storage = tmp_path / "storage"
    tokenizer = Tokenizer.from_file(str(storage / "tokenizer" / "tokenizer.json"))
    shards = [texts_of_shard(storage, index) for index in range(3)]
    raw = {
        path.name: [json.loads(line)["text"] for line in path.read_text().splitlines()]
        for path in (tmp_path / "raw").iterdir()
    }
    assert [] in shards, "a task without files"
    tokens = {"train": 0, "held-out": 0}
    for index, shard in enumerate(shards):
        for name, chosen in (("train", False), ("held-out", True)):
            path = storage / "tokens" / name / "source-0" / f"{index:05d}.ds"
            wanted = [text for text in shard if is_held_out(text, 0.2) is chosen]
            if not wanted:
                assert not path.exists()
                continue
            expected = [[*tokenizer.encode(text).ids, 0] for text in wanted]
            flat = [token for document in expected for token in document]
            assert np.fromfile(path, "<u2").tolist() == flat
            ends = np.fromfile(f"{path}.index", "<u8").tolist()
            assert ends == np.cumsum([len(document) for document in expected]).tolist()
            assert Path(f"{path}.metadata").read_text().splitlines()[:2] == ["tokenizer/tokenizer.json|2", str(len(flat))]
            listed = pq.read_table(f"{path}{origins.SUFFIX}").to_pylist()
            assert [row["end"] for row in listed] == ends
            assert [raw[row["file"]][row["record"]] for row in listed] == wanted
            assert [(row["source"], row["id"]) for row in listed] == [
                ("source-0", f"source-0/{row['file']}#{row['record']}") for row in listed
            ]
            tokens[name] += len(flat)
            if len(flat) >= 8:
                dataset = DatatroveFileDataset(str(path), seq_len=7, token_size=2)
                assert [token for number in range(len(dataset)) for token in dataset[number]["input_ids"].tolist()] == flat[
                    : len(dataset) * 8
                ]
    facts = manifest(job, "tokenize").facts
    everything = [text for shard in shards for text in shard]
    held_out = [text for text in everything if is_held_out(text, 0.2)]
    train = [text for text in everything if not is_held_out(text, 0.2)]
    counts: dict[str, Any] = {
        "train_tokens": tokens["train"],
        "held_out_tokens": tokens["held-out"],
        "train_documents": len(train),
        "held_out_documents": len(held_out),
        "train_bytes": sum(len(text.encode()) for text in train),
        "held_out_bytes": sum(len(text.encode()) for text in held_out),
    }
    characters = {
        "train_characters": sum(map(len, train)),
        "held_out_characters": sum(map(len, held_out)),
        "train_copies": 0,
    }
    assert facts == {
        **counts,
        "dtype": "uint16",
        "tokenizer_sha256": manifest(job, "tokenizer").facts["sha256"],
        "sources": {"source-0": {**counts, **characters, "held_out_words": sum(map(words_of, held_out))}},
    }


def test_sources_have_token_files_of_their_own(tmp_path: Path) -> None:
    english, chinese = texts.english()[:40], texts.chinese()[:40]
    write_jsonl(tmp_path / "en" / "a.jsonl", english)
    write_jsonl(tmp_path / "zh" / "a.jsonl", chinese)
    sources = ({"name": "zh", "uri": str(tmp_path / "zh")}, {"name": "en", "uri": str(tmp_path / "en")})
    job = spec(tmp_path / "storage", *sources, tasks=2, heldOutFraction=0.2)
    run(tmp_path, job, *TOKENIZE)
    found = manifest(job, "tokenize")
    paths = {file.path for file in found.outputs if file.path.endswith(".ds")}
    assert len(paths) == 4, "each task has one source's only file"
    assert {path.rpartition("/")[0] for path in paths} == {
        f"tokens/{split}/{source}" for split in ("train", "held-out") for source in ("zh", "en")
    }
    counted = found.facts["sources"]
    assert isinstance(counted, dict)
    for source, written in (("zh", chinese), ("en", english)):
        listed = [
            row["source"]
            for path in sorted((tmp_path / "storage" / "tokens").rglob(f"{source}/*.parquet"))
            for row in pq.read_table(path).to_pylist()
        ]
        assert listed == [source] * len(written)
        counts = counted[source]
        assert isinstance(counts, dict)
        assert counts["held_out_documents"] == sum(is_held_out(text, 0.2) for text in written)
        assert counts["train_documents"] == len(written) - int(str(counts["held_out_documents"]))
        for split, folder in (("train", "train"), ("held_out", "held-out")):
            sizes = [path.stat().st_size for path in (tmp_path / "storage" / "tokens" / folder / source).glob("*.ds")]
            assert counts[f"{split}_tokens"] == sum(sizes) // 2
    for key in ("train_tokens", "held_out_tokens", "train_bytes"):
        assert found.facts[key] == sum(counts[key] for counts in counted.values())  # type: ignore[index, call-overload, misc]


@pytest.mark.parametrize(
    ("text", "words"), [("我们在北京大学。", 3), ("The cat's hat, no?", 5), ("", 0), ("——！ ...", 0), ("用Python写", 3)]
)
def test_words_that_are_counted(text: str, words: int) -> None:
    assert words_of(text) == words


def texts_of_shard(storage: Path, index: int) -> list[str]:
    from pretrain_preprocess.documents import read_shard

    return [document.text for document in read_shard(storage / "corpus" / "clean" / f"{index:05d}.jsonl.zst")]


def given_tokenizer(path: Path, entries: int = 70_000) -> Tokenizer:
    """A tokenizer with many entries, a gap in its ids, truncation and padding, as one may find it."""
    vocabulary = {f"word{number}": number for number in range(entries)} | {"<unk>": entries, "the": entries + 100}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(pad_id=7, pad_token="word7", length=16)
    tokenizer.save(str(path))
    return tokenizer


def test_a_given_tokenizer_is_taken_over(tmp_path: Path) -> None:
    given_tokenizer(tmp_path / "given.json")
    job = small_corpus(tmp_path, uri=str(tmp_path / "given.json"))
    write_jsonl(tmp_path / "raw" / "short.jsonl", [f"the short text {number}" for number in range(9)])
    run(tmp_path, job, *TOKENIZE)
    assert (tmp_path / "storage" / "tokenizer" / "tokenizer.json").read_bytes() == (tmp_path / "given.json").read_bytes()
    facts = manifest(job, "tokenizer").facts
    assert (facts["algorithm"], facts["vocab_size"], facts["pad_id"]) == ("given", 70_101, 7)
    end = facts["end_of_text_id"]
    assert manifest(job, "tokenize").facts["dtype"] == "uint32"
    tokens = np.concatenate(
        [np.fromfile(path, "<u4") for path in sorted((tmp_path / "storage" / "tokens" / "train").rglob("*.ds"))]
    )
    documents = manifest(job, "tokenize").facts["train_documents"]
    assert (tokens == end).sum() == documents
    assert 70_100 in tokens
    assert len(tokens) > 100 * int(str(documents)), "not cut"
    assert 7 not in tokens, "not padded"


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (b"{}", {}, r"tokenizer\.uri: .* is no tokenizer\.json"),
        (b"\xff\xfe", {}, r"tokenizer\.uri: .* is no tokenizer\.json"),
        (None, {}, r"tokenizer\.uri: .*: no such file; give the path of a tokenizer\.json, or train one"),
        (
            b"given",
            {"endOfText": "</s>"},
            r"tokenizer\.endOfText: '</s>' is no token of .*; its special tokens are <\|endoftext\|>",
        ),
    ],
    ids=["not a tokenizer", "not text", "missing", "without the token"],
)
def test_a_given_tokenizer_that_is_of_no_use_is_named(
    tmp_path: Path, content: bytes | None, options: dict[str, str], message: str
) -> None:
    path = tmp_path / "given.json"
    if content == b"given":
        given_tokenizer(path, 10)
    elif content is not None:
        path.write_bytes(content)
    job = {**small_corpus(tmp_path), "tokenizer": {"uri": str(path), **options}}
    with pytest.raises(UserError, match=f"^{message}"):
        run(tmp_path, job, "tokenizer")
    assert not (tmp_path / "storage" / "stages").exists()


def test_another_tokenizer_makes_other_tokens(tmp_path: Path) -> None:
    given_tokenizer(tmp_path / "given.json", 100)
    job = small_corpus(tmp_path, uri=str(tmp_path / "given.json"))
    run(tmp_path, job, *TOKENIZE)
    before = manifest(job, "tokenize")
    given_tokenizer(tmp_path / "given.json", 200)
    said = run(tmp_path, job, *TOKENIZE)
    assert [event["unchanged"] for event in said if event["event"] == "result"] == [True, True, False, False, False]
    after = manifest(job, "tokenize")
    assert after.facts["tokenizer_sha256"] != before.facts["tokenizer_sha256"]


def test_a_tokenizer_that_changed_under_finished_tokens_is_refused(tmp_path: Path) -> None:
    job = small_corpus(tmp_path)
    run(tmp_path, job, *TOKENIZE)
    path = tmp_path / "storage" / "tokenizer" / "tokenizer.json"
    content = json.loads(path.read_text())
    first, second = (token for token, number in content["model"]["vocab"].items() if number in (100, 101))
    content["model"]["vocab"] |= {first: 101, second: 100}
    changed = json.dumps(content, ensure_ascii=False, indent=2)
    path.write_text(changed + " " * (path.stat().st_size - len(changed.encode())))  # of the same size
    for _ in range(2):
        with pytest.raises(
            CorruptError, match=r"the tokenizer was changed behind the tokens' back: .*SHA-256 .*Restore the file"
        ):
            run(tmp_path, job, "tokenize")
    path.unlink()  # as the message says
    run(tmp_path, job, *TOKENIZE)


@pytest.mark.parametrize(("fraction", "message"), [(1e-9, "chose none for validation; raise it"), (0.5, "")])
def test_no_held_out_document_is_refused(tmp_path: Path, fraction: float, message: str) -> None:
    job = small_corpus(tmp_path)
    job["corpus"]["heldOutFraction"] = fraction
    if not message:
        run(tmp_path, job, *TOKENIZE)
        return
    with pytest.raises(UserError, match=rf"^corpus\.heldOutFraction: 1e-09 of 52 documents {message}"):
        run(tmp_path, job, *TOKENIZE)
    assert not (tmp_path / "storage" / "stages" / "tokenize.json").exists()


def test_no_training_document_is_refused(tmp_path: Path) -> None:
    (text,) = [number for number in map(str, range(10)) if is_held_out(number, 0.5)][:1]
    write_jsonl(tmp_path / "raw" / "a.jsonl", [text])
    given_tokenizer(tmp_path / "given.json", 10)
    job = spec(tmp_path / "storage", {"uri": str(tmp_path / "raw")}, heldOutFraction=0.5)
    job["tokenizer"] = {"uri": str(tmp_path / "given.json")}
    with pytest.raises(UserError, match=r"^corpus\.heldOutFraction: 0\.5 leaves none of 1 documents for training"):
        run(tmp_path, job, *TOKENIZE)
    job["tokenizer"] = {"train": {"vocabSize": 300}}
    with pytest.raises(UserError, match=r"^tokenizer\.train: there is no text to train on"):
        run(tmp_path, job, "tokenizer")


def test_the_order_of_tasks_changes_nothing(tmp_path: Path) -> None:
    found = []
    for name, order in (("forward", [0, 1, 2]), ("backward", [2, 1, 0])):
        job = small_corpus(tmp_path / "same", tasks=3)
        job["storage"]["uri"] = str(tmp_path / name)
        run(tmp_path / "same", job, "clean", order=order)
        run(tmp_path / "same", job, "tokenizer")
        run(tmp_path / "same", job, "tokenize", order=order)
        found.append((contents(tmp_path / name), manifest(job, "tokenize").outputs, manifest(job, "clean").counts))
    assert found[0] == found[1]


def test_uint64_ends_are_what_datatrove_packs() -> None:
    assert np.array([3, 9], "<u8").tobytes() == struct.pack("<2Q", 3, 9)
