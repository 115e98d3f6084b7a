"""The stage tokenizer: one task that leaves tokenizer/tokenizer.json, trained on the clean text or given by the user.

bpe        byte-level BPE with GPT-2's splitting (Radford et al. 2019): any text comes back as it was
unigram    SentencePiece's Unigram (Kudo 2018) with bytes for rare characters: any text comes back as it was, but for
           the character U+2581, which stands for the blank
wordpiece  BERT's (Devlin et al. 2019), each Chinese character a word: characters beyond the vocabulary become <unk>
word       whole words, Chinese ones by segmentation: words beyond the vocabulary become <unk>, white space is lost (word_level.py)
"""

from __future__ import annotations

import hashlib
import io
import itertools
from collections import Counter
from collections.abc import Iterator

from pretrain_stage.errors import UserError
from pydantic import JsonValue
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from pretrain_preprocess.config import Learned, TrainTokenizer
from pretrain_preprocess.documents import TEXT_BYTES, read_documents
from pretrain_preprocess.outside import GivenTokenizer
from pretrain_preprocess.special import check_objective, special_facts, special_tokens
from pretrain_preprocess.split import is_held_out, is_sampled
from pretrain_preprocess.stages import corpus_stage
from pretrain_preprocess.task import Outcome, Task
from pretrain_preprocess.word_level import choose, count_words, stop_words, word_tokenizer

PATH = "tokenizer/tokenizer.json"
UNKNOWN = "<unk>"
BLANK = "▁"
CONTINUES = "##"
HAN = r"\p{Han}"

LONGEST_WORD = 200
"""Characters. WordPiece gives up on longer words; it is quadratic in their length."""
MOST_ALPHABET = 0.9
"""Share of a WordPiece vocabulary that single characters may take, the most frequent first."""
UNIGRAM_TEXT_BYTES = 32_000_000
"""Text that Unigram is trained on at most: it holds all of it in memory many times over, and takes minutes for this."""
UNIGRAM_THREADS = 4
"""Fixed, whatever the machine: sums are added up by thread, so the number of threads decides the last digits."""
UNLIKELY = -1e6
"""Score of pieces that no text may be read as: the bytes, which only stand in for unknown characters, and special tokens."""
BYTES = 256
LEAST_UNIGRAM = 1_000
PRINTABLE_ASCII = "".join(map(chr, range(33, 127)))


def run(task: Task) -> Outcome:
    """The tokenizer of the job."""
    given = task.given_tokenizer
    if given is not None:
        tokenizer, content = load_given(given, task.spec.tokenizer.end_of_text), given.content
        check_objective(task.spec.training, given_facts(tokenizer), given.uri)
        facts = {"algorithm": "given"} | described(tokenizer, task.spec.tokenizer.end_of_text) | given_facts(tokenizer)
    else:
        options = task.spec.tokenizer.train
        assert options is not None, "a rule of the section demands train or uri"
        check_options(options, task.spec.training)
        tokenizer = train(options, task)
        content = tokenizer.to_str(pretty=True).encode()
        facts = {"algorithm": options.algorithm} | described(tokenizer, options.special_tokens[0]) | trained_facts(options)
    path = task.scratch / "tokenizer.json"
    path.write_bytes(content)
    return Outcome(((path, PATH),), facts | {"sha256": hashlib.sha256(content).hexdigest()})


def described(tokenizer: Tokenizer, end_of_text: str) -> dict[str, JsonValue]:
    """What is told of any tokenizer."""
    return {
        "vocab_size": vocabulary_size(tokenizer),
        "end_of_text": end_of_text,
        "end_of_text_id": tokenizer.token_to_id(end_of_text),
    }


def given_facts(tokenizer: Tokenizer) -> dict[str, JsonValue]:
    """The ids of a given tokenizer's special tokens. The token that it says it pads with goes before one of that name."""
    pad = tokenizer.padding["pad_token"] if tokenizer.padding else None
    own = {} if pad is None else {"pad_id": tokenizer.token_to_id(pad)}
    return special_facts(tokenizer.token_to_id) | own


def trained_facts(options: TrainTokenizer) -> dict[str, JsonValue]:
    """The same of a tokenizer that is trained here: special tokens have ids from 0."""
    ids = {token: number for number, token in enumerate(special_tokens(options))}
    return special_facts(ids.get) | ({"pad_id": 1} if len(options.special_tokens) > 1 else {})


def load_given(given: GivenTokenizer, end_of_text: str) -> Tokenizer:
    """The tokenizer in a file. Raises UserError if it is none, or has no such token."""
    try:
        tokenizer = Tokenizer.from_str(given.content.decode("utf-8"))
    except Exception as error:  # what the library raises has no common class
        raise UserError(
            f"tokenizer.uri: {given.uri} is no tokenizer.json ({error}); give one of Hugging Face tokenizers"
        ) from None
    if tokenizer.token_to_id(end_of_text) is None:
        special = [token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special]
        raise UserError(
            f"tokenizer.endOfText: {end_of_text!r} is no token of {given.uri}; its special tokens are {', '.join(special) or 'none'}"
        )
    return tokenizer


