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
from pretrain_stage.finetune import Finetune
from pretrain_trainer.config.predict import Predict
from pretrain_trainer.config.sections import TrainingResources
from torchx import specs

from pretrain_operator.api import PretrainJob
from pretrain_operator.quantity import cores, mebibytes

Kind = Literal["indexed", "training"]

TRAINING = "train"
"""Name of the stage that trains the model from text. Fine-tuning is another: a stage for each entry of spec.finetune."""
EXAMPLES, FINETUNE, EVALUATE, EXPORT, PREDICT, REPORT = "examples", "finetune", "evaluate", "export", "predict", "report"
"""What stages do that belong to an entry of spec.finetune or spec.predict; they are called <what>-<entry>. The job's own model
is evaluated and exported too, and reported on."""

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
    processes: int = 0
    """Processes that the launcher of each replica starts; 0 for a program that is one process and has nothing to save."""

    @property
    def role(self) -> specs.Role:
        return self.app.roles[0]

    @property
    def tasks(self) -> int:
        return int(self.role.num_replicas)


def stages(job: PretrainJob, site: Site) -> list[Stage]:
    """The stages of a job, in the order in which they run. Mistakes in examples come before hours of training."""
    corpus, training = job.spec.corpus, job.spec.training
    return [
        _preprocess(job, site, "preflight", tasks=1),
        *(_preprocess(job, site, EXAMPLES, tasks=1, entry=task.name) for task in job.spec.finetune),
        _preprocess(job, site, "clean", tasks=corpus.tasks),
        *(_preprocess(job, site, name, tasks) for name, tasks in _deduplication(corpus)),
        _preprocess(job, site, "tokenizer", tasks=1),
        _preprocess(job, site, "tokenize", tasks=corpus.tasks),
        _preprocess(job, site, "vocabulary", tasks=1),
        _train(job, site),
        _one_trainer(job, site, EVALUATE, gpus=min(1, training.gpus_per_node)),
        _one_trainer(job, site, EXPORT, gpus=0),
        *(stage for task in job.spec.finetune for stage in _of_task(job, site, task)),
        *(_predict(job, site, one) for one in job.spec.predict),
        _one_trainer(job, site, REPORT, gpus=0),
    ]


def what_and_entry(name: str) -> tuple[str, str | None]:
    """What a stage of this name does, and for which entry of spec.finetune or spec.predict, if for one."""
    what, _, entry = name.partition("-")
    return (what, entry) if entry and what in (EXAMPLES, FINETUNE, EVALUATE, EXPORT, PREDICT) else (name, None)


def after_training(name: str) -> bool:
    """Whether a stage of this name comes after training, which it needs."""
    return what_and_entry(name)[0] in (FINETUNE, EVALUATE, EXPORT, PREDICT, REPORT)


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


def _preprocess(job: PretrainJob, site: Site, what: str, tasks: int, entry: str | None = None) -> Stage:
    resources = job.spec.corpus.resources
    port = 0 if what == "preflight" else site.preprocess_metrics_port  # preflight has no documents to count
    metrics = ["--metrics-port", str(port), "--metrics-address", EVERYWHERE] if port else []
    return _stage(
        site,
        specs.Role(
            name=_name(what, entry),
            image=site.images.preprocess,
            entrypoint=site.python,
            args=[
                *("-m", "pretrain_preprocess", what, "--job", site.job_file, "--index", specs.macros.replica_id),
                *(["--name", entry] if entry else []),
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
            name=TRAINING,
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
        processes=training.processes,
    )


def _of_task(job: PretrainJob, site: Site, task: Finetune) -> Iterator[Stage]:
    """What is done for an entry of spec.finetune once the model is there."""
    yield _finetune(job, site, task)
    yield _one_trainer(job, site, EVALUATE, gpus=min(1, task.gpus), entry=task.name)
    yield _one_trainer(job, site, EXPORT, gpus=0, entry=task.name)


def _finetune(job: PretrainJob, site: Site, task: Finetune) -> Stage:
    """Fine-tuning: one launcher, which starts the processes of the only node. It is no group, so an Indexed Job does."""
    return _stage(
        site,
        specs.Role(
            name=_name(FINETUNE, task.name),
            image=site.images.trainer,
            entrypoint=site.python,
            args=["-m", "pretrain_trainer", "launch", "--job", site.job_file, "--task", task.name],
            env={
                "PET_NNODES": "1",
                "PET_NPROC_PER_NODE": str(task.world_size),
                "PET_NODE_RANK": "0",
                "PRETRAIN_METRICS_PORT": str(site.metrics_port),
            },
            num_replicas=1,
            resource=_trainer_resource(job, task.gpus),
        ),
        parallelism=1,
        resources=job.spec.training.resources,
        processes=task.world_size,
    )


def _predict(job: PretrainJob, site: Site, one: Predict) -> Stage:
    """What a model is asked, in shards. Each has a GPU if the model was trained on some."""
    trained_on = {task.name: task.gpus for task in job.spec.finetune}
    gpus = job.spec.training.gpus_per_node if one.task is None else trained_on[one.task]
    return _stage(
        site,
        specs.Role(
            name=_name(PREDICT, one.name),
            image=site.images.trainer,
            entrypoint=site.python,
            args=[
                *("-m", "pretrain_trainer", PREDICT, "--job", site.job_file, "--name", one.name),
                *("--index", specs.macros.replica_id),
            ],
            num_replicas=one.tasks,
            resource=_trainer_resource(job, min(1, gpus)),
        ),
        parallelism=min(one.tasks, one.parallelism),
        resources=job.spec.training.resources,
    )


def _one_trainer(job: PretrainJob, site: Site, what: str, gpus: int, entry: str | None = None) -> Stage:
    return _stage(
        site,
        specs.Role(
            name=_name(what, entry),
            image=site.images.trainer,
            entrypoint=site.python,
            args=["-m", "pretrain_trainer", what, "--job", site.job_file, *(["--task", entry] if entry else [])],
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
    processes: int = 0,
) -> Stage:
    app = specs.AppDef(name=role.name, roles=[role])
    return Stage(role.name, kind, app, parallelism, resources, site.images, processes)


def _name(what: str, entry: str | None) -> str:
    return what if entry is None else f"{what}-{entry}"
