"""Runs every benchmark, prints one table and writes build/figures.json: {id: {value, peer, goal, holds}}."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmarks import checkpoints, listeners, lost_time, preprocess, training
from benchmarks.figure import Figure, table

RESULT = Path("build/figures.json")


def main() -> int:
    parts = (preprocess, training, listeners, checkpoints, lost_time)
    figures: list[Figure] = [figure for part in parts for figure in part.figures()]
    print(table(figures))
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps({figure.id: figure.as_json() for figure in figures}, indent=2) + "\n")
    return 0 if all(figure.holds for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