def vocabulary_size(tokenizer: Tokenizer) -> int:
    """Rows that an embedding needs: the largest id plus one, for ids of a given tokenizer may have gaps."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1


def train(options: TrainTokenizer, task: Task) -> Tokenizer:
    """A tokenizer trained on a sample of the clean text. Warns if the text does not give the vocabulary asked for."""
    sampled = sample(task, options)
    first = next(sampled, None)
    if first is None:
        raise UserError(
            "tokenizer.train: there is no text to train on after held-out documents are left out; give more text, lower "
            "corpus.heldOutFraction, or raise maxTextBytes"
        )
    texts: Iterator[str] = itertools.chain([first], sampled)
    if options.case_fold:
        texts = map(normalizers.Lowercase().normalize_str, texts)
    match options.algorithm:
        case "bpe":
            tokenizer = train_bpe(options, texts)
        case "wordpiece":
            tokenizer = train_wordpiece(options, texts)
        case "unigram":
            tokenizer = train_unigram(options, texts)
        case "word":
            tokenizer = train_word(options, texts)
    if options.case_fold and options.algorithm != "word":
        tokenizer.normalizer = normalizers.Lowercase()
    size = tokenizer.get_vocab_size()
    if size < options.vocab_size:
        task.events.warning(
            f"tokenizer.train.vocabSize: {options.vocab_size} was asked for, but the text gave {size} entries; going on with {size}",
            vocab_size=size,
        )
    return tokenizer


def sample(task: Task, options: TrainTokenizer) -> Iterator[str]:
    """Training documents, evenly spread over all shards, of about `max_text_bytes` in all. The rest counts as dropped."""
    stage = corpus_stage(task.spec)
    wanted = options.max_text_bytes
    if options.algorithm == "unigram":
        wanted = min(wanted, UNIGRAM_TEXT_BYTES)
    total = int(str(task.inputs[stage].facts["text_bytes"]))
    fraction = wanted / total if total > wanted else 1.0
    dropped = task.tally.reasons("sample")
    for shard in range(task.inputs[stage].tasks):
        for document in read_documents(task, stage, shard):
            if is_held_out(document.text, task.spec.corpus.held_out_fraction):
                dropped.add("held_out", document.text)
            elif not is_sampled(document.text, fraction):
                dropped.add("not_sampled", document.text)
            else:
                task.tally.keep(document.metadata[TEXT_BYTES])
                yield document.text


def train_bpe(options: TrainTokenizer, texts: Iterator[str]) -> Tokenizer:
    """Byte-level BPE: all 256 bytes are in the vocabulary, so nothing is unknown."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=options.vocab_size,
        min_frequency=options.min_frequency,
        special_tokens=special_tokens(options),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def train_wordpiece(options: TrainTokenizer, texts: Iterator[str]) -> Tokenizer:
    """WordPiece as the library trains it, made the same on each run.

    By itself the library numbers the continuing characters (##a) in the order of a hash map, which also breaks ties between
    merges, and takes in as many characters as there are, whatever the vocabulary's size. So the characters are chosen here.
    """
    kept = list(texts)  # read twice: to count characters, and to train
    special = with_unknown(special_tokens(options))
    first, continuing = alphabet(kept, int(options.vocab_size * MOST_ALPHABET) - len(special))
    tokenizer = Tokenizer(models.WordPiece(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = wordpiece_words()
    trainer = trainers.WordPieceTrainer(
        vocab_size=options.vocab_size,
        min_frequency=options.min_frequency,
        special_tokens=[*special, *(CONTINUES + character for character in continuing)],
        initial_alphabet=first,
        limit_alphabet=len(first),
        continuing_subword_prefix=CONTINUES,
        show_progress=False,
    )
    tokenizer.train_from_iterator(kept, trainer)
    vocabulary = tokenizer.get_vocab()
    # Built anew, so that the continuing characters are no special tokens.
    result = Tokenizer(
        models.WordPiece(
            vocabulary, unk_token=UNKNOWN, continuing_subword_prefix=CONTINUES, max_input_chars_per_word=LONGEST_WORD
        )
    )
    result.pre_tokenizer = wordpiece_words()
    result.decoder = decoders.Sequence(
        [decoders.Replace(Regex("^" + CONTINUES), ""), decoders.Replace(BLANK, " "), decoders.Fuse()]
    )
    result.add_special_tokens(special)
    return result


def wordpiece_words() -> pre_tokenizers.PreTokenizer:
    """Splits before each blank, and around each punctuation mark, Chinese character and line feed. Nothing is lost."""
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(replacement=BLANK, prepend_scheme="never", split=True),
            pre_tokenizers.Punctuation("isolated"),
            pre_tokenizers.Split(Regex(rf"{HAN}|\n"), "isolated"),
        ]
    )


