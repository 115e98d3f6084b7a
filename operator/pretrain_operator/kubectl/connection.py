"""One API server, through the official client: the requests that the commands make, their errors as sentences.

Objects come and go as plain dicts. Paths are built here alone, of names that were checked before (`checked_name`), so that no
text of a user's can lead a request elsewhere.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import urllib3
import yaml
from kubernetes import config
from kubernetes.client import ApiClient, Configuration
from pretrain_stage.errors import EXIT_TEMPORARY, UserError

from pretrain_operator import apply_patch
from pretrain_operator.kubectl.plain import plain
from pretrain_operator.kubectl.refusal import ClusterError, Refusal, explained, read_refusal
from pretrain_operator.resources import NAMESPACES, PODS, PRETRAIN_JOBS, Resource

Body = dict[str, Any]

FIELD_MANAGER = "kubectl-pretrain"
PAGE = 500
"""Objects asked for at once."""
CONNECT_SECONDS = 10.0
READ_SECONDS = 60.0
WATCH_SECONDS = 50
"""After so long the server ends a watch, and it is taken up again: a connection that went silent is noticed by READ_SECONDS."""
RETRY_SECONDS = (1.0, 2.0, 4.0, 8.0)
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
DNS_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")

NETWORK_FAULTS = (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError)


@dataclass(frozen=True)
class Target:
    """Which cluster, as the options --kubeconfig, --context and --namespace say."""

    kubeconfig: Path | None = None
    context: str | None = None
    namespace: str | None = None


@dataclass(frozen=True)
class Change:
    """What a watch has to say. `listed` holds all objects, the others one; `lost` says why nothing is heard at present."""

    kind: Literal["listed", "changed", "deleted", "lost"]
    objects: tuple[Body, ...] = ()
    message: str = ""


def checked_name(value: str, where: str) -> str:
    """A name that a PretrainJob or a namespace can have. Raises UserError that names `where` it was given."""
    if not DNS_LABEL.fullmatch(value):
        raise UserError(
            f"{where}: {plain(value)[:80]!r} can be no name; it has up to 63 lower-case letters, digits and hyphens, and begins "
            "and ends with a letter or digit"
        )
    return value


def connect(target: Target, seconds: float = READ_SECONDS) -> Cluster:
    """The cluster that the options and the kubeconfig name; nothing is asked of it yet.

    seconds: how long an answer may take. Raises ClusterError if there is no such context or no usable kubeconfig.
    """
    if target.namespace is not None:
        checked_name(target.namespace, "--namespace")
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # it would warn of each lost connection; we say it ourselves
    if target.kubeconfig is None and not _default_files() and "KUBERNETES_SERVICE_HOST" in os.environ:
        configuration, namespace = _from_inside()
    else:
        configuration, namespace = _from_kubeconfig(target)
    configuration.retries = False
    configuration.connection_pool_maxsize = 64
    return Cluster(configuration, target.namespace or checked_name(namespace, "kubeconfig: namespace"), seconds)


def contexts(kubeconfig: Path | None) -> list[str]:
    """The names of a kubeconfig's contexts; of the one that kubectl would use, if none is given."""
    files = [kubeconfig] if kubeconfig is not None else _default_files()
    found, _ = config.list_kube_config_contexts(":".join(map(str, files)))  # type: ignore[no-untyped-call]
    return [str(context["name"]) for context in found]


