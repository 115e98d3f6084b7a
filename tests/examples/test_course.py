"""Each lesson of examples/course, made small, runs from raw text to its last stage and leaves what its page shows."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from pretrain_operator.api import load_job

from examples.course import labelled, methods
from tests.examples.lessons import COURSE, LESSONS, lay_out, lines, read, run, shrunken, unfinished
from tests.run import whole

OPINIONS, WORDS = COURSE / "opinions.jsonl", COURSE / "words.jsonl"


@pytest.fixture(scope="module")
def laid_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("course")
    lay_out(folder)
    return folder


@pytest.fixture(scope="module")
def finetuned(laid_out: Path) -> Path:
    """The lesson on fine-tuning, finished; that on continual pretraining begins where this one ends."""
    job = shrunken("finetuning", laid_out, ("reviews-full", "reviews-lora", "entities"))
    storage = run(job)
    assert unfinished(job) == []
    return storage


@pytest.mark.parametrize("lesson", LESSONS)
def test_a_lesson_reads_what_the_examples_lay_out(lesson: str) -> None:
    """Its text and its labels, its records and its folder are where its first lines and those programs put them."""
    spec = load_job(COURSE / f"{lesson}.yaml").spec
    assert spec.storage.uri == f"build/course/{lesson}"
    assert {source.uri for source in spec.corpus.sources} <= {
        "build/demo/raw/peoples-daily.jsonl.gz", "build/demo/raw/news.txt", "build/course/labelled/reviews.jsonl",
        "build/course/labelled/unlabelled.jsonl",
    }  # fmt: skip
    assert labelled.__doc__ is not None
    for task in spec.finetune:
        folder, _, name = task.examples.uri.rpartition("/")
        assert folder == "build/course/labelled"
        assert name in labelled.__doc__
    for one in spec.predict:
        assert (whole.ROOT / one.uri).is_file()
    head = (COURSE / f"{lesson}.yaml").read_text(encoding="utf-8").partition("apiVersion")[0]
    assert f"pretrain run examples/course/{lesson}.yaml\n" in head


def test_the_last_lesson_goes_on_where_the_one_before_it_ended() -> None:
    before, after = (load_job(COURSE / f"{lesson}.yaml").spec for lesson in ("finetuning", "continual"))
    assert after.training.init_from is not None
    assert after.training.init_from.uri == f"{before.storage.uri}/export"
    assert after.tokenizer.uri == f"{before.storage.uri}/export/tokenizer.json"
    assert (after.model, after.corpus.held_out_fraction) == (before.model, before.corpus.held_out_fraction)
    assert {source.name for source in before.corpus.sources} < {source.name for source in after.corpus.sources}


@pytest.mark.parametrize(("lesson", "number"), [("finetuning", 4), ("methods", 7)])
def test_ways_to_fine_tune_differ_in_their_method_alone(lesson: str, number: int) -> None:
    """Or a table of them would compare other things."""
    tasks = yaml.safe_load((COURSE / f"{lesson}.yaml").read_text(encoding="utf-8"))["spec"]["finetune"]
    own = {"name", "fromScratch", "method", "trainedLayers", "lora", "prefixTokens", "adapterWidth", "learningRate"}
    same = [{key: value for key, value in task.items() if key not in own} for task in tasks if task["name"] != "entities"]
    assert len(same) == number
    assert all(one == other for one, other in pairwise(same))


@pytest.mark.slow
def test_encoder(laid_out: Path) -> None:
    job = shrunken("encoder", laid_out)
    storage = run(job)
    assert unfinished(job) == []
    evaluation = read(storage / "reports" / "evaluation.json")
    assert set(evaluation["heads"]) == {"tokens", "next_sentence"}
    figures = read(storage / "reports" / "finetune-reviews.json")
    interval = figures["scores"]["intervals"]["accuracy"]
    assert interval["low"] <= figures["scores"]["metrics"]["accuracy"] <= interval["high"]
    assert (storage / "reports" / "finetune-reviews.png").read_bytes().startswith(b"\x89PNG")
    assert (storage / "reports" / "vocabulary.svg").is_file()
    page = (storage / "reports" / "index.html").read_text(encoding="utf-8")
    assert "classification, full, from this model" in page
    assert "data:image/png" in page, "the confusion matrix"


@pytest.mark.slow
def test_encoder_decoder(laid_out: Path) -> None:
    job = shrunken("encoder-decoder", laid_out)
    storage = run(job)
    assert unfinished(job) == []
    assert "exact-match" in read(storage / "reports" / "finetune-readings.json")["scores"]["metrics"]
    answers = lines(storage / "predict" / "words" / "00000.jsonl")
    assert len(answers) == len(lines(WORDS))
    assert all(isinstance(answer["answer"], str) for answer in answers)


@pytest.mark.slow
def test_finetuning(finetuned: Path) -> None:
    full, lora, entities = (
        read(finetuned / "reports" / f"finetune-{name}.json") for name in ("reviews-full", "reviews-lora", "entities")
    )
    assert lora["finetuning"]["trained_parameters"] < full["finetuning"]["trained_parameters"]
    assert "entity-f1" in entities["scores"]["metrics"]
    answers = lines(finetuned / "predict" / "opinions" / "00000.jsonl")
    assert len(answers) == len(lines(OPINIONS))
    assert {answer["label"] for answer in answers} <= {"positive", "negative"}


@pytest.mark.slow
def test_continual(laid_out: Path, finetuned: Path) -> None:
    job = shrunken("continual", laid_out)
    storage = run(job)
    assert unfinished(job) == []
    evaluation = read(storage / "reports" / "evaluation.json")
    before, after = evaluation["before"]["sources"], evaluation["sources"]
    assert set(before) == set(after) == {"reviews", "peoples-daily", "news"}
    reported = read(finetuned / "reports" / "evaluation.json")["sources"]
    for name in ("peoples-daily", "news"):
        assert before[name]["loss"] == pytest.approx(reported[name]["loss"], rel=1e-6), (
            "the same model, the same held-out text"
        )
        assert after[name]["loss"] != before[name]["loss"]


@pytest.mark.slow
def test_methods(laid_out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the command that makes the table, through the engine of this machine, with two of the methods."""
    for name, value in {"OMP_NUM_THREADS": "1", "TMPDIR": str(laid_out)}.items():
        monkeypatch.setenv(name, value)
    folder, tasks = laid_out / "course" / "methods", ("scratch", "adapter")
    names = methods.run(shrunken("methods", laid_out), folder, 16, 1, only=tasks)
    assert names == ["scratch-16", "adapter-16"]
    rows = [*methods.baselines(folder, names[0]), *(methods.row_of(folder, name) for name in names)]
    assert [row.name for row in rows] == ["majority", "tf-idf", "snownlp", *tasks]
    assert {row.labels for row in rows} == {16}
    scratch, adapter = (row.trained_parameters or 0 for row in rows[3:])
    assert 0 < adapter < scratch
    lines = methods.markdown(rows).splitlines()
    assert lines[0] == "16 labels:"
    assert len(lines) == 4 + len(rows)
    assert all(line.count("[") == 4 for line in lines[4:]), "each figure has its interval"
    methods.draw(rows, folder / "methods.svg")
    picture = (folder / "methods.svg").read_text(encoding="utf-8")
    assert all(f"<!-- {row.name} -->" in picture for row in rows)