def alphabet(texts: list[str], room: int) -> tuple[list[str], list[str]]:
    """The most frequent characters that `room` entries hold, and those of them that also continue words, both sorted.

    A Chinese character or punctuation mark is a word of its own and takes one entry; any other takes two.
    """
    times: Counter[str] = Counter()
    words = wordpiece_words()
    for text in texts:
        times.update(text.replace(" ", BLANK))
    alone = {character for character in times if len(words.pre_tokenize_str(f"a{character}a")) == 3}
    first, continuing = [], []
    for character, _ in sorted(times.items(), key=lambda item: (-item[1], item[0])):
        takes = 1 if character in alone else 2
        if takes > room:
            break
        room -= takes
        first.append(character)
        if takes == 2:
            continuing.append(character)
    return sorted(first), sorted(continuing)


def train_unigram(options: TrainTokenizer, texts: Iterator[str]) -> Tokenizer:
    """Unigram by SentencePiece: the library's own trainer gives another vocabulary each time, and takes several times as long."""
    import sentencepiece

    special = with_unknown(special_tokens(options))
    model = io.BytesIO()
    lines = [line for text in texts for line in text.split("\n")]
    lines = without_rare_characters(lines, (options.vocab_size - len(special) - BYTES) // 2)
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type="unigram",
            vocab_size=options.vocab_size - len(special) + 1,  # its own <unk> is among ours
            hard_vocab_limit=False,
            byte_fallback=True,
            required_chars=PRINTABLE_ASCII,
            character_coverage=1.0,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            add_dummy_prefix=False,
            max_sentence_length=1 << 30,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            unk_id=0,
            num_threads=UNIGRAM_THREADS,
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        raise UserError(
            f"tokenizer.train: SentencePiece cannot train a vocabulary of {options.vocab_size} on this text ({error}); "
            "lower vocabSize or give more text"
        ) from None
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    pieces = [
        (processor.id_to_piece(i), UNLIKELY if processor.is_byte(i) else processor.get_score(i))
        for i in range(1, processor.get_piece_size())
    ]
    tokenizer = Tokenizer(
        models.Unigram(
            [*((token, UNLIKELY) for token in special), *pieces], unk_id=special.index(UNKNOWN), byte_fallback=True
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=BLANK, prepend_scheme="never", split=True)
    tokenizer.decoder = decoders.Sequence([decoders.Replace(BLANK, " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(special)
    return tokenizer


def without_rare_characters(lines: list[str], most: int) -> list[str]:
    """The lines cut at all but their `most` most frequent characters, which become bytes."""
    times = Counter[str]()
    for line in lines:
        times.update(line)
    ranked = sorted(times, key=lambda character: (-times[character], character))
    cut = dict.fromkeys(map(ord, ranked[most:]), "\n")
    return [piece for line in lines for piece in line.translate(cut).split("\n") if piece]


def train_word(options: TrainTokenizer, texts: Iterator[str]) -> Tokenizer:
    """A vocabulary of whole words. Raises UserError if no word is left."""
    special = with_unknown(special_tokens(options))
    words = count_words(texts, options.case_fold)
    entries = choose(
        words,
        options.vocab_size - len(special),
        options.min_frequency,
        options.max_document_share,
        stop_words(options.stop_words),
    )
    if not entries:
        raise UserError(
            f"tokenizer.train: none of {len(words.times)} words is left after minFrequency {options.min_frequency}, maxDocumentShare "
            f"{options.max_document_share} and stopWords; loosen them, or give more text"
        )
    return word_tokenizer(special, UNKNOWN, entries, words, options.case_fold)


def check_options(options: TrainTokenizer, training: Learned) -> None:
    """Raises UserError for a vocabulary that cannot be, or that the objective cannot be learned with."""
    check_objective(training, trained_facts(options), "tokenizer.train.specialTokens")
    least = len(special_tokens(options)) + BYTES
    if options.vocab_size < least:
        raise UserError(
            f"tokenizer.train.vocabSize: {options.vocab_size} is too small for {least - BYTES} special tokens and sentinels, and "
            f"{BYTES} bytes or characters; raise it to {least} at least"
        )
    if options.algorithm == "unigram" and options.vocab_size < LEAST_UNIGRAM:
        raise UserError(
            f"tokenizer.train.vocabSize: {options.vocab_size} is too small for unigram, which needs {LEAST_UNIGRAM}: 256 entries "
            "are bytes, and half of the others characters; raise it, or take bpe"
        )


def with_unknown(special: list[str]) -> list[str]:
    """The special tokens, and one for what is not in the vocabulary."""
    return special if UNKNOWN in special else [*special, UNKNOWN]
