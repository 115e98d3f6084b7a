"""The flags of the operator's process."""

from __future__ import annotations

import argparse
import re
import socket
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pretrain_stage.errors import UserError

from pretrain_operator.observed import Settings
from pretrain_operator.stages import Images

DNS_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
LEASE_NAME = "pretrain-operator"


@dataclass(frozen=True)
class Options:
    """What the process is started with."""

    namespaces: tuple[str, ...]
    """Empty for all."""
    settings: Settings
    lease_namespace: str
    lease_name: str
    identity: str
    """This replica's name in the Lease and in Events."""
    health_port: int
    metrics_port: int
    bind_address: str | None
    workers: int
    resync_seconds: float
    log_format: str
    log_level: str


def parse(arguments: Sequence[str], environment: Mapping[str, str]) -> Options:
    """The options in a command line. Raises UserError that names the flag; ends the process on --help and unknown flags."""
    given = _parser().parse_args(arguments)
    namespaces = tuple(dict.fromkeys(given.namespace))
    for namespace in namespaces:
        _check_name("--namespace", namespace)
    _check_positive(given)
    defaults = Images()
    images = Images(
        preprocess=given.preprocess_image or defaults.preprocess,
        trainer=given.trainer_image or defaults.trainer,
        pull_policy=given.image_pull_policy,
        pull_secrets=tuple(given.image_pull_secret),
    )
    return Options(
        namespaces=namespaces,
        settings=Settings(images=images, unschedulable_seconds=given.unschedulable_seconds),
        lease_namespace=_lease_namespace(given.lease_namespace, namespaces, environment.get("POD_NAMESPACE")),
        lease_name=given.lease_name,
        # A container that starts again in its pod goes on with the Lease of the one before, which is certainly dead.
        identity=environment.get("POD_NAME") or f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}",
        health_port=given.health_port,
        metrics_port=given.metrics_port,
        bind_address=given.bind_address or None,
        workers=given.workers,
        resync_seconds=given.resync_seconds,
        log_format=given.log_format,
        log_level=given.log_level,
    )


def _lease_namespace(given: str | None, namespaces: tuple[str, ...], pod_namespace: str | None) -> str:
    chosen = given or next(iter(namespaces), None) or pod_namespace
    if chosen is None:
        raise UserError("--lease-namespace: neither it nor --namespace nor POD_NAMESPACE is given; name one of them")
    _check_name("--lease-namespace", chosen)
    if namespaces and chosen not in namespaces:
        raise UserError(
            f"--lease-namespace {chosen}: is not watched, since it is none of --namespace {', '.join(namespaces)}; choose one "
            "of these"
        )
    return chosen


def _check_name(flag: str, name: str) -> None:
    if not re.fullmatch(DNS_LABEL, name):
        raise UserError(f"{flag} {name!r}: not the name of a namespace; give one of at most 63 of a-z, 0-9 and -")


def _check_positive(given: argparse.Namespace) -> None:
    for name in ("workers", "resync_seconds", "unschedulable_seconds"):
        if not getattr(given, name) > 0:
            raise UserError(f"--{name.replace('_', '-')} {getattr(given, name):g}: must be above 0; raise it")
    for name in ("health_port", "metrics_port"):
        if not 0 <= getattr(given, name) <= 65_535:
            raise UserError(f"--{name.replace('_', '-')} {getattr(given, name)}: must be a port, from 0 to 65535")


def _parser() -> argparse.ArgumentParser:
    defaults, settings = Images(), Settings()
    parser = argparse.ArgumentParser(
        prog="python -m pretrain_operator.cluster",
        description="Watches PretrainJobs and makes what they ask for.",
        epilog="Environment: POD_NAME (this replica's name in the Lease), POD_NAMESPACE; outside of a pod KUBECONFIG.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--namespace", metavar="NS", action="append", default=[], help="namespace to serve; repeatable; omit for all")
    add("--preprocess-image", metavar="IMAGE", default=defaults.preprocess, help="image of preprocessing")
    add("--trainer-image", metavar="IMAGE", default=defaults.trainer, help="image of training and what follows")
    add("--image-pull-policy", choices=("IfNotPresent", "Always", "Never"), default=defaults.pull_policy, help="of both")
    add(
        "--image-pull-secret",
        metavar="NAME",
        action="append",
        default=[],
        help="Secret in the job's namespace that the kubelet pulls images with; repeatable",
    )
    add("--lease-namespace", metavar="NS", help="where the Lease is; omit for the first --namespace, else POD_NAMESPACE")
    add("--lease-name", metavar="NAME", default=LEASE_NAME, help="name of the Lease that one replica at a time holds")
    add("--health-port", metavar="PORT", type=int, default=8081, help="port of GET /livez and /readyz; 0 takes a free one")
    add("--metrics-port", metavar="PORT", type=int, default=8080, help="port of GET /metrics; 0 takes a free one")
    add("--bind-address", metavar="IP", default="", help="address of both ports; empty for all")
    add("--workers", metavar="N", type=int, default=4, help="jobs that are worked on at a time")
    add("--resync-seconds", metavar="S", type=float, default=600.0, help="how often everything is listed again")
    add(
        "--unschedulable-seconds",
        metavar="S",
        type=float,
        default=settings.unschedulable_seconds,
        help="how long a training pod may wait to start before the others of its group are let go",
    )
    add("--log-format", choices=("json", "text"), default="json", help="form of the log on standard error")
    add("--log-level", choices=("debug", "info", "warning", "error"), default="info", help="least level that is logged")
    return parser
