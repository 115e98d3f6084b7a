"""The chart against a real API server: what it renders is taken, what it grants is exact, what it leaves is what it says.

Releases here run no operator (`replicas: 0`). The cluster's CRD belongs to everybody, so its fate is tried on a chart whose
definition has a group of its own.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import textwrap
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from pretrain_operator.api import GROUP

from tests.chart.helm import CHART, HELM, NO_HELM, ROOT, Object, helm, of_kind, render
from tests.chart.permissions import EVERYWHERE, Grants, granted
from tests.e2e.kubectl import Kubectl
from tests.operator.jobs import job

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(HELM is None, reason=NO_HELM)]

IDLE: Object = {"replicas": 0, "crds": {"enabled": False}}
"""A release without an operator, for a cluster that has the CRD."""
SCOPES = ("cluster", "namespaced")
KINDS = (
    "deployments,replicasets,pods,services,serviceaccounts,roles,rolebindings,leases,networkpolicies,poddisruptionbudgets"
)
CLUSTER_KINDS = "clusterroles,clusterrolebindings,customresourcedefinitions"

VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
ESCALATION = [
    *(f"{verb} secrets" for verb in VERBS),
    "create pods", "patch pods", "create pods/exec", "get pods/exec", "create pods/attach", "create pods/portforward",
    "get pods/log", "create pods/eviction", "patch pods/ephemeralcontainers", "create serviceaccounts",
    "create serviceaccounts/token", "impersonate serviceaccounts", "impersonate users", "impersonate groups",
    "create roles.rbac.authorization.k8s.io", "bind roles.rbac.authorization.k8s.io",
    "escalate roles.rbac.authorization.k8s.io", "create rolebindings.rbac.authorization.k8s.io",
    "create clusterrolebindings.rbac.authorization.k8s.io", "bind clusterroles.rbac.authorization.k8s.io",
    "list nodes", "patch nodes", "get nodes/proxy", "list namespaces", "create namespaces", "delete namespaces",
    "create deployments.apps", "create daemonsets.apps", "create persistentvolumes", "create persistentvolumeclaims",
    "create tokenreviews.authentication.k8s.io", "create certificatesigningrequests.certificates.k8s.io",
    "create mutatingwebhookconfigurations.admissionregistration.k8s.io", "patch customresourcedefinitions.apiextensions.k8s.io",
    "create pretrainjobs.pretrain.dev", "patch pretrainjobs.pretrain.dev", "update pretrainjobs.pretrain.dev/status",
    "patch pretrainjobs.pretrain.dev/finalizers", "list jobs.batch/status", "patch jobs.batch/status", "delete events",
    "list events", "create networkpolicies.networking.k8s.io", "create cronjobs.batch", "create mpijobs.kubeflow.org",
]  # fmt: skip
"""With these one could read credentials, become somebody else, or run anything anywhere."""


@pytest.fixture
def release() -> str:
    """A name that no other release has: objects of scope `cluster` are named by it."""
    return f"chart-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def installed(kubectl: Kubectl, release: str) -> Iterator[str]:
    """The name for a release; uninstalled in the end."""
    yield release
    helm("uninstall", release, "--namespace", kubectl.namespace, "--ignore-not-found")


@pytest.fixture(scope="module")
def private_chart(tmp_path_factory: pytest.TempPathFactory, kubectl: Kubectl) -> Iterator[Path]:
    """The chart with a definition in a group of its own, which may come and go."""
    chart = tmp_path_factory.mktemp("private") / "chart"
    shutil.copytree(CHART, chart)
    definition = chart / "templates" / "crd.yaml"
    text = definition.read_text(encoding="utf-8")
    group = f"x{uuid.uuid4().hex[:8]}.{GROUP}"
    definition.write_text(re.sub(rf"\b{re.escape(GROUP)}$", group, text, flags=re.MULTILINE), encoding="utf-8")
    yield chart
    kubectl.run("delete", "customresourcedefinition", f"pretrainjobs.{group}", "--ignore-not-found")


@pytest.mark.parametrize("scope", SCOPES)
def test_the_api_server_takes_every_object_without_a_warning(kubectl: Kubectl, release: str, scope: str) -> None:
    """Field by field, and with restricted Pod Security, the test pod included."""
    values = {"scope": scope, "replicas": 2, "networkPolicy": {"enabled": True}}
    objects = render(values, release=release, namespace=kubectl.namespace)
    assert {"NetworkPolicy", "PodDisruptionBudget", "Pod", "Lease"} <= {item["kind"] for item in objects}
    assert len(_dry_run(kubectl, objects)) == len(objects)


def test_the_api_server_takes_the_plain_manifests(kubectl: Kubectl) -> None:
    texts = [file.read_text(encoding="utf-8") for file in sorted((ROOT / "deploy").glob("*.yaml"))]
    objects = [item for text in texts for item in yaml.safe_load_all(text)]
    (namespace,) = of_kind(objects, "Namespace")
    for item in objects:  # the namespace itself is not made for a trial
        if "namespace" in item["metadata"]:
            assert item["metadata"]["namespace"] == namespace["metadata"]["name"]
            item["metadata"]["namespace"] = kubectl.namespace
    assert len(_dry_run(kubectl, objects)) == len(objects)


@pytest.mark.parametrize("scope", SCOPES)
def test_the_operator_may_do_what_is_granted_and_nothing_else(kubectl: Kubectl, release: str, scope: str) -> None:
    """Asked of the API server's authorizer, in the namespace of the release and in another."""
    values = {"scope": scope, "rbac": {"aggregateToUserRoles": False}}
    objects = render(IDLE | values, release=release, namespace=kubectl.namespace)
    access = [item for item in objects if "Role" in item["kind"] or item["kind"] == "ServiceAccount"]
    account = f"system:serviceaccount:{kubectl.namespace}:{of_kind(access, 'ServiceAccount')[0]['metadata']['name']}"
    granted_here = granted(access)
    wanted, refused = _questions(granted_here, kubectl.namespace)
    kubectl("apply", "-f", "-", stdin={"apiVersion": "v1", "kind": "List", "items": access})
    try:
        _until_allowed(kubectl, account, wanted)
        assert _allowed(kubectl, account, wanted) == wanted
        assert len(refused) >= 100
        assert _allowed(kubectl, account, refused) == []
    finally:
        kubectl.run("delete", "-f", "-", stdin={"apiVersion": "v1", "kind": "List", "items": access})


