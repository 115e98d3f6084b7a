"""The storage of a job, reached from outside of its cluster: a real S3 server, and addresses that nothing answers at."""

from __future__ import annotations

from typing import Any

import pytest
from pretrain_operator.kubectl.stored import reachable_storage
from pretrain_stage.errors import StorageError

from tests.seaweedfs import SeaweedFS, free_ports


def listed(storage: dict[str, Any], endpoint: str | None = None) -> list[str]:
    return reachable_storage(storage, "team", endpoint).folders("checkpoints")


def test_wrong_credentials(s3_uri: str, seaweedfs: SeaweedFS, monkeypatch: pytest.MonkeyPatch) -> None:
    section = {"uri": s3_uri, "endpointURL": seaweedfs.endpoint}
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StorageError, match="check the credentials and their rights") as refused:
        listed(section)
    assert refused.value.exit_code == 65


def test_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    section = {"uri": "s3://models/demo", "endpointURL": "http://s3:8333", "credentialsSecretRef": {"name": "keys"}}
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    with pytest.raises(StorageError, match="AWS_ACCESS_KEY_ID not set in the environment") as missing:
        listed(section)
    assert "export AWS_ACCESS_KEY_ID=$(kubectl -n team get secret keys -o jsonpath=" in str(missing.value)
    assert "export AWS_SECRET_ACCESS_KEY" not in str(missing.value)


@pytest.mark.parametrize(
    ("endpoint", "way_in"),
    [
        ("http://s3.storage.svc.invalid.cluster.local:8333", "check that it runs"),
        ("http://s3.storage.svc:8333", "kubectl -n storage port-forward service/s3 8333:8333"),
        ("https://s3.storage.svc.cluster.local", "kubectl -n storage port-forward service/s3 443:443` beside this, and add --endpoint https://127.0.0.1:443"),
        ("http://s3-that-there-is-not:80", "kubectl -n team port-forward service/s3-that-there-is-not 80:80"),
    ],
)  # fmt: skip
def test_an_address_inside_the_cluster(endpoint: str, way_in: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    with pytest.raises(StorageError) as unreachable:
        listed({"uri": "s3://models/demo", "endpointURL": endpoint})
    assert way_in in str(unreachable.value)
    assert unreachable.value.exit_code == 75


def test_a_given_endpoint_counts(s3_uri: str, seaweedfs: SeaweedFS) -> None:
    section = {"uri": s3_uri, "endpointURL": "http://s3.storage.svc:8333"}
    assert listed(section, seaweedfs.endpoint) == []
    with pytest.raises(StorageError, match=r"--endpoint: http://127\.0\.0\.1:\d+ does not answer from here"):
        listed(section, f"http://127.0.0.1:{free_ports(1)[0]}")
