"""A job as ordered stages, each a torchx AppDef: the whole meaning of a PretrainJob, the same on both engines.

Pure: the same job and site give the same stages. Kubernetes turns each AppDef into an Indexed Job or a PyTorchJob, the
local engine hands it to torchx's local_cwd scheduler; the command line in it is the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Literal

from pretrain_preprocess.config import Corpus, Resources
from pretrain_trainer.config.sections import TrainingResources
from torchx import specs

from pretrain_operator.api import PretrainJob
from pretrain_operator.quantity import cores, mebibytes

Kind = Literal["indexed", "training"]

TRAINING = "train"
AFTER_TRAINING = ("evaluate", "export", "report")
"""Names of the stages that are not preprocessing."""

FURTHEST_STEP_VARIABLE = "PRETRAIN_FURTHEST_STEP"
"""Tells training up to which step it repeats what an earlier attempt had done."""
LEDGER_VARIABLE = "PRETRAIN_LEDGER"
"""Tells the stage `report` where the job's wall time went: a JSON object, seconds by state."""


VERSION = version("pretrain-operator")

METRICS = "metrics"
"""Name of the port where a pod serves Prometheus metrics."""
EVERYWHERE = "0.0.0.0"  # noqa: S104 - Prometheus scrapes the pod


@dataclass(frozen=True)
class Images:
    """The container images that stages run in, and how the kubelet gets them."""

    preprocess: str = f"pretrain-preprocess:{VERSION}"
    trainer: str = f"pretrain-trainer:{VERSION}"
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    pull_secrets: tuple[str, ...] = ()
    """Names of Secrets in the job's namespace that the kubelet pulls images with."""


@dataclass(frozen=True)
class Site:
    """Where stages run: what differs between a cluster and one machine."""

    job_file: str
    """Path of the resolved job file, as a stage program sees it."""
    images: Images = field(default_factory=Images)
    python: str = "python"
    master_address: str = "127.0.0.1"
    """Host of training's rank 0."""
    master_port: int = 29500
    metrics_port: int = 9400
    """Port of the Prometheus metrics of training's first process; 0 takes a free one."""
    preprocess_metrics_port: int = 0
    """Port of the same of each preprocessing task; 0 for none, where tasks share one machine."""


@dataclass(frozen=True)
class Stage:
    """One step of a job. It may start when the stage before it in the list has finished: each is a barrier."""

    name: str
    kind: Kind
    app: specs.AppDef
    """One role; its replicas are the stage's tasks (indexed) or nodes (training)."""
    parallelism: int
    """Replicas that may run at the same time; for training all of them must."""
    resources: Resources | TrainingResources = field(default_factory=Resources)
    """What each replica asks for, as the user wrote it; the AppDef has it in whole cores and MiB."""
    images: Images = field(default_factory=Images)

    @property
    def role(self) -> specs.Role:
        return self.app.roles[0]

    @property
    def tasks(self) -> int:
        return int(self.role.num_replicas)


def stages(job: PretrainJob, site: Site) -> list[Stage]:
    """The stages of a job, in the order in which they run."""
    corpus, training = job.spec.corpus, job.spec.training
    return [
        _preprocess(job, site, "preflight", tasks=1),
        _preprocess(job, site, "clean", tasks=corpus.tasks),
        *(_preprocess(job, site, name, tasks) for name, tasks in _deduplication(corpus)),
        _preprocess(job, site, "tokenizer", tasks=1),
        _preprocess(job, site, "tokenize", tasks=corpus.tasks),
        _train(job, site),
        _one_trainer(job, site, "evaluate", gpus=min(1, training.gpus_per_node)),
        _one_trainer(job, site, "export", gpus=0),
        _one_trainer(job, site, "report", gpus=0),
    ]


def with_environment(stage: Stage, more: Mapping[str, str]) -> Stage:
    """The stage with more environment variables."""
    role = replace(stage.role, env=stage.role.env | dict(more))
    return replace(stage, app=replace(stage.app, roles=[role])) if more else stage


def _deduplication(corpus: Corpus) -> Iterator[tuple[str, int]]:
    """The stages of the chosen method with their tasks; the middle ones see the whole corpus."""
    match corpus.deduplicate.method:
        case "none":
            return
        case "exact":
            yield "exact-signatures", corpus.tasks
            yield "exact-find", 1
            yield "exact-filter", corpus.tasks
        case "minhash":
            yield "minhash-signatures", corpus.tasks
            yield "minhash-buckets", corpus.deduplicate.minhash.buckets
            yield "minhash-cluster", 1
            yield "minhash-filter", corpus.tasks


def _preprocess(job: PretrainJob, site: Site, name: str, tasks: int) -> Stage:
    resources = job.spec.corpus.resources
    port = 0 if name == "preflight" else site.preprocess_metrics_port  # preflight has no documents to count
    metrics = ["--metrics-port", str(port), "--metrics-address", EVERYWHERE] if port else []
    return _stage(
        site,
        specs.Role(
            name=name,
            image=site.images.preprocess,
            entrypoint=site.python,
            args=[
                *("-m", "pretrain_preprocess", name, "--job", site.job_file, "--index", specs.macros.replica_id),
                *metrics,
            ],
            port_map={METRICS: port} if port else {},
            num_replicas=tasks,
            resource=specs.Resource(cpu=math.ceil(cores(resources.cpu)), gpu=0, memMB=mebibytes(resources.memory)),
        ),
        parallelism=min(tasks, job.spec.corpus.parallelism),
        resources=resources,
    )


def _train(job: PretrainJob, site: Site) -> Stage:
    """The training group: one launcher a node, which starts the node's processes (torchrun, static rendezvous)."""
    training = job.spec.training
    return _stage(
        site,
        specs.Role(
            name="train",
            image=site.images.trainer,
            entrypoint=site.python,
            args=["-m", "pretrain_trainer", "launch", "--job", site.job_file],
            env={
                "PET_NNODES": str(training.nodes),
                "PET_NPROC_PER_NODE": str(training.processes),
                "PET_NODE_RANK": specs.macros.replica_id,
                "PET_MASTER_ADDR": site.master_address,
                "PET_MASTER_PORT": str(site.master_port),
                "PRETRAIN_METRICS_PORT": str(site.metrics_port),
            },
            num_replicas=training.nodes,
            resource=_trainer_resource(job, training.gpus_per_node),
        ),
        parallelism=training.nodes,
        resources=training.resources,
        kind="training",
    )


def _one_trainer(job: PretrainJob, site: Site, name: str, gpus: int) -> Stage:
    return _stage(
        site,
        specs.Role(
            name=name,
            image=site.images.trainer,
            entrypoint=site.python,
            args=["-m", "pretrain_trainer", name, "--job", site.job_file],
            num_replicas=1,
            resource=_trainer_resource(job, gpus),
        ),
        parallelism=1,
        resources=job.spec.training.resources,
    )


def _trainer_resource(job: PretrainJob, gpus: int) -> specs.Resource:
    resources = job.spec.training.resources
    return specs.Resource(cpu=math.ceil(cores(resources.cpu)), gpu=gpus, memMB=mebibytes(resources.memory))


def _stage(
    site: Site,
    role: specs.Role,
    parallelism: int,
    resources: Resources | TrainingResources,
    kind: Kind = "indexed",
) -> Stage:
    return Stage(role.name, kind, specs.AppDef(name=role.name, roles=[role]), parallelism, resources, site.images)
