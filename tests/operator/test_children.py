"""The Kubernetes objects of a job: golden files, what each kind must have, and what no input can break."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml
from annotated_types import MaxLen
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pretrain_operator.api import PretrainJob, parse_job
from pretrain_operator.backends import BACKENDS
from pretrain_operator.children import child, children, cluster_site
from pretrain_operator.config_map import FOR_ENGINES, config_map
from pretrain_operator.render import as_json, as_yaml, render
from pretrain_operator.stages import Images, Stage, after_training, stages, what_and_entry
from pretrain_operator.status import PretrainJobStatus
from pretrain_stage.errors import UserError

from tests.operator.golden import FOLDER, IMAGES, golden_jobs, golden_text
from tests.operator.jobs import MUTABLE, job, prediction, task
from tests.operator.restricted import breaches

UID = "0b8c7a5e-6f1d-4b7e-9a53-2f6f6d9c1e11"


@pytest.mark.parametrize("name", golden_jobs())
def test_the_golden_objects(name: str) -> None:
    file = FOLDER / f"{name}.yaml"
    assert file.read_text(encoding="utf-8") == golden_text(golden_jobs()[name]), (
        f"the objects of {name} are not those of {file.name}; look at the difference, and if it is meant: "
        "python -m tests.operator.golden"
    )


def test_there_is_a_golden_file_for_each_job_and_no_other() -> None:
    assert {file.stem for file in FOLDER.glob("*.yaml")} == set(golden_jobs())


# The ConfigMap


def test_every_content_has_a_config_map_of_its_own() -> None:
    assert _name(job({"training.seed": 1})) != _name(job({"training.seed": 2}))
    assert _name(job()) == _name(job())


@pytest.mark.parametrize("path", FOR_ENGINES)
def test_what_engines_alone_read_makes_no_new_config_map(path: str) -> None:
    values = {**MUTABLE, "managedBy": "someone"}
    assert _name(job({path: values[path]})) == _name(job())


def test_the_config_map_is_the_job_file_and_a_job_again() -> None:
    made = config_map(_parsed(job({"suspend": True})))
    assert made["immutable"] is True
    again = parse_job(json.loads(made["data"]["job.json"]), "job.json")
    assert again.job_file() == _parsed(job()).job_file()


def test_the_job_file_says_whose_it_is() -> None:
    in_a_cluster = _parsed({**job(), "metadata": {**job()["metadata"], "namespace": "team", "uid": "0c1d"}})
    metadata = json.loads(config_map(in_a_cluster)["data"]["job.json"])["metadata"]
    assert (metadata["namespace"], metadata["uid"]) == ("team", "0c1d"), "which is on every line of the stages' logs"


def test_a_job_too_large_for_a_config_map_is_refused() -> None:
    with pytest.raises(UserError, match=r"a ConfigMap holds 1048576; shorten evaluation\.prompts"):
        config_map(_parsed(job({"evaluation.prompts": ["多" * 4096] * 100})))


# Indexed Jobs


def test_each_stage_before_and_after_training_is_an_indexed_job() -> None:
    parsed = _parsed(job())
    made = {item["metadata"]["labels"]["pretrain.dev/stage"]: item for item in children(parsed, IMAGES)[1:]}
    assert [name for name, item in made.items() if item["kind"] != "Job"] == ["train"]
    clean = made["clean"]["spec"]
    assert (clean["completionMode"], clean["completions"], clean["parallelism"]) == ("Indexed", 4, 1)
    assert clean["podReplacementPolicy"] == "Failed"
    (container,) = clean["template"]["spec"]["containers"]
    assert container["command"] == [
        "python", "-m", "pretrain_preprocess", "clean", "--job", "/etc/pretrain/job.json",
        "--index", "$(JOB_COMPLETION_INDEX)", "--metrics-port", "9400", "--metrics-address", "0.0.0.0",
    ]  # fmt: skip
    served = {
        name: _container(item).get("ports")
        for name, item in made.items()
        if "pretrain_preprocess" in _container(item)["command"]
    }
    assert served.pop("preflight") is None, "it has no documents"
    assert all(ports == [{"name": "metrics", "containerPort": 9400}] for ports in served.values())


def test_a_users_mistake_ends_the_job_and_a_drain_uses_up_nothing() -> None:
    """The first rule that fits counts: bad input is bad input on a node that is being drained, too."""
    rules = _child(_parsed(job()), "clean")["spec"]["podFailurePolicy"]["rules"]
    assert rules == [
        {"action": "FailJob", "onExitCodes": {"containerName": "stage", "operator": "In", "values": [65]}},
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "Ignore", "onExitCodes": {"containerName": "stage", "operator": "In", "values": [143]}},
    ]


def test_quantities_reach_pods_as_the_user_wrote_them() -> None:
    parsed = _parsed(job({"corpus.resources": {"cpu": "250m", "memory": "1.5Gi"}, "training.gpusPerNode": 4}))
    assert _container(_child(parsed, "clean"))["resources"] == {
        "requests": {"cpu": "250m", "memory": "1.5Gi"},
        "limits": {"memory": "1.5Gi"},
    }
    assert _container(_child(parsed, "train"))["resources"] == {
        "requests": {"cpu": "1", "memory": "8Gi", "nvidia.com/gpu": 4},
        "limits": {"memory": "8Gi", "nvidia.com/gpu": 4},
    }
    assert _container(_child(parsed, "evaluate"))["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert "nvidia.com/gpu" not in _container(_child(parsed, "export"))["resources"]["limits"]


# What comes after the model


def test_a_task_is_looked_at_before_training_and_learnt_after_it() -> None:
    parsed = _parsed(job({"corpus.deduplicate": {"method": "none"}, "finetune": [task(), task({"name": "names"})]}))
    names = [stage.name for stage in stages(parsed, cluster_site(parsed, IMAGES))]
    assert names == [
        "preflight", "examples-mood", "examples-names", "clean", "tokenizer", "tokenize", "vocabulary", "train", "evaluate",
        "export", "finetune-mood", "evaluate-mood", "export-mood", "finetune-names", "evaluate-names", "export-names", "report",
    ]  # fmt: skip
    before = [name for name in names if not after_training(name)]
    assert names[: len(before)] == [*before[:-1], "train"], "the order in which they stand"
    commands = {name: " ".join(_container(_child(parsed, name))["command"][2:]) for name in names}
    where = "--job /etc/pretrain/job.json"
    assert commands["examples-mood"].startswith(
        f"pretrain_preprocess examples {where} --index $(JOB_COMPLETION_INDEX) --name mood"
    )
    assert commands["finetune-mood"] == f"pretrain_trainer launch {where} --task mood"
    assert commands["evaluate"] == f"pretrain_trainer evaluate {where}"
    assert commands["evaluate-mood"] == f"pretrain_trainer evaluate {where} --task mood"
    assert commands["export-names"] == f"pretrain_trainer export {where} --task names"


def test_names_of_stages_tell_what_they_do_and_for_which_entry() -> None:
    assert [what_and_entry(name) for name in ("finetune-a-b", "predict-export", "evaluate", "exact-find", "train")] == [
        ("finetune", "a-b"), ("predict", "export"), ("evaluate", None), ("exact-find", None), ("train", None),
    ]  # fmt: skip


def test_fine_tuning_is_one_pod_that_starts_its_processes_and_gets_time_to_save() -> None:
    parsed = _parsed(job({"finetune": [task({"gpus": 4})], "training.resources": {"cpu": "3", "memory": "16Gi"}}))
    made = _child(parsed, "finetune-mood")
    assert (made["kind"], made["spec"]["completions"], made["spec"]["backoffLimitPerIndex"]) == ("Job", 1, 3)
    variables = _variables(made)
    assert (variables["PET_NNODES"], variables["PET_NPROC_PER_NODE"], variables["PET_NODE_RANK"]) == ("1", "4", "0")
    assert (variables["PRETRAIN_METRICS_PORT"], variables["PRETRAIN_METRICS_ADDRESS"]) == ("9400", "0.0.0.0")
    assert "PET_MASTER_ADDR" not in variables, "there is no other node to find it"
    pod = _template(made)[0]["spec"]
    assert pod["terminationGracePeriodSeconds"] == 300
    assert int(variables["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"]) == 295
    assert {"name": "shm", "mountPath": "/dev/shm"} in _container(made)["volumeMounts"]
    assert "ports" not in _container(made), "alerts and dashboards are about training from text"
    assert _container(made)["resources"] == {
        "requests": {"cpu": "3", "memory": "16Gi", "nvidia.com/gpu": 4},
        "limits": {"memory": "16Gi", "nvidia.com/gpu": 4},
    }
    assert not breaches(pod)
    assert _template(_child(parsed, "export-mood"))[0]["spec"]["terminationGracePeriodSeconds"] == 30


@pytest.mark.parametrize(
    ("trained_on", "task_on", "asked", "gpus"), [(8, 0, None, 1), (8, 0, "mood", 0), (0, 2, "mood", 1), (0, 2, None, 0)]
)
def test_a_prediction_has_a_gpu_if_the_model_was_trained_on_some(
    trained_on: int, task_on: int, asked: str | None, gpus: int
) -> None:
    entry = prediction({"tasks": 5, "parallelism": 2} | ({"task": asked} if asked else {}))
    parsed = _parsed(job({"training.gpusPerNode": trained_on, "finetune": [task({"gpus": task_on})], "predict": [entry]}))
    made = _child(parsed, "predict-new")
    assert (made["spec"]["completions"], made["spec"]["parallelism"]) == (5, 2)
    assert _container(made)["resources"]["limits"].get("nvidia.com/gpu", 0) == gpus
    assert _container(made)["command"][3:] == [
        "predict", "--job", "/etc/pretrain/job.json", "--name", "new", "--index", "$(JOB_COMPLETION_INDEX)",
    ]  # fmt: skip


def test_as_many_stages_as_a_job_can_have_fit_in_its_status() -> None:
    many = {
        "finetune": [task({"name": f"{n:020}"}) for n in range(20)],
        "predict": [prediction({"name": f"{n:020}"}) for n in range(20)],
    }
    parsed = _parsed(job(many))
    names = [stage.name for stage in stages(parsed, cluster_site(parsed, IMAGES))]
    bound = next(one.max_length for one in PretrainJobStatus.model_fields["stages"].metadata if isinstance(one, MaxLen))
    assert len(names) == len(set(names)) == 113 <= bound
    objects = {item["metadata"]["name"] for item in children(parsed, IMAGES)}
    assert len(objects) == 114


# Training


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_makes_a_group_of_equal_nodes(backend: str) -> None:
    """What the operator relies on, whichever resource runs training."""
    parsed = _parsed(job({"training.backend": backend, "training.nodes": 4, "scheduling.topologyKey": "rack"}))
    site = cluster_site(parsed, IMAGES)
    (stage,) = (stage for stage in stages(parsed, site) if stage.kind == "training")
    first, second = (BACKENDS[backend].training_group(parsed, stage, attempt) for attempt in (1, 2))
    assert first["metadata"]["name"] == second["metadata"]["name"], "a restart takes the same name"
    assert len(f"{first['metadata']['name']}-worker-9999") <= 63
    for attempt, group in ((1, first), (2, second)):
        template, replicas = _template(group)
        assert replicas == 4
        assert template["spec"]["restartPolicy"] == "Never"
        assert template["metadata"]["labels"]["pretrain.dev/attempt"] == str(attempt)
        assert group["metadata"]["labels"]["pretrain.dev/attempt"] == str(attempt)
        assert _variables(group)["PRETRAIN_ATTEMPT"] == str(attempt)
        assert _variables(group)["PET_MASTER_ADDR"] == BACKENDS[backend].master_address(parsed)
        (term,) = template["spec"]["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        assert term["labelSelector"]["matchLabels"]["pretrain.dev/attempt"] == str(attempt)
        grace = template["spec"]["terminationGracePeriodSeconds"]
        assert int(_variables(group)["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"]) == grace - 5
        assert not breaches(template["spec"])


def test_the_pytorch_job_has_the_shape_that_works() -> None:
    group = _child(_parsed(job({"training.nodes": 2, "training.gpusPerNode": 4})), "train")
    assert group["spec"]["nprocPerNode"] == "4"
    assert set(group["spec"]["pytorchReplicaSpecs"]) == {"Worker"}, "no Master"
    assert "elasticPolicy" not in group["spec"]
    assert group["spec"]["runPolicy"]["cleanPodPolicy"] == "None"
    assert _container(group)["name"] == "pytorch"
    assert {"name": "shm", "mountPath": "/dev/shm"} in _container(group)["volumeMounts"]
    variables = _variables(group)
    assert variables["PET_NODE_RANK"] == "metadata.labels['training.kubeflow.org/replica-index']"
    assert variables["PET_MASTER_ADDR"] == "right-train-worker-0"
    assert not {"PET_NNODES", "PET_NPROC_PER_NODE", "PYTHONUNBUFFERED"} & set(variables), "the training operator adds these"


# All of them


def test_credentials_come_from_two_keys_of_one_secret() -> None:
    for item in children(_parsed(job()), IMAGES)[1:]:
        references = [
            variable["valueFrom"]["secretKeyRef"] for variable in _container(item)["env"] if "AWS" in variable["name"]
        ]
        assert references == [{"name": "s3", "key": "AWS_ACCESS_KEY_ID"}, {"name": "s3", "key": "AWS_SECRET_ACCESS_KEY"}]
    for item in children(_parsed(job({"storage": {"uri": "s3://bucket/c"}})), IMAGES)[1:]:
        assert "AWS" not in json.dumps(item)


def test_everything_belongs_to_the_job() -> None:
    manifest = job()
    manifest["metadata"] |= {"uid": UID, "namespace": "research"}
    for item in children(_parsed(manifest), IMAGES):
        assert item["metadata"]["namespace"] == "research"
        assert item["metadata"]["labels"]["pretrain.dev/job"] == "right"
        assert item["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "pretrain-operator"
        assert item["metadata"]["ownerReferences"] == [
            {
                "apiVersion": "pretrain.dev/v1alpha1",
                "kind": "PretrainJob",
                "name": "right",
                "uid": UID,
                "controller": True,
                "blockOwnerDeletion": False,
            }
        ]
    for item in children(_parsed(job()), IMAGES):
        assert "ownerReferences" not in item["metadata"], "nobody is known to own it"


def test_suspension_is_sent_unless_a_queue_decides_it() -> None:
    def suspended(spec: dict[str, Any]) -> set[Any]:
        made = children(_parsed(job(spec)), IMAGES)[1:]
        assert all(("kueue.x-k8s.io/queue-name" in item["metadata"]["labels"]) == ("scheduling" in spec) for item in made)
        return {item["spec"].get("runPolicy", item["spec"]).get("suspend") for item in made}

    assert suspended({}) == {False}
    assert suspended({"suspend": True}) == {True}
    assert suspended({"suspend": True, "scheduling": {"queueName": "research"}}) == {None}


def test_scheduling_passes_through() -> None:
    wanted = {
        "nodeSelector": {"pool": "spot"},
        "tolerations": [{"key": "spot", "effect": "NoExecute"}],
        "priorityClassName": "training",
    }
    for item in children(_parsed(job({"scheduling": wanted})), IMAGES)[1:]:
        pod = _template(item)[0]["spec"]
        assert pod["nodeSelector"] == {"pool": "spot"}
        assert pod["priorityClassName"] == "training"
        assert pod["tolerations"][0] == {"key": "spot", "operator": "Equal", "effect": "NoExecute"}
        assert {toleration["key"]: toleration.get("tolerationSeconds") for toleration in pod["tolerations"][1:]} == {
            "node.kubernetes.io/not-ready": 30,
            "node.kubernetes.io/unreachable": 30,
        }
        assert "affinity" not in pod


# Whatever a user writes

MARK = "𝖚𝖘𝖊𝖗"
NASTY = st.sampled_from(
    [
        "$(JOB_COMPLETION_INDEX)",
        "${replica_id}",
        "`id`",
        "; rm -rf /",
        "$(id)",
        "{{ .Values }}",
        "--help",
        "\n- a: b",
        "'\"\\",
        "\u2028",
    ]
)
TEXT = st.builds(lambda parts: MARK + "".join(parts), st.lists(NASTY | st.text(max_size=5), max_size=3))
NAME = st.from_regex(r"\A[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\Z")
SHORT = st.from_regex(r"\A[a-z0-9]([-a-z0-9]{0,18}[a-z0-9])?\Z")
QUANTITY = st.from_regex(r"\A[1-9][0-9]{0,3}(\.[0-9])?(m|Ki|Mi|Gi|)\Z")
LABEL = st.from_regex(r"\A[A-Za-z0-9]([-A-Za-z0-9_.]{0,20}[A-Za-z0-9])?\Z")


@st.composite
def manifests(draw: st.DrawFn) -> dict[str, Any]:
    """Any job that is right in a cluster, with text of a user's wherever text may stand."""
    nodes, gpus, micro = draw(st.integers(1, 8)), draw(st.integers(0, 8)), draw(st.integers(1, 4))
    sequence = draw(st.sampled_from([8, 512, 4096]))
    batch = sequence * nodes * max(1, gpus) * micro * draw(st.integers(1, 4))
    tasks = draw(st.integers(1, 100_000))
    tokenizer = draw(
        st.fixed_dictionaries({"uri": TEXT.map("s3://t/{}".format), "endOfText": TEXT.map(lambda text: text[:64])})
        | st.fixed_dictionaries({"train": st.fixed_dictionaries({"specialTokens": st.lists(TEXT, min_size=1, max_size=3)})})
    )
    spec: dict[str, Any] = {
        "storage": {"uri": f"s3://bucket/{draw(TEXT)}".replace("\n", " "), "region": draw(TEXT)[:63]},
        "corpus": {
            "sources": [
                {"name": f"s{n}", "uri": f"s3://raw/{text}", "textField": text[:253], "idField": text[:253]}
                for n, text in enumerate(draw(st.lists(TEXT, min_size=1, max_size=3)))
            ],
            "deduplicate": {"method": draw(st.sampled_from(["none", "exact", "minhash"]))},
            "tasks": tasks,
            "parallelism": draw(st.integers(1, min(tasks, 10_000))),
            "resources": {"cpu": draw(QUANTITY), "memory": draw(QUANTITY)},
        },
        "tokenizer": tokenizer,
        "model": {"preset": draw(st.sampled_from(["tiny", "small", "llama2-7b", "llama3-8b"]))},
        "training": {
            "tokens": batch * 3,
            "sequenceLength": sequence,
            "globalBatchTokens": batch,
            "microBatchSize": micro,
            "nodes": nodes,
            "gpusPerNode": gpus,
        },
        "evaluation": {"prompts": draw(st.lists(TEXT, max_size=3))},
        "finetune": [
            task(
                {
                    "name": name,
                    "examples": {"uri": f"s3://raw/{draw(TEXT)}", "labels": [draw(TEXT)]},
                    "gpus": draw(st.integers(0, 2)),
                    "sequenceLength": sequence,
                }
            )
            for name in draw(st.lists(SHORT, max_size=2, unique=True))
        ],
        "predict": [
            prediction({"name": name, "stop": [draw(TEXT)]}) for name in draw(st.lists(SHORT, max_size=2, unique=True))
        ],
        "scheduling": {
            "nodeSelector": draw(st.dictionaries(LABEL, LABEL, max_size=3)),
            "tolerations": [{"key": key, "operator": "Exists"} for key in draw(st.lists(LABEL, max_size=3))],
        },
        "suspend": draw(st.booleans()),
    }
    if draw(st.booleans()):
        spec["storage"]["credentialsSecretRef"] = {"name": draw(NAME)}
    metadata = {"name": draw(NAME), "namespace": draw(NAME), "uid": UID}
    return {"apiVersion": "pretrain.dev/v1alpha1", "kind": "PretrainJob", "metadata": metadata, "spec": spec}


