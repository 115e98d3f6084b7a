"""The table of values in the chart's README, made from the comments in values.yaml.

python -m tests.chart.values     writes the table again (`make generate`)
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import yaml

CHART = Path(__file__).parents[2] / "charts" / "pretrain-operator"
README = CHART / "README.md"
BEGIN, END = "<!-- values: made from values.yaml by `make generate` -->\n", "<!-- end of values -->\n"


class Value(NamedTuple):
    """One line of the table."""

    key: str
    default: str
    description: str


def values(text: str) -> Iterator[Value]:
    """The values in the order of the file. A block of keys is a section; anything else is a value, and has a comment."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)
    yield from _values(root, "", text.splitlines())


def table(text: str) -> str:
    """The values as a table in Markdown."""
    lines = [f"| `{value.key}` | `{value.default}` | {value.description} |" for value in values(text)]
    return "\n".join(["| value | default | what it does |", "|---|---|---|", *lines, ""])


def with_table(readme: str, text: str) -> str:
    """The README with the table of these values in the place of the one that it has."""
    head, rest = readme.split(BEGIN)
    _, tail = rest.split(END)
    return f"{head}{BEGIN}{table(text)}{END}{tail}"


def main() -> None:
    made = with_table(README.read_text(encoding="utf-8"), (CHART / "values.yaml").read_text(encoding="utf-8"))
    README.write_text(made, encoding="utf-8")


def _values(mapping: yaml.MappingNode, prefix: str, lines: list[str]) -> Iterator[Value]:
    for key, value in mapping.value:
        path = f"{prefix}{key.value}"
        if isinstance(value, yaml.MappingNode) and not value.flow_style:
            yield from _values(value, f"{path}.", lines)
        else:
            yield Value(path, json.dumps(_plain(value)), _comment_above(key.start_mark.line, lines, path))


def _plain(node: yaml.Node) -> object:
    """The value of a node, as Python has it."""
    return yaml.safe_load(yaml.serialize(node, Dumper=yaml.SafeDumper))


def _comment_above(line: int, lines: list[str], path: str) -> str:
    first = line
    while first > 0 and lines[first - 1].lstrip().startswith("#"):
        first -= 1
    comment = " ".join(text.lstrip().removeprefix("#").strip() for text in lines[first:line])
    if not comment.endswith("."):
        raise ValueError(f"{path} in values.yaml has no sentence above it: {comment!r}")
    return comment.replace("|", "\\|")


if __name__ == "__main__":
    main()
