"""The flags: what is asked for is what is had, and what cannot be is refused by name."""

from __future__ import annotations

import pytest
from pretrain_operator.cluster.options import parse
from pretrain_operator.stages import Images
from pretrain_stage.errors import UserError


def test_defaults() -> None:
    options = parse([], {"POD_NAME": "operator-1", "POD_NAMESPACE": "system"})
    assert options.namespaces == ()
    assert options.settings.images == Images()
    assert (options.lease_namespace, options.lease_name, options.identity) == ("system", "pretrain-operator", "operator-1")
    assert (options.health_port, options.metrics_port, options.bind_address) == (8081, 8080, None)
    assert (options.workers, options.resync_seconds, options.log_format) == (4, 600, "json")


def test_all_of_it() -> None:
    options = parse(
        [
            *("--namespace", "a", "--namespace", "b", "--preprocess-image", "r/p:1", "--trainer-image", "r/t:1"),
            *("--image-pull-policy", "Never", "--image-pull-secret", "one", "--image-pull-secret", "two"),
            *("--lease-namespace", "b", "--lease-name", "mine", "--health-port", "0", "--metrics-port", "0"),
            *("--bind-address", "127.0.0.1", "--workers", "2", "--resync-seconds", "5", "--unschedulable-seconds", "60"),
            *("--log-format", "text", "--log-level", "debug"),
        ],
        {},
    )
    assert options.namespaces == ("a", "b")
    assert options.settings.images == Images("r/p:1", "r/t:1", "Never", ("one", "two"))
    assert options.settings.unschedulable_seconds == 60
    assert (options.lease_namespace, options.lease_name) == ("b", "mine")


def test_the_lease_is_in_the_first_namespace_served() -> None:
    assert parse(["--namespace", "a", "--namespace", "b"], {"POD_NAMESPACE": "system"}).lease_namespace == "a"


def test_outside_of_a_pod_every_process_is_another() -> None:
    arguments = ["--namespace", "a"]
    assert parse(arguments, {}).identity != parse(arguments, {}).identity


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--lease-namespace"),
        (["--namespace", "Team"], "--namespace 'Team'"),
        (["--namespace", "a*"], "--namespace 'a*'"),
        (["--namespace", "a", "--lease-namespace", "c"], "--lease-namespace c"),
        (["--namespace", "a", "--workers", "0"], "--workers 0"),
        (["--namespace", "a", "--resync-seconds", "-1"], "--resync-seconds -1"),
        (["--namespace", "a", "--resync-seconds", "nan"], "--resync-seconds nan"),
        (["--namespace", "a", "--health-port", "70000"], "--health-port 70000"),
    ],
)
def test_what_cannot_be_is_refused_by_name(arguments: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said.replace("*", r"\*")):
        parse(arguments, {})


@pytest.mark.parametrize("arguments", [["--namespaces", "a"], ["--image-pull-policy", "Sometimes"], ["--workers", "many"]])
def test_unknown_flags_and_values_end_the_process(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse(arguments, {"POD_NAMESPACE": "system"})
    assert end.value.code == 2
    assert arguments[0] in capsys.readouterr().err
