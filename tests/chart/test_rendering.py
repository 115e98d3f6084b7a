"""What the chart renders: judged as data. A cluster's judgement is in tests/e2e/test_chart.py."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from pretrain_operator.cluster.options import parse
from pretrain_operator.crd import crd
from pretrain_operator.pod import USER

from tests.chart.helm import (
    CHART,
    HELM,
    NAMESPACED,
    NO_HELM,
    RELEASE,
    Object,
    helm,
    of_kind,
    pods,
    render,
    template,
    version,
)
from tests.chart.permissions import GOLDEN, permissions

pytestmark = pytest.mark.skipif(HELM is None, reason=NO_HELM)

DIGEST = "sha256:" + "0123456789abcdef" * 4
EVERYTHING: Object = {
    "replicas": 2,
    "networkPolicy": {"enabled": True},
    "podLabels": {"team": "nlp"},
    "monitoring": {part: {"enabled": True} for part in ("podMonitor", "serviceMonitor", "prometheusRule", "dashboards")},
}
"""Values with which the chart renders all it can."""


def operator(values: Object | None = None) -> Any:
    """The operator's Deployment."""
    (deployment,) = of_kind(render(values), "Deployment")
    return deployment["spec"]


def arguments(values: Object | None = None) -> list[str]:
    """What the operator is called with."""
    (container,) = operator(values)["template"]["spec"]["containers"]
    made: list[str] = container["args"]
    return made


def test_lint_finds_nothing() -> None:
    done = helm("lint", "--strict", str(CHART), *version())
    assert done.returncode == 0, done.stdout
    assert "0 chart(s) failed" in done.stdout
    assert "WARNING" not in done.stdout


@pytest.mark.parametrize("values", [{}, EVERYTHING, NAMESPACED, EVERYTHING | NAMESPACED], ids=["", "all", "narrow", "both"])
def test_each_object_is_rendered_once_and_labelled(values: Object) -> None:
    objects = render(values)
    names = [(item["kind"], item["metadata"].get("namespace"), item["metadata"]["name"]) for item in objects]
    assert len(set(names)) == len(names)
    for item in objects:
        if item["kind"] != "CustomResourceDefinition":
            labels = item["metadata"]["labels"]
            assert labels["app.kubernetes.io/name"] == "pretrain-operator"
            assert labels["app.kubernetes.io/instance"] == RELEASE
            assert labels["app.kubernetes.io/managed-by"] == "Helm"


