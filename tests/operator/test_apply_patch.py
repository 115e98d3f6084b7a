"""What is sent to be applied."""

from __future__ import annotations

import json

import pytest
import yaml
from pretrain_operator.apply_patch import as_yaml


@pytest.mark.parametrize(
    "text", ["\U0001f600", "中国 é\u202e\ufeff", "\x00\x1b\x7f\x85\x9f", "\\ud83d\\ude00 \\", "a: {b}\n---\n- c"]
)
def test_what_is_applied_is_json_and_yaml(text: str) -> None:
    """The API server reads it as YAML, which knows no pairs of surrogates."""
    sent = as_yaml({"data": {"job.json": text}})
    assert yaml.safe_load(sent) == json.loads(sent) == {"data": {"job.json": text}}
