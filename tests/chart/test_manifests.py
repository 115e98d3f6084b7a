"""The plain manifests: what the chart renders, and nothing that deletes jobs."""

from __future__ import annotations

import pytest
import yaml

from tests.chart.helm import HELM, NO_HELM
from tests.chart.manifests import FILE, manifests


@pytest.mark.skipif(HELM is None, reason=NO_HELM)
def test_the_committed_file_is_what_the_chart_renders() -> None:
    assert FILE.read_text(encoding="utf-8") == manifests(), f"{FILE.name} is out of date: run `make manifests` and commit it"


def test_the_namespace_comes_first_and_the_definition_not_at_all() -> None:
    objects = list(yaml.safe_load_all(FILE.read_text(encoding="utf-8")))
    assert objects[0]["kind"] == "Namespace"
    assert "CustomResourceDefinition" not in {item["kind"] for item in objects}, "deleting the file would delete every job"
    assert {item["metadata"]["namespace"] for item in objects if "namespace" in item["metadata"]} == {"pretrain-system"}
    assert "helm" not in yaml.safe_dump([item["metadata"] for item in objects]).lower()


@pytest.mark.skipif(HELM is None, reason=NO_HELM)
def test_helm_arguments_reach_the_manifests() -> None:
    assert "image: registry.example/x:v2\n" in manifests("--set", "image.repository=registry.example/x,image.tag=v2")
