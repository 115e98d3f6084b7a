"""What a user may say about the way from raw text to tokens: `spec.corpus` and `spec.tokenizer`.

Imports nothing heavy: the operator and the command line read it too.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pretrain_stage.config import Name, Storage, Uri
from pretrain_stage.finetune import Finetune
from pretrain_stage.section import Rule, Section
from pretrain_stage.spans import spans_that_fill
from pydantic import ConfigDict, Field

Block = Literal["extract", "normalize", "language", "quality", "pii", "augment"]
Format = Literal["jsonl", "parquet", "csv", "text", "html", "warc"]
LanguageCode = Annotated[str, Field(pattern=r"^[a-z]{2}$", min_length=2, max_length=2)]
Word = Annotated[str, Field(min_length=1, max_length=50)]
Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$", min_length=1, max_length=20)]
FieldName = Annotated[str, Field(min_length=1, max_length=253)]


class Resources(Section):
    """What each pod of a stage asks for, and is limited to in memory."""

    cpu: Quantity = Field(default="1", description="CPU request of each pod, as a Kubernetes quantity.")
    memory: Quantity = Field(default="4Gi", description="Memory request and limit of each pod, as a Kubernetes quantity.")


class Source(Section):
    """A set of files with raw text."""

    constraints: ClassVar[tuple[Rule, ...]] = (
        Rule(
            message="give weight or epochs, not both",
            cel="!has(self.weight) || !has(self.epochs)",
            holds=lambda s: s.weight is None or s.epochs is None,
        ),
    )

    name: Name = Field(description="Name of the source; it follows every document into counts and lineage.")
    uri: Uri = Field(
        description="Folder, file or pattern (* within a folder, ** across folders), on this machine or as s3://bucket/...; "
        "an s3 source uses the endpoint, region and credentials of spec.storage."
    )
    format: Format = Field(
        default="jsonl",
        description="Format of the files. jsonl, csv and text may be compressed (.gz, .zst), WARC as .warc.gz.",
    )
    text_field: FieldName = Field(
        default="text",
        description="Field (jsonl), column (parquet, csv) that holds the text. Not used by text, html and warc.",
    )
    id_field: FieldName | None = Field(
        default=None, description="Field or column with the document's id. Omit to number documents by file and position."
    )
    documents: Literal["file", "line", "paragraph"] = Field(
        default="file",
        description="For format text: what one document is, a whole file, a line, or a paragraph between blank lines.",
    )
    weight: float | None = Field(
        default=None,
        gt=0,
        le=1_000_000,
        description="Weight among the sources without epochs: they share the training samples in this proportion, and their text is "
        "repeated or left out as need be. Omit in all of them to share in proportion to their text.",
    )
    epochs: float | None = Field(
        default=None,
        gt=0,
        le=100_000,
        description="Passes over this source in the whole training. Omit to give it a share of what the sources with epochs leave.",
    )


class Normalize(Section):
    """Options of the block normalize: encoding repair, Unicode form, control characters and white space."""

    unicode_form: Literal["NFC", "NFKC", "none"] = Field(
        default="NFC", description="Unicode normalization form. NFKC also folds full-width and compatibility characters."
    )
    case_fold: bool = Field(default=False, description="Whether to fold case.")
    repair_encoding: bool = Field(
        default=True, description="Whether to repair text that was decoded with the wrong encoding."
    )


class Language(Section):
    """Options of the block language."""

    keep: list[LanguageCode] = Field(
        default=["en", "zh"], min_length=1, max_length=100, description="Languages to keep, as ISO 639-1 codes."
    )
    min_confidence: float = Field(
        default=0.5, ge=0, le=1, description="Documents whose language is less certain than this probability are dropped."
    )


class Quality(Section):
    """Options of the block quality."""

    rules: list[Literal["gopher-repetition", "gopher-quality", "c4", "fineweb"]] = Field(
        default=["gopher-repetition", "gopher-quality", "c4", "fineweb"],
        min_length=1,
        max_length=4,
        description="Rule sets, applied in the order given: Gopher (Rae et al. 2021), C4 (Raffel et al. 2020), FineWeb "
        "(Penedo et al. 2024). Words of Chinese text are found by segmentation.",
    )
    min_words: int = Field(default=50, ge=0, le=1_000_000, description="Gopher: fewest words of a document.")
    max_words: int = Field(default=100_000, ge=1, le=100_000_000, description="Gopher: most words of a document.")


class Pii(Section):
    """Options of the block pii."""

    email: bool = Field(default=True, description="Whether to replace e-mail addresses.")
    ip_address: bool = Field(default=True, description="Whether to replace public IP addresses.")


class Augment(Section):
    """Options of the block augment: copies of training documents with small changes (Wei and Zou 2019)."""

    constraints: ClassVar[tuple[Rule, ...]] = (
        Rule(
            message="delete, swap, synonym and noise must not exceed 1 in sum; lower one of them",
            cel="self.delete + self.swap + self.synonym + self.noise <= 1.0",
            holds=lambda s: s.delete + s.swap + s.synonym + s.noise <= 1,
        ),
        Rule(
            message="synonym needs synonyms; give some, or set synonym to 0",
            cel="self.synonym == 0.0 || size(self.synonyms) > 0",
            holds=lambda s: s.synonym == 0 or len(s.synonyms) > 0,
        ),
    )

    copies: int = Field(default=1, ge=1, le=20, description="Copies of each document that is trained on.")
    delete: float = Field(default=0.05, ge=0, le=1, description="Probability that a word is left out.")
    swap: float = Field(default=0.05, ge=0, le=1, description="Probability that a word changes places with the next one.")
    synonym: float = Field(default=0, ge=0, le=1, description="Probability that a word with synonyms is replaced by one.")
    noise: float = Field(
        default=0,
        ge=0,
        le=1,
        description="Probability that a character of a word is doubled, left out or changed with the next.",
    )
    synonyms: list[Annotated[list[Word], Field(min_length=2, max_length=20)]] = Field(
        default=[], max_length=500, description="Groups of words that may stand for each other."
    )
    seed: int = Field(default=42, ge=0, le=2**31 - 1, description="Seed of the changes, beside the document's text.")


class Minhash(Section):
    """Options of near-duplicate detection by MinHash and locality-sensitive hashing (Broder 1997)."""

    ngram: int = Field(default=5, ge=1, le=100, description="Words in a shingle.")
    buckets: int = Field(
        default=14, ge=1, le=200, description="Bands of the signature; a pair that agrees in one is a duplicate."
    )
    hashes_per_bucket: int = Field(default=8, ge=1, le=200, description="Hashes in each band.")


class Deduplicate(Section):
    """How duplicates are found; of each group the first document is kept."""

    method: Literal["none", "exact", "minhash"] = Field(
        default="minhash",
        description="none, exact (same text after white space and case are folded) or minhash (near duplicates).",
    )
    minhash: Minhash = Field(default=Minhash(), description="Options of method minhash.")


class Corpus(Section):
    """From raw text to clean documents."""

    constraints: ClassVar[tuple[Rule, ...]] = (
        Rule(
            message="sources must have different names; rename one",
            cel="self.sources.all(a, self.sources.exists_one(b, b.name == a.name))",
            holds=lambda s: len({source.name for source in s.sources}) == len(s.sources),
        ),
        Rule(
            message="a source has a weight, so those without epochs need one too; give them one, or remove it",
            cel="self.sources.all(a, has(a.weight) || has(a.epochs)) || !self.sources.exists(a, has(a.weight))",
            holds=lambda s: all(a.weight or a.epochs for a in s.sources) or all(a.weight is None for a in s.sources),
        ),
        Rule(
            message="parallelism must not exceed tasks; lower parallelism or raise tasks",
            cel="self.parallelism <= self.tasks",
            holds=lambda s: s.parallelism <= s.tasks,
        ),
        Rule(
            message="clean names a block twice; name each once",
            cel="self.clean.all(a, self.clean.exists_one(b, b == a))",
            holds=lambda s: len(set(s.clean)) == len(s.clean),
        ),
        Rule(
            message="augment must be the last block of clean; move it to the end",
            cel="!self.clean.exists(block, block == 'augment') || self.clean[size(self.clean) - 1] == 'augment'",
            holds=lambda s: "augment" not in s.clean[:-1],
        ),
    )

    sources: list[Source] = Field(min_length=1, max_length=100, description="Where the raw text is.")
    clean: list[Block] = Field(
        default=["extract", "normalize", "language", "quality", "pii"],
        max_length=6,
        description="Blocks that each document passes, in this order; each has its options in the field of the same name. augment, "
        "the last if it is named, makes copies of what is trained on, after duplicates are dropped.",
    )
    normalize: Normalize = Field(default=Normalize(), description="Options of the block normalize.")
    language: Language = Field(default=Language(), description="Options of the block language.")
    quality: Quality = Field(default=Quality(), description="Options of the block quality.")
    pii: Pii = Field(default=Pii(), description="Options of the block pii.")
    augment: Augment = Field(default=Augment(), description="Options of the block augment.")
    deduplicate: Deduplicate = Field(default=Deduplicate(), description="How duplicates are found and dropped.")
    held_out_fraction: float = Field(
        default=0.005,
        ge=0,
        le=0.5,
        description="Share of the documents that is kept from training, for validation; chosen by a hash of the document.",
    )
    max_bad_record_fraction: float = Field(
        default=0.001,
        ge=0,
        le=1,
        description="Share of records that may be unreadable (broken JSON, undecodable bytes, no text field) before the stage fails.",
    )
    tasks: int = Field(default=1, ge=1, le=100_000, description="Shards that each preprocessing stage is split into.")
    parallelism: int = Field(default=1, ge=1, le=10_000, description="Tasks that run at the same time.")
    resources: Resources = Field(default=Resources(), description="What each preprocessing pod asks for.")

    @property
    def blocks(self) -> list[Block]:
        """The blocks that documents pass in the stage clean."""
        return [name for name in self.clean if name != "augment"]

    @property
    def augments(self) -> bool:
        """Whether documents that are trained on have copies."""
        return "augment" in self.clean


class TrainTokenizer(Section):
    """How a tokenizer is trained on the clean text."""

    constraints: ClassVar[tuple[Rule, ...]] = (
        Rule(
            message="maxDocumentShare and stopWords take words out of a vocabulary of words; remove them, or set algorithm to word",
            cel="self.algorithm == 'word' || (self.maxDocumentShare == 1.0 && size(self.stopWords) == 0)",
            holds=lambda s: s.algorithm == "word" or (s.max_document_share == 1 and not s.stop_words),
        ),
    )

    algorithm: Literal["bpe", "wordpiece", "unigram", "word"] = Field(
        default="bpe",
        description="bpe (byte level, lossless), wordpiece, unigram or word (whole words; others become <unk>, white space is lost).",
    )
    vocab_size: int = Field(
        default=32_000, ge=300, le=1_000_000, description="Entries of the vocabulary, special tokens included."
    )
    min_frequency: int = Field(
        default=2, ge=1, le=1_000_000, description="Fewest occurrences of a pair or word (bpe, wordpiece, word)."
    )
    max_document_share: float = Field(
        default=1, gt=0, le=1, description="word: words that are in more than this share of the documents are left out."
    )
    stop_words: list[Literal["en", "zh"]] = Field(
        default=[],
        max_length=2,
        description="word: languages whose stop words are left out of the vocabulary; they become <unk>.",
    )
    case_fold: bool = Field(
        default=False, description="Whether the tokenizer makes all text lower case, which is then lost."
    )
    special_tokens: list[Annotated[str, Field(min_length=1, max_length=64)]] = Field(
        default=["<|endoftext|>", "<|pad|>", "<|cls|>", "<|sep|>", "<|mask|>"],
        min_length=1,
        max_length=100,
        description="Special tokens, ids from 0. The first ends each document, the second, if there is one, pads; masked-lm needs "
        "<|cls|>, <|sep|> and <|mask|> (or [CLS], [SEP], [MASK]).",
    )
    sentinels: int = Field(
        default=0,
        ge=0,
        le=10_000,
        description="Tokens <|sentinel_0|>, <|sentinel_1|>, ... behind the special tokens, which span-corruption puts in place of "
        "spans: one for each span of a sample.",
    )
    max_text_bytes: int = Field(
        default=1_000_000_000,
        ge=1_000,
        le=1_000_000_000_000,
        description="Bytes of clean text to train on, spread over all shards.",
    )


class Tokenizer(Section):
    """A tokenizer to train, or one that exists."""

    constraints: ClassVar[tuple[Rule, ...]] = (
        Rule(
            message="give exactly one of train and uri",
            cel="has(self.train) != has(self.uri)",
            holds=lambda s: (s.train is None) != (s.uri is None),
        ),
    )

    train: TrainTokenizer | None = Field(default=None, description="Train a tokenizer on the clean text.")
    uri: Uri | None = Field(default=None, description="An existing tokenizer.json, a path on this machine or s3://...")
    end_of_text: Annotated[str, Field(min_length=1, max_length=64)] = Field(
        default="<|endoftext|>", description="With uri: the token of that tokenizer that ends each document."
    )


class Masking(Section):
    """What preprocessing must know of spec.training.masking."""

    model_config = ConfigDict(extra="ignore")

    fraction: float = 0.15
    mean_span: float = 3


class Learned(Section):
    """What preprocessing must know of spec.training."""

    model_config = ConfigDict(extra="ignore")

    objective: str = "causal-lm"
    masking: Masking = Masking()
    sequence_length: int = 2048

    @property
    def needs_marks(self) -> bool:
        """Whether samples are drawn with a view to words and sentences."""
        return self.objective.startswith("masked-lm")

    @property
    def spans(self) -> int:
        """Spans that span-corruption takes out of a sample, each with a sentinel of its own."""
        return spans_that_fill(self.sequence_length, self.masking.fraction, self.masking.mean_span).count


class PreprocessSpec(Section):
    """The sections of a job that preprocessing reads."""

    model_config = ConfigDict(extra="ignore")

    storage: Storage
    corpus: Corpus
    tokenizer: Tokenizer
    training: Learned = Learned()
    finetune: list[Finetune] = Field(default=[])