@given(manifests())
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_job_renders_and_its_text_stays_in_the_job_file(manifest: dict[str, Any]) -> None:
    parsed = _parsed(manifest)
    objects = render(parsed, IMAGES)
    names = [item["metadata"]["name"] for item in objects]
    assert len(set(names)) == len(names)
    for item in objects:
        assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", item["metadata"]["name"])
        assert len(item["metadata"]["name"]) <= 63
    for item in objects[1:]:
        assert MARK not in json.dumps(item, ensure_ascii=False), "text of a user's outside the job file"
        assert not breaches(_template(item)[0]["spec"])
        longest = {"Job": f"-{item['spec'].get('completions', 1) - 1}-xxxxx", "PyTorchJob": "-worker-9999"}[item["kind"]]
        assert len(item["metadata"]["name"] + longest) <= 63
    again = json.loads(objects[0]["data"]["job.json"])
    assert again["spec"]["storage"] == manifest["spec"]["storage"], "byte for byte"
    assert again["spec"]["evaluation"]["prompts"] == manifest["spec"]["evaluation"]["prompts"]
    assert list(yaml.safe_load_all(as_yaml(objects[:2]))) == objects[:2]
    assert json.loads(as_json(objects))["items"] == objects


@given(manifests())
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_same_job_gives_the_same_objects(manifest: dict[str, Any]) -> None:
    assert children(_parsed(manifest), Images()) == children(_parsed(manifest), Images())


