"""The storage of a job, reached from here with the user's own credentials.

The cluster's Secret is not read: whoever may list a job need not be allowed to read its storage.
"""

from __future__ import annotations

import os
import socket
from typing import Any
from urllib.parse import urlsplit

from pretrain_stage import config
from pretrain_stage.errors import StorageError
from pretrain_stage.section import parse
from pretrain_stage.storage import Storage, open_storage

from pretrain_operator.kubectl.connection import Body
from pretrain_operator.kubectl.refusal import ClusterError

CONNECT_SECONDS = 5.0
PORTS = {"http": 80, "https": 443}


def storage_of(job: Body, namespace: str, endpoint: str | None) -> Storage:
    """The storage of a job in a cluster, as it can be reached from here. Raises StorageError if it cannot."""
    uri = str(job["spec"]["storage"]["uri"])
    if not uri.startswith("s3://"):
        raise ClusterError(f"spec.storage.uri: {uri} is a folder of some pod; only s3:// can be read from here")
    return reachable_storage(job["spec"]["storage"], namespace, endpoint)


def reachable_storage(storage: dict[str, Any], namespace: str, endpoint: str | None) -> Storage:
    """What `spec.storage` of a job in that namespace says is in S3. Raises StorageError if it cannot be reached from here."""
    section = parse(config.Storage, storage, "spec.storage")
    if endpoint is not None:
        section = parse(config.Storage, storage | {"endpointURL": endpoint}, "--endpoint")
    if section.endpoint_url is not None:
        _check_credentials(section, namespace)
        _check_endpoint(section.endpoint_url, namespace, given=endpoint is not None)
    return open_storage(section)


def _check_credentials(section: config.Storage, namespace: str) -> None:
    """Without credentials a service that is not AWS would be asked for nothing in vain, for a minute."""
    missing = [name for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY") if not os.environ.get(name)]
    if not missing:
        return
    secret = section.credentials_secret_ref
    take = (
        ""
        if secret is None
        else (
            f"; the job's are in Secret {secret.name}, and who may read it can take them from there: "
            + "; ".join(
                f"export {name}=$(kubectl -n {namespace} get secret {secret.name} -o jsonpath='{{.data.{name}}}' | base64 -d)"
                for name in missing
            )
        )
    )
    raise StorageError(f"storage: {' and '.join(missing)} not set in the environment, needed to read {section.uri}{take}")


def _check_endpoint(url: str, namespace: str, *, given: bool) -> None:
    """Raises StorageError, with the way in, unless something answers at the address."""
    field = "--endpoint" if given else "spec.storage.endpointURL"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or PORTS[parts.scheme]
    except ValueError:
        raise StorageError(f"{field}: {url} is no address; correct it") from None
    try:
        socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        why = error.strerror or str(error)
        raise StorageError(
            f"{field}: {url} does not answer from here ({why}); {_way_in(host, port, parts.scheme, namespace)}",
            temporary=True,
        ) from None


def _way_in(host: str, port: int, scheme: str, own: str) -> str:
    """How to reach an address that may be one inside the cluster. own: namespace of the job, where a bare name is looked for."""
    labels = host.removesuffix(".cluster.local").removesuffix(".svc").split(".")
    inside = host.endswith((".svc", ".svc.cluster.local")) or "." not in host
    if not inside or host == "localhost":
        return "check that it runs and that this machine reaches it, or give another address with --endpoint"
    namespace = f"-n {labels[1]} " if len(labels) > 1 else f"-n {own} "
    return (
        f"it is an address inside the cluster: run `kubectl {namespace}port-forward service/{labels[0]} {port}:{port}` beside this, "
        f"and add --endpoint {scheme}://127.0.0.1:{port}"
    )