def test_users_get_the_rights_that_fit_their_role(kubectl: Kubectl, release: str) -> None:
    """Kubernetes' own roles view, edit and admin come to know PretrainJobs by aggregation."""
    roles = [
        item
        for item in render(IDLE, release=release, namespace=kubectl.namespace)
        if item["metadata"]["name"].count("-jobs-")
    ]
    assert len(roles) == 2
    users = {role: f"{role}-of-{release}" for role in ("view", "edit", "admin")}
    bindings = [_binding(f"{release}-{role}", "ClusterRole", role, "User", user) for role, user in users.items()]
    made = {"apiVersion": "v1", "kind": "List", "items": [*roles, *bindings]}
    kubectl("apply", "-f", "-", stdin=made)
    try:
        questions = [f"{kubectl.namespace} {verb} pretrainjobs.pretrain.dev" for verb in VERBS]
        questions.append(f"{kubectl.namespace} patch pretrainjobs.pretrain.dev/status")
        for role, user in users.items():
            may = questions[:3] if role == "view" else questions[:-1]
            _until_allowed(kubectl, user, may)
            assert _allowed(kubectl, user, questions) == may, role
    finally:
        kubectl.run("delete", "-f", "-", stdin=made)


@pytest.mark.parametrize("scope", SCOPES)
def test_install_upgrade_and_uninstall_leave_nothing(kubectl: Kubectl, installed: str, scope: str) -> None:
    values = {"scope": scope, "networkPolicy": {"enabled": True}}
    _helm(kubectl, "install", installed, IDLE | values, "--wait")
    assert "clusterroles" not in KINDS
    assert len(_left(kubectl, installed)) >= 8
    holder = {"spec": {"holderIdentity": "an-operator", "leaseDurationSeconds": 15}}
    kubectl("patch", "lease", "pretrain-operator", "--type=merge", "-p", json.dumps(holder))
    account = kubectl.get("serviceaccount", f"{installed}-pretrain-operator")["metadata"]["uid"]

    _helm(kubectl, "upgrade", installed, IDLE | values | {"operator": {"logLevel": "debug"}}, "--wait")
    (container,) = kubectl.get("deployment", f"{installed}-pretrain-operator")["spec"]["template"]["spec"]["containers"]
    assert "--log-level=debug" in container["args"]
    assert kubectl.get("serviceaccount", f"{installed}-pretrain-operator")["metadata"]["uid"] == account
    assert kubectl.get("lease", "pretrain-operator")["spec"] == holder["spec"], "an upgrade took the Lease away"

    assert helm("uninstall", installed, "--namespace", kubectl.namespace, "--wait").returncode == 0
    assert _left(kubectl, installed) == []
    assert kubectl.run("get", "lease", "pretrain-operator").returncode != 0


