"""promtool and prometheus: those in PATH, or those that `make prometheus` unpacked; without them tests that need them skip."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNPACKED = ROOT / "build" / "tools" / "usr" / "bin"


def program(name: str) -> str | None:
    """The program of this name."""
    return shutil.which(name) or shutil.which(name, path=UNPACKED)


PROMTOOL, PROMETHEUS = program("promtool"), program("prometheus")
needs_prometheus = pytest.mark.skipif(
    PROMTOOL is None or PROMETHEUS is None,
    reason="prometheus and promtool are not in PATH: `make prometheus` unpacks Debian's into build/tools",
)


def promtool(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """One call, whatever comes of it."""
    assert PROMTOOL is not None
    return subprocess.run(
        [PROMTOOL, *arguments], input=stdin, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT
    )
