"""The commands of `pretrain`. Each loads what it needs when it runs, so that help and completion are quick."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pretrain_operator.inference import inference_commands
from pretrain_operator.kubectl.checkpoint_commands import checkpoint_commands
from pretrain_operator.kubectl.commands import EXIT_CODES as CLUSTER_EXIT_CODES
from pretrain_operator.kubectl.commands import Context, Endpoint, Kubeconfig, Namespace, StoredOutput, cluster_commands
from pretrain_operator.kubectl.completion import job_files_and_names

EXIT_CODES = (
    "Exit codes: 0 done; 65 the job or its data is wrong, the message says where; 75 storage or network failed, try again; "
    "1 a fault of this program; 2 wrong usage; 130, 143 stopped by Ctrl-C, SIGTERM: run again to continue."
)

app = typer.Typer(
    name="pretrain",
    help="From raw text to a trained language model: checks, runs and explains a PretrainJob, here or on a cluster.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Output(StrEnum):
    """How `render` prints."""

    table = "table"
    yaml = "yaml"
    json = "json"


class Report(StrEnum):
    """How `check` prints."""

    text = "text"
    json = "json"


STAGE_NAMES = (
    *("preflight", "clean", "exact-signatures", "exact-find", "exact-filter"),
    *("minhash-signatures", "minhash-buckets", "minhash-cluster", "minhash-filter"),
    *("tokenizer", "tokenize", "vocabulary", "train", "evaluate", "export", "report"),
)
"""The stages that jobs can have but for those of their tasks, for completion, which should not load what makes them (stages.py)."""


def _stage_names(incomplete: str) -> list[str]:
    return [name for name in STAGE_NAMES if name.startswith(incomplete)]


JobFile = Annotated[Path, typer.Argument(metavar="JOB.YAML", help="File of the PretrainJob.", show_default=False)]
LogDir = Annotated[
    Path | None,
    typer.Option(
        help="Folder for the log files of all processes. Omit for a new one under ~/.local/state/pretrain.",
        show_default=False,
    ),
]
GpuMemory = Annotated[
    str | None,
    typer.Option(
        help="Memory of the GPU to plan for, for example 80GiB. Omit for what nvidia-smi finds here.", show_default=False
    ),
]


@app.command(epilog=EXIT_CODES)
def run(
    job_file: JobFile,
    until: Annotated[
        str | None,
        typer.Option(
            metavar="STAGE", help="Run up to and with this stage.", autocompletion=_stage_names, show_default=False
        ),
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Print lines instead of a live table.")] = False,
    log_dir: LogDir = None,
    metrics_port: Annotated[
        int, typer.Option(min=0, max=65_535, help="Port of training's Prometheus metrics; 0 takes a free one.")
    ] = 0,
) -> None:
    """Run a job on this machine, from raw text to a trained model.

    Finished stages are kept: after a crash, Ctrl-C or a change of the job the same command continues with what is missing.

    Examples:
      pretrain run job.yaml
      pretrain run job.yaml --until tokenize
      pretrain run job.yaml --plain --log-dir logs > run.txt
    """
    import shlex
    import sys

    from pretrain_stage.process import process_age

    from pretrain_operator.api import load_job
    from pretrain_operator.local.command import run_job
    from pretrain_operator.local.run import Options

    again = f"pretrain {shlex.join(sys.argv[1:])}"
    raise typer.Exit(run_job(load_job(job_file), Options(until, plain, log_dir, metrics_port, process_age()), again))


@app.command(epilog=EXIT_CODES)
def check(
    job_file: JobFile,
    gpu_memory: GpuMemory = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Only the arithmetic: touch neither sources nor storage.")
    ] = False,
    cluster: Annotated[bool, typer.Option("--cluster", help="For a cluster: what this machine has does not count.")] = False,
    output: Annotated[Report, typer.Option("--output", "-o", help="How to print.")] = Report.text,
    log_dir: LogDir = None,
) -> None:
    """Say whether a job can work before anything heavy starts: memory, batches, tokens, disk, sources, storage, tokenizer.

    Ends with 0 if nothing is wrong, else with 65 and every fault that was found.

    Examples:
      pretrain check job.yaml
      pretrain check job.yaml --cluster --gpu-memory 80GiB --offline
      pretrain check job.yaml -o json
    """
    from pretrain_operator.api import load_job
    from pretrain_operator.local.command import check_job

    raise typer.Exit(
        check_job(
            load_job(job_file),
            gpu_memory,
            offline=offline,
            cluster=cluster,
            as_json=output is Report.json,
            log_dir=log_dir,
        )
    )


@app.command(epilog=EXIT_CODES)
def render(
    job_file: JobFile,
    output: Annotated[Output, typer.Option("--output", "-o", help="How to print.")] = Output.table,
    as_job_file: Annotated[
        bool, typer.Option("--job-file", help="Print the job file instead: the job with every default, as JSON.")
    ] = False,
    preprocess_image: Annotated[
        str | None, typer.Option(help="Image of the preprocessing stages. Omit for this version's.", show_default=False)
    ] = None,
    trainer_image: Annotated[
        str | None, typer.Option(help="Image of training and what follows. Omit for this version's.", show_default=False)
    ] = None,
) -> None:
    """Print what a job means: its stages, or the Kubernetes objects that they become. Needs no cluster.

    Examples:
      pretrain render job.yaml
      pretrain render job.yaml -o yaml | kubectl diff -f -
      pretrain render job.yaml --job-file > job.json
    """
    from pretrain_operator import render as rendering
    from pretrain_operator.api import load_job
    from pretrain_operator.children import cluster_site
    from pretrain_operator.stages import Images, stages

    job = load_job(job_file)
    images = Images(preprocess_image or Images.preprocess, trainer_image or Images.trainer)
    if as_job_file:
        typer.echo(rendering.job_file_text(job), nl=False)
    elif output is Output.table:
        typer.echo(rendering.describe(stages(job, cluster_site(job, images))))
    elif output is Output.yaml:
        typer.echo(rendering.as_yaml(rendering.render(job, images)), nl=False)
    else:
        typer.echo(rendering.as_json(rendering.render(job, images)), nl=False)


@app.command(epilog=CLUSTER_EXIT_CODES)
def trace(
    job: Annotated[
        str,
        typer.Argument(
            metavar="JOB",
            help="File of the PretrainJob (job.yaml, ./job), or name of one on a cluster.",
            autocompletion=job_files_and_names,
            show_default=False,
        ),
    ],
    step: Annotated[int, typer.Option(help="Step of training, from 1.", show_default=False)],
    output: Annotated[StoredOutput, typer.Option("--output", "-o", help="How to print.")] = StoredOutput.table,
    endpoint: Endpoint = None,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """List the documents that a step of training learns from: source, id, file, and how many tokens of each.

    The order of the text is worked out, not recorded, so the step may be one that is still to come. RANK and MICRO-STEP are
    those of as many processes as the job asks for now. Reads the storage; for s3:// with AWS_ACCESS_KEY_ID and
    AWS_SECRET_ACCESS_KEY of the environment.

    Examples:
      pretrain trace job.yaml --step 12
      pretrain trace demo --step 12 -n research --endpoint http://127.0.0.1:8333
      pretrain trace job.yaml --step 12 -o json | jq -r '.samples[].documents[].id' | sort -u
    """
    from pretrain_operator.kubectl.connection import Target, checked_name, connect
    from pretrain_operator.kubectl.traced import print_trace, trace_file, trace_job

    if "/" in job or "." in job:  # no name has either
        found = trace_file(Path(job), step, endpoint)
    else:
        checked_name(job, "JOB")
        cluster = connect(Target(kubeconfig, context, namespace))
        found = trace_job(cluster, job, cluster.namespace, step, endpoint)
    print_trace(found, as_json=output is StoredOutput.json)


app.add_typer(checkpoint_commands)
app.add_typer(inference_commands)
app.add_typer(cluster_commands)


@app.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import version as installed

    typer.echo(f"pretrain {installed('pretrain-operator')}")
