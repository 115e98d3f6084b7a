"""Every reason has its place in the page that users look it up in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

from pretrain_operator import reasons
from pretrain_operator.status import Restart

PAGE = Path(__file__).parents[2] / "docs" / "operator.md"
ROW = re.compile(r"^\| `([A-Z][A-Za-z]+)` \|", re.MULTILINE)
CONDITIONS = {"Accepted", "Progressing", "Suspended", "Succeeded", "Failed"}


def test_every_reason_of_a_condition_or_event_has_a_row_and_every_row_a_reason() -> None:
    """Tables, in their order: conditions, their reasons, reasons of Events."""
    _, of_conditions, of_events = re.findall(
        r"^## (?:Conditions|Reasons.*?)\n(.*?)(?=^## )", PAGE.read_text(), re.DOTALL | re.MULTILINE
    )
    rows = [*ROW.findall(of_conditions), *ROW.findall(of_events)]
    assert len(rows) == len(set(rows))
    assert set(rows) == {value for name, value in vars(reasons).items() if name.isupper()}


def test_every_reason_of_a_condition_says_on_which_and_what_to_do() -> None:
    rows = [line.strip("|").split("|") for line in PAGE.read_text().splitlines() if ROW.match(line)]
    of_conditions = [[cell.strip() for cell in row] for row in rows if len(row) == 4]
    assert len(of_conditions) == 24
    for reason, on, means, remedy in of_conditions:
        assert on == "all of them" or set(on.split(", ")) <= CONDITIONS, reason
        assert means, reason
        assert remedy, reason


def test_every_class_of_restart_is_explained() -> None:
    page = PAGE.read_text()
    for name in get_args(Restart.model_fields["reason"].annotation):
        assert f"`{name}`" in page, name
