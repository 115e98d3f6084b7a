"""Which split an example falls into, and what is said of splits that are of no use."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pretrain_preprocess.labelled.splits import (
    check_contradictions,
    check_splits,
    missing_labels,
    split_of,
)
from pretrain_stage.errors import UserError
from pretrain_stage.finetune import Examples, Finetune

FIELD = "finetune[0].examples"


def examples(**fields: Any) -> Examples:
    return Examples.model_validate({"uri": "raw", **fields})


@given(st.text(min_size=1), st.sampled_from(["", " ", "\n"]))
def test_white_space_and_case_do_not_move_a_text(text: str, blank: str) -> None:
    assert split_of(text, examples()) == split_of(blank + text.casefold() + blank, examples())


@given(st.text(), st.floats(0.01, 0.45), st.floats(0.01, 0.45), st.floats(0.01, 0.45))
def test_fractions_move_only_what_they_must(text: str, test: float, small: float, large: float) -> None:
    few = split_of(text, examples(testFraction=test, validationFraction=min(small, large)))
    many = split_of(text, examples(testFraction=test, validationFraction=max(small, large)))
    assert (few == "test") == (many == "test")
    assert few == many or (few, many) == ("train", "validation")


@pytest.mark.parametrize(("validation", "test"), [(0.1, 0.1), (0.3, 0.05), (0.02, 0.5)])
def test_fractions_are_kept_as_chance_allows(validation: float, test: float) -> None:
    number = 20_000
    wanted = examples(validationFraction=validation, testFraction=test)
    found = Counter(split_of(f"text {i}", wanted) for i in range(number))
    for split, share in (("validation", validation), ("test", test), ("train", 1 - validation - test)):
        deviation = (share * (1 - share) / number) ** 0.5
        assert found[split] / number == pytest.approx(share, abs=4 * deviation)  # type: ignore[index]


def check(
    sizes: tuple[int, int, int],
    labels: dict[str, tuple[int, int, int]],
    fields: dict[str, Any],
    task: str = "classification",
) -> None:
    wanted = Finetune.model_validate({"name": "a", "task": task, "examples": {"uri": "raw", **fields}})
    of = {
        split: {name: counts[place] for name, counts in labels.items()}
        for place, split in enumerate(("train", "validation", "test"))
    }
    check_splits(FIELD, wanted, dict(zip(("train", "validation", "test"), sizes, strict=True)), of)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sizes", "labels", "fields", "message"),
    [
        ((0, 0, 0), {}, {}, "finetune[0].examples.uri: raw: holds no examples; check the files"),
        ((8, 0, 2), {}, {},
         "finetune[0].examples.validationFraction: 0.1 of 10 examples chose none for validation; raise it, or give more examples"),
        ((8, 2, 0), {}, {"testFraction": 0.05},
         "finetune[0].examples.testFraction: 0.05 of 10 examples chose none for test; raise it, or give more examples"),
        ((0, 1, 2), {}, {"testFraction": 0.5, "validationFraction": 0.4},
         "finetune[0].examples: validationFraction 0.4 and testFraction 0.5 leave none of 3 examples for training; lower them, or "
         "give more examples"),
        ((8, 1, 1), {"a": (4, 1, 1), "b": (4, 0, 0), "c": (0, 0, 0)}, {"labels": ["a", "b", "c"]},
         'finetune[0].examples.labels: "c" has no example; correct it, or take it out'),
        ((8, 2, 1), {"a": (8, 1, 0), "b": (0, 1, 1)}, {},
         'finetune[0].examples: label "b" has no example in train, 2 elsewhere; give more examples of it, or take out those there are'),
        ((8, 2, 1), {"a": (8, 1, 0), "b": (0, 1, 1)}, {"maxTrainExamples": 8},
         'finetune[0].examples: label "b" has no example in train, 2 elsewhere; raise maxTrainExamples (8), or give more examples '
         "of it, or take out those there are"),
        ((8, 1, 1), {"a": (8, 1, 1)}, {},
         'finetune[0].examples: "a" is the only label, so there is nothing to learn; give others'),
    ],
)  # fmt: skip
def test_splits_of_no_use(
    sizes: tuple[int, int, int], labels: dict[str, tuple[int, int, int]], fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as error:
        check(sizes, labels, fields)
    assert str(error.value) == message


def test_splits_that_are_of_use() -> None:
    check((8, 1, 1), {"a": (4, 1, 0), "b": (4, 0, 1)}, {})
    check((8, 1, 1), {}, {}, "generation")


def test_labels_without_examples_to_measure_on_are_told() -> None:
    labels: Any = {"train": {"a": 1, "b": 1}, "validation": {"a": 1, "b": 1}, "test": {"a": 0, "b": 0}}
    assert missing_labels(labels) == {"test": ["a", "b"]}


def test_contradictions_of_some_texts_pass_and_of_many_do_not() -> None:
    check_contradictions(FIELD, 100, {"bad / good": 3, "bad / fair": 2})
    with pytest.raises(UserError) as error:
        check_contradictions(FIELD, 100, {"bad / fair": 2, "bad / good": 3, "bad / fair / good": 1})
    assert str(error.value) == (
        "finetune[0].examples: 6 of 100 different texts have several labels (bad / good 3, bad / fair 2, bad / fair / good 1), at "
        "most 5% may; decide on one label for each text"
    )