def test_the_notes_begin_with_a_job_that_is_taken(kubectl: Kubectl, crd: None, installed: str) -> None:
    _helm(kubectl, "install", installed, IDLE | {"scope": "namespaced"})
    notes = helm("get", "notes", installed, "--namespace", kubectl.namespace).stdout
    assert f"takes PretrainJobs from {kubectl.namespace}." in notes
    (manifest,) = re.findall(r"<<'END'\n(.*)\n  END\n", notes, flags=re.DOTALL)
    first = yaml.safe_load(textwrap.dedent(manifest).replace("YOUR-BUCKET", "bucket"))
    kubectl("apply", "--dry-run=server", "-f", "-", stdin=first)


def test_uninstall_leaves_the_definition_and_the_jobs(kubectl: Kubectl, installed: str, private_chart: Path) -> None:
    name = _private_group(private_chart)
    definition = f"customresourcedefinition/pretrainjobs.{name}"
    values = {"replicas": 0, "scope": "namespaced"}
    _helm(kubectl, "install", installed, values, chart=private_chart)
    kubectl("wait", "--for=condition=Established", definition, "--timeout=30s")
    manifest = job() | {"apiVersion": f"{name}/v1alpha1"}
    _applied(kubectl, manifest)

    _helm(kubectl, "uninstall", installed)
    assert kubectl.get(f"pretrainjobs.{name}")["items"], "the job went with the chart"

    # What one release left another may only have when told to.
    other = f"{installed}-2"
    refused = _helm_run(kubectl, "install", other, values, chart=private_chart)
    assert refused.returncode != 0
    assert "invalid ownership metadata" in refused.stderr
    _helm(kubectl, "install", other, values, "--take-ownership", chart=private_chart)
    _helm(kubectl, "upgrade", other, values | {"crds": {"keep": False}}, chart=private_chart)
    _helm(kubectl, "uninstall", other, "--wait")
    kubectl("wait", "--for=delete", definition, "--timeout=60s")


