"""MinHash signatures (Broder 1997): the stage minhash-signatures.

    corpus/minhash-signatures/bucket_<bucket>/<index>.minhash.sig    task i: the signatures of its documents, a file a band

Signatures are datatrove's to the byte, in its file format.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterator

import numpy as np
import xxhash
from datatrove.data import Document
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
from datatrove.utils.text import NUMBERS_PATTERN, PUNCTUATION_TRANS
from numpy.typing import NDArray

from pretrain_preprocess import config
from pretrain_preprocess.blocks.language import LANGUAGE
from pretrain_preprocess.blocks.words import language_by_script, splitter
from pretrain_preprocess.documents import TEXT_BYTES, read_documents
from pretrain_preprocess.groups import bucket_folder
from pretrain_preprocess.signatures import record_type, sort_records
from pretrain_preprocess.task import Outcome, Task

MERSENNE_PRIME = np.uint64((1 << 61) - 1)
SHINGLES_AT_ONCE = 256
"""Rows of the table shingles x hashes that are worked on at once: it stays in the processor's cache."""


def run(task: Task) -> Outcome:
    """Signatures of a shard's documents: a sorted file for each band. Documents shorter than a shingle have none."""
    options = task.spec.corpus.deduplicate.minhash
    signer = Signer(options)
    found, numbers = [], []
    for number, document in enumerate(read_documents(task, "clean")):
        task.tally.keep(document.metadata[TEXT_BYTES])
        signature = signer.sign(document)
        if signature is not None:
            found.append(signature)
            numbers.append(number)
    table = np.array(found, np.uint64).reshape(len(found), options.buckets, options.hashes_per_bucket)
    outputs = []
    for bucket in range(options.buckets):
        records = np.empty(len(found), record_type(options.hashes_per_bucket))
        records["signature"], records["document"] = table[:, bucket], numbers
        path = task.scratch / f"{bucket:03d}.sig"
        sort_records(records).tofile(path)
        outputs.append((path, f"{bucket_folder(bucket)}{task.index:05d}.minhash.sig"))
    return Outcome(tuple(outputs), {"without_signature": task.tally.kept - len(found)})


class Signer:
    """MinHash signatures as datatrove's MinhashDedupSignature makes them, in a fraction of its time."""

    def __init__(self, options: config.Minhash) -> None:
        datatrove = MinhashConfig(
            n_grams=options.ngram, num_buckets=options.buckets, hashes_per_bucket=options.hashes_per_bucket
        )
        self._ngram = options.ngram
        self._a, self._b = MinhashDedupSignature("/dev/null", datatrove).parameters

    def sign(self, document: Document) -> NDArray[np.uint64] | None:
        """The smallest value of each hash function over the document's shingles; None if it has no shingle."""
        language = document.metadata.get(LANGUAGE) or language_by_script(document.text)
        words = splitter(language).word_tokenize(simplified(document.text))
        if len(words) < self._ngram:
            return None
        shingles = np.fromiter(self._shingles(words), np.uint64)
        least = np.full(self._a.shape[1], np.iinfo(np.uint64).max, np.uint64)
        for start in range(0, len(shingles), SHINGLES_AT_ONCE):
            values = shingles[start : start + SHINGLES_AT_ONCE, None] * self._a + self._b
            # modulo the Mersenne prime 2**61 - 1, without division
            values = (values & MERSENNE_PRIME) + (values >> np.uint64(61))
            np.subtract(values, MERSENNE_PRIME, out=values, where=values >= MERSENNE_PRIME)
            np.minimum(least, values.min(axis=0), out=least)
        return least

    def _shingles(self, words: list[str]) -> Iterator[int]:
        """The hashes of each n successive words, joined by blanks."""
        n = self._ngram
        joined = " ".join(words)
        starts = np.zeros(len(words) + 1, np.int64)
        np.cumsum([len(word) + 1 for word in words], out=starts[1:])
        begins, ends = starts[: len(words) - n + 1].tolist(), (starts[n:] - 1).tolist()
        hashed = xxhash.xxh64_intdigest
        return (hashed(joined[begin:end]) for begin, end in zip(begins, ends, strict=True))


def simplified(text: str) -> str:
    """Lower case, numbers as 0, no punctuation, single blanks, no accents: the same as datatrove's simplify_text."""
    text = " ".join(NUMBERS_PATTERN.sub("0", text.lower()).translate(PUNCTUATION_TRANS).split())
    if not text.isascii():
        text = unicodedata.normalize("NFD", text)
        if not ACCENTS.keys().isdisjoint(map(ord, text)):
            text = text.translate(ACCENTS)
    return text.strip()


ACCENTS = dict.fromkeys(code for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)) == "Mn")
"""Marks that are no characters of their own (category Mn), to be deleted."""