class Cluster:
    """One API server, with the user's rights. Failures raise ClusterError."""

    def __init__(self, configuration: Configuration, namespace: str, seconds: float) -> None:
        self.namespace = namespace
        """The namespace that the user means."""
        self._host = str(configuration.host)
        self._client = ApiClient(configuration)
        self._client.user_agent = f"kubectl-pretrain/{version('pretrain-operator')}"
        self._seconds = seconds
        self._answered = False
        """Whether it has been reached: from then on a watch waits for it to come back."""

    def job(self, name: str, namespace: str) -> Body:
        """A PretrainJob."""
        return self._json(f"read pretrainjob {name}", namespace, "GET", _path(PRETRAIN_JOBS, namespace, name))

    def find_job(self, name: str, namespace: str) -> Body | None:
        """A PretrainJob, or None if there is none of that name."""
        try:
            return self.job(name, namespace)
        except ClusterError as error:
            if error.status == 404 and "there is no pretrainjob" in str(error):
                return None
            raise

    def jobs(self, namespace: str | None, selector: str | None) -> list[Body]:
        """PretrainJobs of a namespace, or of all, that have the labels."""
        return self._list("list pretrainjobs", namespace, _path(PRETRAIN_JOBS, namespace), selector)[0]

    def pods(self, namespace: str, selector: str) -> list[Body]:
        """Pods of a namespace that have the labels."""
        return self._list("list pods", namespace, _path(PODS, namespace), selector)[0]

    def namespaces(self) -> list[Body]:
        """All namespaces."""
        return self._list("list namespaces", None, NAMESPACES.path(None), None)[0]

    def watch_jobs(self, namespace: str | None, selector: str | None, name: str | None = None) -> Iterator[Change]:
        """What `jobs` finds, and then every change, for ever; with `name`, of that job alone."""
        field = None if name is None else f"metadata.name={name}"
        return self._watch("watch pretrainjobs", namespace, _path(PRETRAIN_JOBS, namespace), selector, field)

    def watch_pods(self, namespace: str, selector: str) -> Iterator[Change]:
        """What `pods` finds, and then every change, for ever."""
        return self._watch("watch pods", namespace, _path(PODS, namespace), selector, None)

    def apply_job(self, job: Body, *, dry_run: bool, force: bool) -> Body | Refusal:
        """Server-side-applies a PretrainJob whose name and namespace were checked; returns it as it is now, or why not."""
        metadata = job["metadata"]
        query = [("fieldManager", FIELD_MANAGER), ("fieldValidation", "Strict"), ("force", "true" if force else "false")]
        return self._send(
            metadata["namespace"],
            _path(PRETRAIN_JOBS, metadata["namespace"], metadata["name"]),
            [*query, *([("dryRun", "All")] if dry_run else [])],
            apply_patch.CONTENT_TYPE,
            apply_patch.as_yaml(job),
        )

    def change_job(self, name: str, namespace: str, change: Body) -> Body | Refusal:
        """Merges `change` into a PretrainJob; returns it as it is now, or why not."""
        query = [("fieldManager", FIELD_MANAGER), ("fieldValidation", "Strict")]
        return self._send(namespace, _path(PRETRAIN_JOBS, namespace, name), query, "application/merge-patch+json", change)

    def log(self, pod: str, namespace: str, container: str, options: Sequence[tuple[str, str]]) -> Iterator[bytes]:
        """What a container has printed, in pieces as they come. Raises ClusterError, NETWORK_FAULTS if the connection breaks."""
        query = [("container", container), ("timestamps", "true"), *options]
        response = self._request(
            "GET", _path(PODS, namespace, pod, "log"), query, action="read the log", namespace=namespace
        )
        try:
            if response.status != 200:
                raise explained(read_refusal(response.status, response.read()), f"read the log of pod {pod}", namespace)
            yield from response.stream(65_536, decode_content=False)
        finally:
            response.close()

    def _list(
        self, action: str, namespace: str | None, path: str, selector: str | None, field: str | None = None
    ) -> tuple[list[Body], str]:
        """All objects, page by page, and the version at which a watch goes on from them."""
        chosen = _selectors(selector, field)
        found: list[Body] = []
        token = ""
        while True:
            query = [*chosen, ("limit", str(PAGE)), *([("continue", token)] if token else [])]
            page = self._json(action, namespace, "GET", path, query)
            found += page.get("items") or []
            token = str(page["metadata"].get("continue") or "")
            if not token:
                return found, str(page["metadata"]["resourceVersion"])

    def _watch(
        self, action: str, namespace: str | None, path: str, selector: str | None, field: str | None
    ) -> Iterator[Change]:
        """A list, and the changes after it; a list again whenever the server has forgotten where we were.

        What cannot mend itself is raised, and that the cluster does not answer, unless it has before.
        """
        since = ""
        failures = 0
        while True:
            try:
                if not since:
                    objects, since = self._list(action, namespace, path, selector, field)
                    yield Change("listed", tuple(objects))
                for event in self._events(action, namespace, path, selector, field, since):
                    failures = 0
                    if event["type"] == "ERROR":
                        since = ""
                        break
                    since = str(event["object"]["metadata"]["resourceVersion"])
                    if event["type"] != "BOOKMARK":
                        yield Change("deleted" if event["type"] == "DELETED" else "changed", (event["object"],))
            except ClusterError as error:
                if not self._answered or error.exit_code != EXIT_TEMPORARY:
                    raise
                if error.status == 410:
                    since = ""
                yield Change("lost", message=str(error))
                time.sleep(RETRY_SECONDS[min(failures, len(RETRY_SECONDS) - 1)])
                failures += 1

    def _events(
        self, action: str, namespace: str | None, path: str, selector: str | None, field: str | None, since: str
    ) -> Iterator[Body]:
        """The events of one watch request, until the server ends it."""
        query = [("watch", "true"), ("resourceVersion", since), ("allowWatchBookmarks", "true")]
        query += [("timeoutSeconds", str(WATCH_SECONDS))]
        query += _selectors(selector, field)
        response = self._request("GET", path, query, action=action, namespace=namespace)
        try:
            if response.status != 200:
                raise explained(read_refusal(response.status, response.read()), action, namespace)
            rest = b""
            for piece in response.stream(65_536, decode_content=False):
                *whole, rest = (rest + piece).split(b"\n")
                for line in whole:
                    yield json.loads(line)
        except NETWORK_FAULTS as error:
            raise self._unreachable(error) from None
        finally:
            response.close()

    def _json(
        self, action: str, namespace: str | None, method: str, path: str, query: Sequence[tuple[str, str]] = ()
    ) -> Body:
        response = self._request(method, path, query, action=action, namespace=namespace)
        data = self._read(response)
        if response.status != 200:
            raise explained(read_refusal(response.status, data), action, namespace)
        return _object(data, self._host)

    def _send(
        self, namespace: str, path: str, query: Sequence[tuple[str, str]], content_type: str, body: Body | str
    ) -> Body | Refusal:
        response = self._request("PATCH", path, query, body, content_type, action="write pretrainjobs", namespace=namespace)
        data = self._read(response)
        return _object(data, self._host) if response.status in (200, 201) else read_refusal(response.status, data)

    def _read(self, response: Any) -> bytes:
        try:
            return bytes(response.read())
        except NETWORK_FAULTS as error:
            raise self._unreachable(error) from None

    def _request(
        self,
        method: str,
        path: str,
        query: Sequence[tuple[str, str]],
        body: Body | str | None = None,
        content_type: str | None = None,
        *,
        action: str,
        namespace: str | None,
    ) -> Any:
        """The answer, its body not yet read."""
        headers = {"Accept": "application/json, */*"} | ({"Content-Type": content_type} if content_type else {})
        try:
            request = self._client.param_serialize(
                method, path, query_params=list(query), header_params=headers, body=body, auth_settings=["BearerToken"]
            )
            timeouts = (min(CONNECT_SECONDS, self._seconds), self._seconds)
            response = self._client.call_api(*request, _request_timeout=timeouts).response
        except NETWORK_FAULTS as error:
            raise self._unreachable(error) from None
        self._answered = self._answered or response.status < 500
        return response

    def _unreachable(self, error: BaseException) -> ClusterError:
        why = plain(str(error)).rpartition(": ")[2].strip("()'\" ")[:200] or type(error).__name__
        if "certificate" in str(error).lower():
            return ClusterError(
                f"the certificate of {self._host} is not that of the kubeconfig ({why}); correct the context's cluster", 1
            )
        return ClusterError(
            f"no answer from the cluster at {self._host} ({why}); check that it runs and that this machine reaches it, or choose "
            "another with --context",
            EXIT_TEMPORARY,
        )


