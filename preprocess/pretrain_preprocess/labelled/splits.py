"""Which split an example falls into, and whether the splits are of use. Pure.

What a model is given decides, not the record's place or label: an example stays in its split whatever is added to the files,
and no text (prompt, first message of the user) is in two splits. Test comes first: another validationFraction leaves it as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pretrain_stage.errors import UserError
from pretrain_stage.finetune import Examples, Finetune

from pretrain_preprocess.labelled.example import shown
from pretrain_preprocess.split import EXAMPLE, chance

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

MOST_CONTRADICTIONS = 0.05
"""Share of the different texts that may have several labels: above it the labels are at fault, not some records."""


def split_of(given: str, examples: Examples) -> Split:
    """The split of what a model is given; white space and case do not count."""
    number = chance("".join(given.split()).casefold(), EXAMPLE)
    if number < examples.test_fraction:
        return "test"
    return "validation" if number < examples.test_fraction + examples.validation_fraction else "train"


def check_contradictions(field: str, texts: int, found: Mapping[str, int]) -> None:
    """Raises UserError if too many texts have several labels. found: texts by their labels; texts: all different ones."""
    number = sum(found.values())
    if number > MOST_CONTRADICTIONS * texts:
        most = sorted(found.items(), key=lambda item: (-item[1], item[0]))[:3]
        said = ", ".join(f"{labels} {times}" for labels, times in most)
        raise UserError(
            f"{field}: {number} of {texts} different texts have several labels ({said}), at most {MOST_CONTRADICTIONS:.0%} may; "
            "decide on one label for each text"
        )


def check_splits(field: str, task: Finetune, sizes: Mapping[Split, int], labels: Mapping[Split, Mapping[str, int]]) -> None:
    """Raises UserError for an empty split, and for a label that nothing can be learned of.

    sizes: examples; labels: how often each label is in a split (of every label that is in any, or is demanded).
    """
    total = sum(sizes.values())
    if not total:
        raise UserError(f"{field}.uri: {task.examples.uri}: holds no examples; check the files")
    fractions: dict[Split, float] = {"validation": task.examples.validation_fraction, "test": task.examples.test_fraction}
    for split, fraction in fractions.items():
        if not sizes[split]:
            raise UserError(
                f"{field}.{split}Fraction: {fraction} of {total} examples chose none for {split}; raise it, or give more examples"
            )
    if not sizes["train"]:
        raise UserError(
            f"{field}: validationFraction {task.examples.validation_fraction} and testFraction {task.examples.test_fraction} leave "
            f"none of {total} examples for training; lower them, or give more examples"
        )
    if task.task != "generation":
        _check_labels(field, task.examples, labels)


def _check_labels(field: str, examples: Examples, labels: Mapping[Split, Mapping[str, int]]) -> None:
    for label, in_train in labels["train"].items():
        elsewhere = sum(labels[split][label] for split in SPLITS) - in_train
        if not in_train and not elsewhere:
            raise UserError(f"{field}.labels: {shown(label)} has no example; correct it, or take it out")
        if not in_train:
            remedy = "give more examples of it, or take out those there are"
            if examples.max_train_examples is not None:
                remedy = f"raise maxTrainExamples ({examples.max_train_examples}), or {remedy}"
            raise UserError(f"{field}: label {shown(label)} has no example in train, {elsewhere} elsewhere; {remedy}")
    if len(labels["train"]) == 1:
        raise UserError(
            f"{field}: {shown(next(iter(labels['train'])))} is the only label, so there is nothing to learn; give others"
        )


def missing_labels(labels: Mapping[Split, Mapping[str, int]]) -> dict[str, list[str]]:
    """The labels that validation or test have no example of: figures for these will say nothing."""
    found = {split: [label for label, number in labels[split].items() if not number] for split in SPLITS}
    return {split: names for split, names in found.items() if names}