def test_a_definition_applied_by_hand_is_taken_over(kubectl: Kubectl, installed: str, private_chart: Path) -> None:
    """First kubectl, then helm: refused without --take-ownership, and then an upgrade keeps it up to date."""
    definition = f"customresourcedefinition/pretrainjobs.{_private_group(private_chart)}"
    (crd,) = of_kind(render({"crds": {"keep": False}}, chart=private_chart), "CustomResourceDefinition")
    crd["spec"]["versions"][0]["additionalPrinterColumns"].pop()
    kubectl("apply", "--server-side", "-f", "-", stdin=crd)
    values = {"replicas": 0, "scope": "namespaced"}
    refused = _helm_run(kubectl, "install", installed, values, chart=private_chart)
    assert refused.returncode != 0
    assert "invalid ownership metadata" in refused.stderr
    _helm(kubectl, "install", installed, values, "--take-ownership", chart=private_chart)
    _helm(kubectl, "upgrade", installed, values, chart=private_chart)
    found = kubectl.get(definition)
    assert found["metadata"]["annotations"]["meta.helm.sh/release-name"] == installed
    assert [column["name"] for column in found["spec"]["versions"][0]["additionalPrinterColumns"]][-1] == "Age"


def test_who_administers_a_namespace_can_install_in_it(kubectl: Kubectl, installed: str) -> None:
    """Nobody may hand on rights that he does not have: the operator's are given to him, or made by somebody who has them."""
    values = IDLE | {"scope": "namespaced"}
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": f"{installed}-admin"}}
    binding = _binding(
        f"{installed}-admin", "ClusterRole", "admin", "ServiceAccount", f"{installed}-admin", kubectl.namespace
    )
    kubectl("apply", "-f", "-", stdin={"apiVersion": "v1", "kind": "List", "items": [account, binding]})
    user = f"system:serviceaccount:{kubectl.namespace}:{installed}-admin"
    as_admin = ("--kube-as-user", user)
    _until_allowed(kubectl, user, [f"{kubectl.namespace} create deployments.apps"])

    refused = _helm_run(kubectl, "install", installed, values, *as_admin)
    assert refused.returncode != 0
    assert "attempting to grant RBAC permissions not currently held" in refused.stderr
    _helm(kubectl, "uninstall", installed, *as_admin)
    _helm(kubectl, "install", installed, values | {"rbac": {"create": False}}, *as_admin)
    _helm(kubectl, "uninstall", installed, "--wait", *as_admin)

    roles = of_kind(render(values, release=installed, namespace=kubectl.namespace), "Role")
    for role in roles:
        role["metadata"]["name"] += "-handed-on"
    bindings = [
        _binding(
            role["metadata"]["name"],
            "Role",
            role["metadata"]["name"],
            "ServiceAccount",
            f"{installed}-admin",
            kubectl.namespace,
        )
        for role in roles
    ]
    kubectl("apply", "-f", "-", stdin={"apiVersion": "v1", "kind": "List", "items": [*roles, *bindings]})
    _until_allowed(kubectl, user, [f"{kubectl.namespace} patch pretrainjobs.pretrain.dev/status"])
    _helm(kubectl, "install", installed, values, *as_admin)
    _helm(kubectl, "uninstall", installed, "--wait", *as_admin)


def _dry_run(kubectl: Kubectl, objects: Sequence[Object]) -> list[str]:
    """What the API server would make of the objects, a line each."""
    made = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
    return kubectl("apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", "-", stdin=made).splitlines()


def _helm_run(
    kubectl: Kubectl, verb: str, release: str, values: Object, *arguments: str, chart: Path = CHART
) -> subprocess.CompletedProcess[str]:
    command = [verb, release, str(chart), "--namespace", kubectl.namespace, *arguments, "--values", "-"]
    return helm(*command, stdin=json.dumps(values), timeout=180)


def _helm(kubectl: Kubectl, verb: str, release: str, *arguments: Any, chart: Path = CHART) -> None:
    """A call of helm that has to succeed; for install and upgrade the first argument are the values."""
    if verb == "uninstall":
        done = helm(verb, release, "--namespace", kubectl.namespace, *arguments, timeout=180)
    else:
        done = _helm_run(kubectl, verb, release, *arguments, chart=chart)
    assert done.returncode == 0, done.stderr


