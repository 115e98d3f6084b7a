"""Plain manifests for `kubectl apply`, rendered from the chart. The CRD stands beside them: deleting them leaves the jobs.

python -m tests.chart.manifests FILE [HELM ARGUMENT...]     writes them (`make manifests`)
"""

from __future__ import annotations

import sys
from pathlib import Path

import yaml

from tests.chart.helm import HELM, NAMESPACE, NO_HELM, ROOT, Object, render

FILE = ROOT / "deploy" / "pretrain-operator.yaml"
HEAD = """\
# The operator, as the chart makes it. Written by `make manifests`; edit the chart, not this.
# The CRD is deploy/crd.yaml and comes first: deleting what stands here leaves it and every PretrainJob.
"""


def manifests(*arguments: str) -> str:
    """The text of the file; arguments are for helm, such as `--set image.repository=...`."""
    objects = render({"crds": {"enabled": False}}, "--no-hooks", *arguments)
    return HEAD + yaml.safe_dump_all(
        [_namespace(), *map(_without_helm, objects)], sort_keys=False, allow_unicode=True, width=120, explicit_start=True
    )


def _namespace() -> Object:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}}


def _without_helm(item: Object) -> Object:
    """Without the labels that say that helm looks after the object."""
    del item["metadata"]["labels"]["helm.sh/chart"], item["metadata"]["labels"]["app.kubernetes.io/managed-by"]
    return item


def main() -> None:
    if HELM is None:
        sys.exit(NO_HELM)
    Path(sys.argv[1]).write_text(manifests(*sys.argv[2:]), encoding="utf-8")


if __name__ == "__main__":
    main()