def _selectors(label: str | None, field: str | None) -> list[tuple[str, str]]:
    given = (("labelSelector", label), ("fieldSelector", field))
    return [(name, value) for name, value in given if value is not None]


def _path(resource: Resource, namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
    """Path of a collection or object. What stands in it was checked, or came from the API server."""
    assert namespace is None or DNS_LABEL.fullmatch(namespace), namespace
    assert name is None or DNS_SUBDOMAIN.fullmatch(name), name
    return resource.path(namespace, name, subresource)


def _object(data: bytes, host: str) -> Body:
    try:
        answer = json.loads(data)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise ClusterError(f"{host} does not answer as a Kubernetes API server does; correct the context's cluster")
    return answer


def _from_inside() -> tuple[Configuration, str]:
    """The cluster that this process runs in, by its service account."""
    configuration = Configuration()
    try:
        config.load_incluster_config(  # type: ignore[no-untyped-call]
            client_configuration=configuration
        )
        return configuration, (SERVICE_ACCOUNT / "namespace").read_text().strip()
    except (config.ConfigException, OSError) as error:
        raise ClusterError(
            f"no kubeconfig, and no service account here ({plain(str(error))}); give --kubeconfig FILE"
        ) from None


def _from_kubeconfig(target: Target) -> tuple[Configuration, str]:
    """The context of a kubeconfig, and its namespace."""
    files = [target.kubeconfig] if target.kubeconfig is not None else _default_files()
    if not files or not any(file.exists() for file in files):
        missing = str(target.kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config")
        where = "--kubeconfig" if target.kubeconfig is not None else "kubeconfig"
        raise ClusterError(
            f"{where}: {missing} does not exist; give --kubeconfig FILE, or set KUBECONFIG to the cluster's file"
        )
    shown = ":".join(map(str, files))
    try:
        contexts, current = config.list_kube_config_contexts(shown)  # type: ignore[no-untyped-call]
        name = target.context or current["name"]
        namespace = _namespace_of(contexts, name)
        configuration = Configuration()
        config.load_kube_config(shown, name, configuration)  # type: ignore[no-untyped-call]
    except _NoContextError:
        names = ", ".join(sorted(str(context["name"]) for context in contexts)) or "none"
        raise ClusterError(f"--context: {plain(str(name))} is not in {shown}; it has: {plain(names)}") from None
    except (config.ConfigException, yaml.YAMLError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        why = plain(str(error)) or type(error).__name__
        raise ClusterError(
            f"kubeconfig: {shown} cannot be used ({why}); correct it, or choose a context with --context"
        ) from None
    return configuration, namespace


class _NoContextError(Exception):
    """The kubeconfig has no context of that name."""


def _namespace_of(contexts: Sequence[Mapping[str, Any]], name: str) -> str:
    for context in contexts:
        if context["name"] == name:
            return str(context["context"].get("namespace") or "default")
    raise _NoContextError


def _default_files() -> list[Path]:
    """The kubeconfig files that kubectl would read, those that exist."""
    given = os.environ.get("KUBECONFIG")
    paths = (
        [Path(part).expanduser() for part in given.split(":") if part] if given else [Path("~/.kube/config").expanduser()]
    )
    return [path for path in paths if path.exists()]