def test_the_definition_is_the_generated_one() -> None:
    def definitions(**crds: bool) -> list[Object]:
        return of_kind(render({"crds": crds}), "CustomResourceDefinition")

    assert definitions(keep=False) == [crd()]
    assert definitions(enabled=False) == []
    (kept,) = definitions()
    assert kept["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
    assert kept == crd()


def test_permissions_are_those_that_were_read() -> None:
    """Compared as data; `python -m tests.chart.permissions` writes the file again."""
    assert permissions() == yaml.safe_load(GOLDEN.read_text(encoding="utf-8"))


@pytest.mark.parametrize("values", [{}, NAMESPACED], ids=["cluster", "namespaced"])
def test_no_role_holds_a_wildcard_a_secret_or_a_way_to_more(values: Object) -> None:
    roles = [*of_kind(render(values), "Role"), *of_kind(render(values), "ClusterRole")]
    assert roles
    for rule in (rule for role in roles for rule in role["rules"]):
        assert "*" not in json.dumps(rule)
        assert not {"secrets", "serviceaccounts", "pods/exec", "pods/attach", "pods/log"} & set(rule["resources"])
        assert not {"rbac.authorization.k8s.io", "authentication.k8s.io"} & set(rule["apiGroups"])
        assert not {"bind", "escalate", "impersonate"} & set(rule["verbs"])
        assert rule["resources"] != ["pods"] or rule["verbs"] == ["list", "watch", "delete"]


def test_a_namespaced_installation_has_nothing_cluster_wide() -> None:
    objects = render(EVERYTHING | NAMESPACED | {"crds": {"enabled": False}})
    assert not [item["kind"] for item in objects if "Cluster" in item["kind"] or "Custom" in item["kind"]]
    assert {item["metadata"]["namespace"] for item in objects} == {"pretrain-system", "team-a", "team-b"}


def test_the_scope_reaches_the_operator() -> None:
    assert [argument for argument in arguments() if "namespace" in argument] == ["--lease-namespace=pretrain-system"]
    assert [argument for argument in arguments(NAMESPACED) if "namespace" in argument] == [
        "--namespace=team-a",
        "--namespace=team-b",
        "--lease-namespace=team-a",
    ]
    both = {"scope": "namespaced", "watch": {"namespaces": ["team-a", "pretrain-system"]}}
    assert "--lease-namespace=pretrain-system" in arguments(both), "a watched namespace may go; the release's goes last"
    assert [argument for argument in arguments({"scope": "namespaced"}) if "namespace" in argument] == [
        "--namespace=pretrain-system",
        "--lease-namespace=pretrain-system",
    ]


@pytest.mark.parametrize("values", [{}, NAMESPACED], ids=["cluster", "namespaced"])
def test_the_lease_is_the_one_that_the_operator_may_write(values: Object) -> None:
    objects = render(values)
    (lease,) = of_kind(objects, "Lease")
    (role,) = (item for item in of_kind(objects, "Role") if item["metadata"]["name"].endswith("-lease"))
    assert role["metadata"]["namespace"] == lease["metadata"]["namespace"]
    assert role["rules"][0]["resourceNames"] == [lease["metadata"]["name"]]
    assert f"--lease-namespace={lease['metadata']['namespace']}" in arguments(values)
    assert f"--lease-name={lease['metadata']['name']}" in arguments(values)
    assert "spec" not in lease, "who holds it is the operator's to write; an upgrade would take it away"


def test_every_pod_is_restricted() -> None:
    specs = pods(render(EVERYTHING))
    assert len(specs) == 2, "the operator and the test"
    for spec in specs:
        assert not {"hostNetwork", "hostPID", "hostIPC", "volumes", "initContainers"} & set(spec)
        assert spec["securityContext"] == {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        (container,) = spec["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["requests"]
        assert "memory" in container["resources"]["limits"]
        assert "cpu" not in container["resources"]["limits"]
        assert not [port for port in container.get("ports", []) if "hostPort" in port]


def test_images_by_tag_and_by_digest() -> None:
    """Without values the chart's own version; a digest wins over a tag, for the operator, its test and both stages."""
    version = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))["appVersion"]
    values = {"repository": "registry.example/some", "tag": "2"}
    for given, image in (
        ({}, None),
        (values, "registry.example/some:2"),
        (values | {"digest": DIGEST}, f"registry.example/some@{DIGEST}"),
    ):
        objects = render({"image": given, "images": {"preprocess": given, "trainer": given}})
        assert {spec["containers"][0]["image"] for spec in pods(objects)} == {
            image or f"localhost/pretrain-operator:{version}"
        }
        (container,) = of_kind(objects, "Deployment")[0]["spec"]["template"]["spec"]["containers"]
        for stage in ("preprocess", "trainer"):
            assert f"--{stage}-image={image or f'localhost/pretrain-{stage}:{version}'}" in container["args"]


def test_every_argument_of_the_operator_comes_from_a_value() -> None:
    given = arguments(
        {
            "images": {"pullPolicy": "Never", "pullSecrets": ["one", "two"]},
            "operator": {
                "workers": 7,
                "resyncSeconds": 11,
                "unschedulableSeconds": 13,
                "logFormat": "text",
                "logLevel": "debug",
            },
            "metrics": {"port": 9001},
            "health": {"port": 9002},
        }
    )
    assert given[4:] == [
        "--image-pull-policy=Never",
        "--image-pull-secret=one",
        "--image-pull-secret=two",
        "--health-port=9002",
        "--metrics-port=9001",
        "--workers=7",
        "--resync-seconds=11",
        "--unschedulable-seconds=13",
        "--log-format=text",
        "--log-level=debug",
    ]


@pytest.mark.parametrize("values", [{}, NAMESPACED], ids=["cluster", "namespaced"])
def test_the_operator_takes_its_arguments(values: Object) -> None:
    """Its own parser, and with its own defaults: the chart's are the same."""
    environment = {"POD_NAME": "operator-0", "POD_NAMESPACE": "pretrain-system"}
    options = parse(arguments(values), environment)
    assert list(options.namespaces) == values.get("watch", {}).get("namespaces", [])
    bare = parse([f"--namespace={namespace}" for namespace in options.namespaces], environment)
    settings = dataclasses.replace(options.settings, images=bare.settings.images)
    assert dataclasses.replace(options, settings=settings) == bare


def test_probes_services_and_annotations_go_to_the_ports() -> None:
    objects = render({"metrics": {"port": 9001}, "health": {"port": 9002}})
    (deployment,) = of_kind(objects, "Deployment")
    template = deployment["spec"]["template"]
    (container,) = template["spec"]["containers"]
    assert {port["name"]: port["containerPort"] for port in container["ports"]} == {"metrics": 9001, "health": 9002}
    assert container["livenessProbe"]["httpGet"] == {"path": "/livez", "port": "health"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "health"}
    assert template["metadata"]["annotations"]["prometheus.io/port"] == "9001"
    (service,) = of_kind(objects, "Service")
    assert {port["targetPort"]: port["port"] for port in service["spec"]["ports"]} == {"metrics": 9001, "health": 9002}
    assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
    (test,) = of_kind(objects, "Pod")
    assert test["spec"]["containers"][0]["args"][-1] == "pretrain-operator.pretrain-system.svc:9002"
    assert not service["spec"]["selector"].items() <= test["metadata"]["labels"].items(), "the test asked itself"


def test_annotations_and_labels_of_the_pod() -> None:
    metadata = operator({"podAnnotations": {"a": "b", "prometheus.io/path": "/mine"}})["template"]["metadata"]
    assert metadata["annotations"]["a"] == "b"
    assert metadata["annotations"]["prometheus.io/path"] == "/mine"
    assert "annotations" not in operator({"monitoring": {"annotations": {"enabled": False}}})["template"]["metadata"]
    deployment = operator({"podLabels": {"team": "nlp", "app.kubernetes.io/name": "other"}})
    assert deployment["template"]["metadata"]["labels"]["team"] == "nlp"
    assert deployment["selector"]["matchLabels"].items() <= deployment["template"]["metadata"]["labels"].items()


def test_a_budget_where_there_is_something_to_keep() -> None:
    assert not of_kind(render(), "PodDisruptionBudget"), "with one replica it would only block the drain of a node"
    (budget,) = of_kind(render({"replicas": 2}), "PodDisruptionBudget")
    assert budget["spec"]["maxUnavailable"] == 1


def test_the_network_policy_allows_what_the_operator_does() -> None:
    assert not of_kind(render(), "NetworkPolicy")
    (policy,) = of_kind(render({"networkPolicy": {"enabled": True, "apiServerPorts": [16443]}}), "NetworkPolicy")
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert policy["spec"]["ingress"] == [{"ports": [{"port": "metrics"}, {"port": "health"}]}]
    dns, server, training = policy["spec"]["egress"]
    assert dns == {"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]}
    assert server == {"ports": [{"port": 16443}]}
    assert training["ports"] == [{"port": 9400}]
    (to,) = training["to"]
    assert to["podSelector"] == {"matchExpressions": [{"key": "pretrain.dev/stage", "operator": "Exists"}]}
    assert to["namespaceSelector"] == {}
    (policy,) = of_kind(render({"networkPolicy": {"enabled": True}} | NAMESPACED), "NetworkPolicy")
    assert policy["spec"]["egress"][2]["to"][0]["namespaceSelector"]["matchExpressions"] == [
        {"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["team-a", "team-b"]}
    ]


def test_where_the_operator_runs() -> None:
    wanted: Object = {
        "nodeSelector": {"pool": "system"},
        "tolerations": [{"key": "system", "operator": "Exists", "effect": "NoSchedule"}],
        "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "ScheduleAnyway"}
        ],
        "priorityClassName": "system-cluster-critical",
    }
    spec = operator(wanted)["template"]["spec"]
    assert {name: spec[name] for name in wanted} == wanted
    assert spec["terminationGracePeriodSeconds"] == 30


def test_objects_of_others_stay_theirs() -> None:
    objects = render(
        {"serviceAccount": {"create": False, "name": "mine"}, "rbac": {"create": False, "aggregateToUserRoles": False}}
    )
    assert {item["kind"] for item in objects} == {"CustomResourceDefinition", "Service", "Deployment", "Lease", "Pod"}
    (deployment,) = of_kind(objects, "Deployment")
    assert deployment["spec"]["template"]["spec"]["serviceAccountName"] == "mine"


def test_names_that_yaml_would_take_for_numbers() -> None:
    values = {
        "scope": "namespaced",
        "watch": {"namespaces": ["1", "12e3"]},
        "priorityClassName": "true",
        "fullnameOverride": "x",
    }
    objects = render(values, release="7", namespace="0x8")
    assert {item["metadata"]["namespace"] for item in objects if "namespace" in item["metadata"]} == {"1", "12e3", "0x8"}
    (deployment,) = of_kind(objects, "Deployment")
    assert deployment["spec"]["template"]["spec"]["priorityClassName"] == "true"
    assert "--namespace=12e3" in deployment["spec"]["template"]["spec"]["containers"][0]["args"]


@pytest.mark.parametrize("release", ["a", "a" * 53, "pretrain-operator-" + "a" * 35])
def test_names_fit(release: str) -> None:
    for item in render(EVERYTHING | {"crds": {"enabled": False}}, release=release):
        assert len(item["metadata"]["name"]) <= 63
        assert not item["metadata"]["name"].endswith("-")


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"watch": {"namespaces": ["a"]}}, 'watch.namespaces is ["a"], but scope is "cluster"'),
        ({"metrics": {"port": 8081}}, "metrics.port and health.port are both 8081"),
        ({"serviceAccount": {"create": False}}, "serviceAccount.create is false and serviceAccount.name is empty"),
    ],
)
def test_values_that_contradict_each_other_are_refused(values: Object, sentence: str) -> None:
    done = template(values)
    assert done.returncode != 0
    assert sentence in done.stderr


def test_a_release_that_no_service_can_be_named_for_is_refused() -> None:
    done = template(release="7b")
    assert done.returncode != 0
    assert 'would be named "7b-pretrain-operator"' in done.stderr


def test_the_chart_can_be_part_of_another(tmp_path: Path) -> None:
    """Helm hands every part the values under `global`; a closed schema has to let them in."""
    whole = tmp_path / "whole"
    shutil.copytree(CHART, whole / "charts" / "pretrain-operator")
    (whole / "Chart.yaml").write_text("apiVersion: v2\nname: whole\nversion: 1.0.0\n", encoding="utf-8")
    objects = render({"global": {"registry": "x"}, "pretrain-operator": {"replicas": 2}}, release="whole", chart=whole)
    assert of_kind(objects, "Deployment")[0]["spec"]["replicas"] == 2
