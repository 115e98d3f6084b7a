"""A job on paper."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from pretrain_operator.api import load_job, parse_job
from pretrain_operator.children import cluster_site
from pretrain_operator.render import describe, job_file_text, render
from pretrain_operator.stages import Images, stages
from pretrain_stage.errors import UserError
from pretrain_trainer.config.memory import GIB, estimate, setup_of

from tests.operator.golden import EXAMPLES
from tests.operator.jobs import job

FILES = sorted(file for file in EXAMPLES.rglob("*.yaml") if "kind: PretrainJob" in file.read_text(encoding="utf-8"))


def test_the_table_shows_what_runs() -> None:
    parsed = parse_job(job({"training.nodes": 2, "training.gpusPerNode": 8, "training.globalBatchTokens": 8192}), "job.yaml")
    heading, *rows = describe(stages(parsed, cluster_site(parsed, Images()))).splitlines()
    assert heading.split() == ["STAGE", "TASKS", "AT", "ONCE", "CPU", "MEMORY", "GPUS", "COMMAND"]
    table = {row.split()[0]: row.split() for row in rows}
    assert list(table) == [
        "preflight", "clean", "minhash-signatures", "minhash-buckets", "minhash-cluster", "minhash-filter", "tokenizer",
        "tokenize", "vocabulary", "train", "evaluate", "export", "report",
    ]  # fmt: skip
    assert table["clean"][1:6] == ["4", "1", "1", "4Gi", "-"]
    assert table["train"][1:6] == ["2", "2", "1", "8Gi", "8"]
    assert (
        " ".join(table["clean"][6:]) == "python -m pretrain_preprocess clean --job /etc/pretrain/job.json --index I "
        "--metrics-port 9400 --metrics-address 0.0.0.0"
    )


def test_a_job_for_one_machine_is_not_rendered_for_a_cluster() -> None:
    with pytest.raises(UserError, match=r"storage\.uri must be an s3:// uri in a cluster.*/data"):
        render(parse_job(job({"storage": {"uri": "/data"}}), "job.yaml"), Images())


def test_the_job_file_is_printed_whole() -> None:
    parsed = parse_job(job(), "job.yaml")
    assert json.loads(job_file_text(parsed)) == parsed.job_file()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(EXAMPLES).as_posix())
def test_every_example_is_a_job_that_divides(file: Path) -> None:
    parsed = load_job(file)
    assert describe(stages(parsed, cluster_site(parsed, Images())))
    given = 128_256 if parsed.spec.training.gpus_per_node else 8_192  # of a large model, or of another example's
    entries = parsed.spec.tokenizer.train.vocab_size if parsed.spec.tokenizer.train else given
    memory = estimate(setup_of(parsed.spec.training, parsed.spec.model.dimensions(parsed.spec.training), entries))
    if parsed.spec.training.gpus_per_node:
        assert memory.fits(80 * GIB), memory.table()
    else:
        assert memory.fits(2 * GIB), memory.table()


@pytest.mark.parametrize("file", [file for file in FILES if "s3://" in file.read_text()], ids=lambda file: file.stem)
def test_examples_for_a_cluster_render(file: Path) -> None:
    parsed = load_job(file)
    assert len(render(parsed, Images())) == 1 + len(stages(parsed, cluster_site(parsed, Images())))


def test_examples_say_only_what_differs_from_the_defaults() -> None:
    """llama2-7b is the design's example: the large job has the shape of the small one."""
    small, large = (yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text())["spec"] for name in ("tiny", "llama2-7b"))
    assert set(small) - set(large) == set()
