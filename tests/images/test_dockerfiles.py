"""What can be said of the images without building them: what they are built from, and as whom they run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILES = sorted([*ROOT.glob("images/*.Dockerfile"), *ROOT.glob("tests/e2e/images/*.Dockerfile")])
REQUIREMENT = re.compile(r"^[a-z0-9][a-z0-9._-]*==\S+( ;.*)?( \\\n {4}--hash=sha256:[0-9a-f]{64})+$", re.MULTILINE)


def test_there_is_one_for_each_part_and_one_for_each_server_of_the_tests() -> None:
    assert {path.name.partition(".")[0] for path in DOCKERFILES} >= {"operator", "preprocess", "trainer", "seaweedfs"}


def test_all_stand_on_one_base_by_digest() -> None:
    bases = {re.search(r"^ARG BASE_IMAGE=(.*)$", path.read_text(), re.MULTILINE)[1] for path in DOCKERFILES}  # type: ignore[index]
    (base,) = bases
    assert re.fullmatch(r"python:3\.11-slim-bookworm@sha256:[0-9a-f]{64}", base)


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_images_take_nothing_else_from_outside(path: Path) -> None:
    text = path.read_text()
    stages = set(re.findall(r"^FROM \S+ AS (\S+)$", text, re.MULTILINE))
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) <= stages | {"${BASE_IMAGE}"}
    assert set(re.findall(r"--from=(\S+)", text)) <= stages
    assert not re.search(r"https?://|^ADD |--(extra-)?index-url [^\"$]", text, re.MULTILINE)


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_images_run_as_a_user_with_a_number(path: Path) -> None:
    """A name could not be checked against runAsNonRoot."""
    assert re.findall(r"^USER (.*)$", path.read_text(), re.MULTILINE) == ["1000:1000"]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_requirements_are_installed_by_their_hashes(path: Path) -> None:
    text = path.read_text().replace("\\\n", " ")
    for command in re.findall(r"/pip [^&\n]*--requirement[^&\n]*", text):
        assert "--require-hashes" in command


@pytest.mark.parametrize("path", sorted((ROOT / "requirements").glob("*.txt")), ids=lambda path: path.stem)
def test_every_requirement_has_hashes_and_no_address(path: Path) -> None:
    text = path.read_text()
    assert REQUIREMENT.sub("", text).strip() == ""


def test_our_code_comes_last() -> None:
    """So that a change of it builds a small layer, and loads one."""
    for path in ROOT.glob("images/*.Dockerfile"):
        assert path.read_text().splitlines()[-1] == "COPY --from=code /code/opt/pretrain /opt/pretrain"
