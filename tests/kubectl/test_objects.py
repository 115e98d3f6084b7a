"""What programs get."""

from __future__ import annotations

import json

import pytest
import yaml
from pretrain_operator.kubectl import objects

from tests.kubectl.resources import TRAINING, resource


def test_one_object_as_it_is() -> None:
    body = resource("demo", TRAINING)
    shown = json.loads(objects.one(body, "json"))
    assert shown == body | {"metadata": {key: value for key, value in body["metadata"].items() if key != "managedFields"}}
    assert yaml.safe_load(objects.one(body, "yaml")) == shown
    assert objects.one(body, "name") == "pretrainjob.pretrain.dev/demo\n"


@pytest.mark.parametrize("count", [0, 1, 2])
def test_several_are_a_list_always(count: int) -> None:
    bodies = [resource(f"job-{number}") for number in range(count)]
    shown = json.loads(objects.many(bodies, "json"))
    assert (shown["kind"], shown["apiVersion"], len(shown["items"])) == ("List", "v1", count)
    assert yaml.safe_load(objects.many(bodies, "yaml")) == shown
    assert [item["kind"] for item in shown["items"]] == ["PretrainJob"] * count


@pytest.mark.parametrize("text", ["中文", "\x1b]0;owned\x07", "a\u202eb", "\x9b2J 中文", "\x7f"])
def test_text_comes_back_and_never_acts(text: str) -> None:
    body = resource(status={"stage": text})
    for written, read in ((objects.one(body, "json"), json.loads), (objects.one(body, "yaml"), yaml.safe_load)):
        assert read(written)["status"]["stage"] == text
        assert not set(written) & set("\x1b\x07\x9b\x7f\u202e")
    assert "中文" in objects.one(resource(status={"stage": "中文"}), "yaml")
