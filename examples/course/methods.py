"""The table of docs/course.md: one task, learned from few labels and from all, by seven methods and without pretraining.

    python examples/course/methods.py                                        the table, in Markdown, as JSON and as a picture
    python examples/course/methods.py --study 250000 1000000 4000000         from how much text on pretraining is worth it

It runs examples/course/methods.yaml once for each number of labels; the model is pretrained once. Stopped anywhere, the same command
goes on. Rows to read the others beside come from baselines.py, on the same split.

Intervals are of 95 %, by bootstrap over the test examples: of two rows whose intervals do not meet one is better. They say nothing
of another seed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import yaml

matplotlib.use("Agg")

import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parents[2]
LESSON = Path(__file__).with_name("methods.yaml")
PASSES: dict[int | None, float] = {200: 20, 1000: 8, None: 2}
"""Most passes over the training examples, by their number; None: all there are. Fine-tuning ends early where it gets no better."""
METRICS = ("accuracy", "macro-precision", "macro-recall", "macro-f1")
STUDIED_LABELS = (200, 1000)


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    name: str
    labels: int
    scores: dict[str, Any]
    trained_parameters: int | None
    peak_bytes: float
    seconds: float

    def told(self, metric: str) -> str:
        """A metric in percent, with its interval."""
        within = self.scores["intervals"][metric]
        return f"{100 * self.scores['metrics'][metric]:.1f} [{100 * within['low']:.1f}, {100 * within['high']:.1f}]"

    def better(self, other: Row, metric: str = "accuracy") -> bool:
        """Whether it is better by more than the intervals."""
        return bool(self.scores["intervals"][metric]["low"] > other.scores["intervals"][metric]["high"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("build/course/methods"), help="where all of it goes")
    parser.add_argument(
        "--study", type=int, nargs="+", metavar="TOKENS", help="pretrain on so many tokens instead, one after the other"
    )
    options = parser.parse_args()
    folder: Path = options.folder.absolute()
    os.chdir(ROOT)  # the lesson's paths are relative to it
    prepare()
    return study(folder, options.study) if options.study else table(folder)


def prepare() -> None:
    """Lays out the text, once."""
    call(sys.executable, "examples/demo/corpus.py", "build/demo/raw")
    call(sys.executable, "examples/course/labelled.py", "build/course/labelled")


def table(folder: Path) -> int:
    """All methods with all numbers of labels."""
    rows = [row for number in PASSES for row in of_labels(folder, number)]
    leave(folder, "methods", rows, "\n\n".join(markdown([r for r in rows if r.labels == n]) for n in numbers(rows)))
    draw(rows, folder.with_name("methods.svg"))
    return 0


def of_labels(folder: Path, number: int | None) -> Iterator[Row]:
    names = run(LESSON, folder, number, PASSES[number])
    yield from baselines(folder, names[0])
    for name in names:
        yield row_of(folder, name)


def study(folder: Path, tokens: list[int]) -> int:
    """From scratch, which no pretraining changes, and pretrained on more and more text."""
    rows = []
    lines = [
        "| pretrained on | labels | accuracy, % | from scratch, % | better by more than the intervals |",
        "|---|---|---|---|---|",
    ]
    for number in STUDIED_LABELS:
        first, *_ = own = [folder.with_name(f"{folder.name}-{amount}") for amount in tokens]
        scratch = row_of(first, *run(LESSON, first, number, PASSES[number], tokens[0], ("scratch",)))
        rows.append(scratch)
        for amount, place in zip(tokens, own, strict=True):
            full = row_of(place, *run(LESSON, place, number, PASSES[number], amount, ("full",)))
            rows.append(full)
            said = "yes" if full.better(scratch) else "no"
            told = f"{full.told('accuracy')} | {scratch.told('accuracy')}"
            lines.append(f"| {amount:,} tokens | {full.labels:,} | {told} | {said} |")
    leave(folder, "study", rows, "\n".join(lines))
    return 0


def run(
    lesson: Path, folder: Path, number: int | None, passes: float, tokens: int | None = None, only: tuple[str, ...] = ()
) -> list[str]:
    """Runs the lesson with so many labels, None for all; returns the names of its tasks.

    tokens: to pretrain on; None as the lesson says. only: tasks; none for all.
    """
    job = yaml.safe_load(lesson.read_text(encoding="utf-8"))
    spec = job["spec"]
    spec["storage"]["uri"] = str(folder)
    spec["training"]["tokens"] = tokens or spec["training"]["tokens"]
    spec["finetune"] = [task for task in spec["finetune"] if not only or task["name"] in only]
    for task in spec["finetune"]:
        task["name"] += f"-{number or 'all'}"
        task["epochs"] = passes
        task["examples"] = {"uri": task["examples"]["uri"]} | ({"maxTrainExamples": number} if number else {})
    path = folder / f"methods-{number or 'all'}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(job, sort_keys=False, allow_unicode=True), encoding="utf-8")
    call(str(Path(sys.executable).with_name("pretrain")), "run", str(path))
    return [str(task["name"]) for task in spec["finetune"]]


def baselines(folder: Path, name: str) -> Iterator[Row]:
    """What learns the split of that task without any pretraining."""
    out = folder / f"baselines-{name.rpartition('-')[2]}.json"
    if not out.exists():
        call(sys.executable, "examples/course/baselines.py", str(folder / "finetune" / name / "examples"), "--out", str(out))
    for told, row in json.loads(out.read_text(encoding="utf-8")).items():
        yield Row(told, row["train_examples"], row["scores"], row.get("parameters"), row["peak_bytes"], row["seconds"])


def row_of(folder: Path, name: str) -> Row:
    """What the reports say of a task."""
    report = json.loads((folder / "reports" / f"finetune-{name}.json").read_text(encoding="utf-8"))
    facts = report["finetuning"]
    seconds = json.loads((folder / "stages" / f"finetune-{name}.json").read_text(encoding="utf-8"))["seconds"]
    return Row(
        name.rpartition("-")[0],
        facts["examples"]["train"],
        report["scores"],
        facts["trained_parameters"],
        facts["peak_memory_bytes"],
        seconds,
    )


def draw(rows: list[Row], path: Path) -> None:
    """The accuracies with their intervals as SVG: a group for each number of labels, a place in it for each method."""
    names, sizes = list(dict.fromkeys(row.name for row in rows)), numbers(rows)
    figure, axes = plt.subplots(figsize=(9, 4.5), layout="constrained")
    for place, name in enumerate(names):
        own = [row for row in rows if row.name == name]
        at = [sizes.index(row.labels) + (place + 0.5) / (len(names) + 2) for row in own]
        means = [100 * row.scores["metrics"]["accuracy"] for row in own]
        within = [row.scores["intervals"]["accuracy"] for row in own]
        bars = [[mean - 100 * one["low"] for mean, one in zip(means, within, strict=True)],
                [100 * one["high"] - mean for mean, one in zip(means, within, strict=True)]]  # fmt: skip
        axes.errorbar(at, means, bars, fmt="o", capsize=3, label=name)
    axes.set_xticks([place + 0.5 for place in range(len(sizes))], [f"{size:,} labels" for size in sizes])
    axes.set_ylabel("accuracy on the test reviews, %")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(ncols=2, fontsize="small")
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def numbers(rows: list[Row]) -> list[int]:
    return sorted({row.labels for row in rows})


def markdown(rows: list[Row]) -> str:
    """Rows of one number of labels."""
    lines = [f"{rows[0].labels:,} labels:", ""]
    lines += ["| | accuracy, % | precision, % | recall, % | F1, % | trained parameters | peak memory | seconds |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for row in rows:
        figures = " | ".join(row.told(metric) for metric in METRICS)
        trained = "" if row.trained_parameters is None else f"{row.trained_parameters:,}"
        lines.append(f"| {row.name} | {figures} | {trained} | {row.peak_bytes / 1e6:,.0f} MB | {row.seconds:.0f} |")
    return "\n".join(lines)


def leave(folder: Path, name: str, rows: list[Row], text: str) -> None:
    """Prints the table, and keeps it."""
    (folder.with_name(f"{name}.md")).write_text(text + "\n", encoding="utf-8")
    data = json.dumps([vars(row) for row in rows], indent=2, ensure_ascii=False)
    (folder.with_name(f"{name}.json")).write_text(data + "\n", encoding="utf-8")
    print(text)


def call(*command: str) -> None:
    subprocess.run(command, check=True)


if __name__ == "__main__":
    sys.exit(main())
