"""docs/objectives.md shows what the script really prints."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_samples_on_the_page_are_real() -> None:
    printed = subprocess.run(
        [sys.executable, ROOT / "examples/course/objectives.py"], capture_output=True, text=True, check=True
    ).stdout
    page = (ROOT / "docs/objectives.md").read_text(encoding="utf-8")
    lines = [line for line in printed.splitlines() if line.strip()]
    assert len(lines) > 30
    assert [line for line in lines if line not in page.splitlines()] == []