def _parsed(manifest: dict[str, Any]) -> PretrainJob:
    return parse_job(manifest, "job.yaml")


def _name(manifest: dict[str, Any]) -> str:
    return str(config_map(_parsed(manifest))["metadata"]["name"])


def _stage(parsed: PretrainJob, name: str) -> Stage:
    return next(stage for stage in stages(parsed, cluster_site(parsed, IMAGES)) if stage.name == name)


def _child(parsed: PretrainJob, name: str) -> dict[str, Any]:
    return child(parsed, _stage(parsed, name))


def _template(item: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """The pod template of a workload, and how many pods it makes at a time."""
    if item["kind"] == "Job":
        return item["spec"]["template"], item["spec"]["parallelism"]
    (replicas,) = item["spec"]["pytorchReplicaSpecs"].values()
    return replicas["template"], replicas["replicas"]


def _container(item: dict[str, Any]) -> dict[str, Any]:
    (container,) = _template(item)[0]["spec"]["containers"]
    assert isinstance(container, dict)
    return container


def _variables(item: dict[str, Any]) -> dict[str, str]:
    """Environment variables with their values, or the field that they come from."""
    return {
        variable["name"]: variable.get("value") or variable["valueFrom"].get("fieldRef", {}).get("fieldPath", "")
        for variable in _container(item)["env"]
    }