def _left(kubectl: Kubectl, release: str) -> list[str]:
    """All objects of a release that there are, of all kinds that the chart makes."""
    label = f"app.kubernetes.io/instance={release}"
    found = kubectl("get", KINDS, "-l", label, "-o", "name") + kubectl("get", CLUSTER_KINDS, "-l", label, "-o", "name")
    return found.split()


def _private_group(chart: Path) -> str:
    text = (chart / "templates" / "crd.yaml").read_text(encoding="utf-8")
    (group,) = re.findall(r"^  group: (.*)$", text, flags=re.MULTILINE)
    return str(group)


def _applied(kubectl: Kubectl, manifest: Object) -> None:
    """Applied as soon as the API server serves its kind, which is some seconds after that was established."""
    deadline = time.monotonic() + 60
    while (done := kubectl.run("apply", "-f", "-", stdin=manifest)).returncode != 0 and time.monotonic() < deadline:
        time.sleep(1)
    assert done.returncode == 0, done.stderr


def _binding(name: str, kind: str, role: str, subject: str, who: str, namespace: str | None = None) -> Object:
    group = "" if subject == "ServiceAccount" else "rbac.authorization.k8s.io"
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
        "subjects": [
            {"kind": subject, "name": who, "apiGroup": group, **({"namespace": namespace} if namespace is not None else {})}
        ],
    }


def _questions(grants: Grants, namespace: str) -> tuple[list[str], list[str]]:
    """What the operator has to be allowed, and what it must not be: "<namespace> <verb> <resource> [<name>]"."""
    everywhere = grants.get(EVERYWHERE, {})
    allowed = {
        f"{place} {verb} {resource}"
        for place in (namespace, "default")
        for resource, verbs in {**everywhere, **grants.get(place, {})}.items()
        for verb in [*verbs, *everywhere.get(resource, [])]
    }
    resources = {resource.split()[0] for granted_here in grants.values() for resource in granted_here}
    asked = {f"{place} {verb} {resource}" for place in (namespace, "default") for verb in VERBS for resource in resources}
    asked |= {f"{place} {verb} leases.coordination.k8s.io another" for place in (namespace, "default") for verb in VERBS}
    asked -= allowed | {f"{namespace} create leases.coordination.k8s.io another"}  # creating cannot be limited to a name
    never = {f"{place} {probe}" for place in (namespace, "default", "kube-system") for probe in ESCALATION}
    return sorted(allowed), sorted(asked | never)


def _allowed(kubectl: Kubectl, user: str, questions: Sequence[str]) -> list[str]:
    """Those questions that the API server's authorizer says yes to."""
    groups = ["system:authenticated"]
    if user.startswith("system:serviceaccount:"):
        groups += ["system:serviceaccounts", f"system:serviceaccounts:{user.split(':')[2]}"]
    reviews = []
    for question in questions:
        namespace, verb, resource, *name = question.split()
        kind, _, part = resource.partition("/")
        plural, _, group = kind.partition(".")
        asked = {"namespace": namespace, "verb": verb, "group": group, "resource": plural, "subresource": part}
        reviews.append(
            {
                "apiVersion": "authorization.k8s.io/v1",
                "kind": "SubjectAccessReview",
                "spec": {"user": user, "groups": groups, "resourceAttributes": asked | {"name": "".join(name)}},
            }
        )
    answers = kubectl(
        "create", "-f", "-", "-o", 'go-template={{.status.allowed}}{{"\\n"}}', "--validate=false",
        stdin={"apiVersion": "v1", "kind": "List", "items": reviews},
    ).split()  # fmt: skip
    assert len(answers) == len(questions)
    return [question for question, answer in zip(questions, answers, strict=True) if answer == "true"]


def _until_allowed(kubectl: Kubectl, user: str, questions: Sequence[str]) -> None:
    """The authorizer and the aggregation of roles learn of new ones a moment later."""
    deadline = time.monotonic() + 30
    while _allowed(kubectl, user, questions) != list(questions) and time.monotonic() < deadline:
        time.sleep(0.5)
