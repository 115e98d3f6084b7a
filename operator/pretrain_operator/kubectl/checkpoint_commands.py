"""`pretrain checkpoints ls`, `verify` and `restore`, as they are typed. Each loads what it needs when it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pretrain_operator.kubectl.commands import Context, Endpoint, Kubeconfig, Namespace, StoredOutput
from pretrain_operator.kubectl.completion import job_files_and_names

if TYPE_CHECKING:
    from pretrain_stage.storage import Storage

EXIT_CODES = (
    "Exit codes: 0 done; 65 the job or STEP is wrong; 75 the cluster or the storage does not answer, try again; 1 verify: a checkpoint "
    "is not what was committed; 2 wrong usage; 130 stopped by Ctrl-C."
)

checkpoint_commands = typer.Typer(
    name="checkpoints",
    help="What training can go on from, read from the job's storage: for s3:// with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY "
    "of the environment.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Job = Annotated[
    str,
    typer.Argument(
        metavar="JOB",
        help="File of the PretrainJob (job.yaml, ./job), or name of one on a cluster.",
        autocompletion=job_files_and_names,
        show_default=False,
    ),
]
Task = Annotated[
    str | None,
    typer.Option(help="Checkpoints of this entry of spec.finetune. Omit for those of pretraining.", show_default=False),
]
Printed = Annotated[StoredOutput, typer.Option("--output", "-o", help="How to print.")]


@checkpoint_commands.command("ls", epilog=EXIT_CODES)
def ls(
    job: Job,
    task: Task = None,
    output: Printed = StoredOutput.table,
    endpoint: Endpoint = None,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """List the checkpoints: step, attempt, tokens, loss, size, age, state.

    STATE: newest, what training goes on from; best, by validation loss; in use, what the newest attempt went on from; passed over,
    since an older one was restored; not finished; damaged.

    Examples:
      pretrain checkpoints ls job.yaml
      pretrain checkpoints ls demo -n research --endpoint http://127.0.0.1:8333 -o json
    """
    from pretrain_operator.kubectl.checkpoints import print_checkpoints

    storage = _storage(job, task, endpoint, namespace, context, kubeconfig)
    print_checkpoints(storage, as_json=output is StoredOutput.json)


@checkpoint_commands.command("verify", epilog=EXIT_CODES)
def verify(
    job: Job,
    step: Annotated[int | None, typer.Argument(metavar="[STEP]", help="Omit for all.", show_default=False)] = None,
    task: Task = None,
    output: Printed = StoredOutput.table,
    endpoint: Endpoint = None,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Read every byte of the committed checkpoints and say which file is not what was committed. Changes nothing.

    Examples:
      pretrain checkpoints verify job.yaml
      pretrain checkpoints verify job.yaml 4000 && ./publish
    """
    from pretrain_operator.kubectl.checkpoints import print_verified

    storage = _storage(job, task, endpoint, namespace, context, kubeconfig)
    if not print_verified(storage, step, as_json=output is StoredOutput.json):
        raise typer.Exit(1)


@checkpoint_commands.command("restore", epilog=EXIT_CODES)
def restore(
    job: Job,
    step: Annotated[int, typer.Argument(metavar="STEP", help="The step to go on from.", show_default=False)],
    yes: Annotated[bool, typer.Option("--yes", help="Do it. Without, only say what would be done.")] = False,
    task: Task = None,
    endpoint: Endpoint = None,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Have training go on from an older checkpoint: newer ones do not count any more, once it was read and is whole.

    An attempt that runs ends at its next checkpoint, and the one after it goes on from here. Deletes nothing by itself: newer ones can be
    restored in turn, until training keeps others in their place.

    Examples:
      pretrain checkpoints restore job.yaml 4000
      pretrain checkpoints restore job.yaml 4000 --yes
    """
    from pretrain_operator.kubectl import checkpoints

    checkpoints.restore(_storage(job, task, endpoint, namespace, context, kubeconfig), step, sure=yes)


def _storage(
    job: str, task: str | None, endpoint: str | None, namespace: str | None, context: str | None, kubeconfig: Kubeconfig
) -> Storage:
    from pretrain_operator.kubectl.checkpoints import open_job_storage
    from pretrain_operator.kubectl.connection import Target

    return open_job_storage(job, task, endpoint, Target(kubeconfig, context, namespace))
