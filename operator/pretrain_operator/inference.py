"""The commands that ask a finished model: `pretrain generate` and `pretrain predict`. What they do is the trainer's."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pretrain_trainer.inference.answering import Settings

EXIT_CODES = (
    "Exit codes: 0 done; 65 the model or the records are wrong, the message says where; 75 storage failed, try again; "
    "1 a fault of this program; 2 wrong usage; 130, 143 stopped by Ctrl-C, SIGTERM."
)

inference_commands = typer.Typer()


class Device(StrEnum):
    """Where a model computes."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Text(StrEnum):
    """How `generate` prints."""

    text = "text"
    json = "json"


Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="Folder in Hugging Face's form (safetensors, tokenizer.json), such as export/ of a job's storage; or s3://bucket/prefix.",
        show_default=False,
    ),
]
MaxNewTokens = Annotated[int, typer.Option(help="Most tokens of an answer.")]
Temperature = Annotated[float, typer.Option(help="Sampling temperature; 0 takes the likeliest token.")]
TopK = Annotated[
    int | None, typer.Option(help="Sample from so many of the likeliest tokens. Omit for all.", show_default=False)
]
TopP = Annotated[float, typer.Option(help="Sample from the likeliest tokens with this probability in sum.")]
Stop = Annotated[
    list[str] | None,
    typer.Option(help="Text at which an answer ends, and which is no part of it. May be repeated.", show_default=False),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of what is sampled.")]
Where = Annotated[Device, typer.Option(help="Where to compute; auto takes a GPU if there is one.")]
ModelEndpoint = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Address of an S3-compatible service, for s3://. Omit for AWS.", show_default=False),
]


@inference_commands.command(epilog=EXIT_CODES)
def generate(
    model: Model,
    prompts: Annotated[
        list[str] | None, typer.Argument(metavar="[PROMPT]...", help="Texts to continue.", show_default=False)
    ] = None,
    max_new_tokens: MaxNewTokens = 128,
    temperature: Temperature = 0.8,
    top_k: TopK = None,
    top_p: TopP = 0.95,
    stop: Stop = None,
    seed: Seed = 0,
    device: Where = Device.auto,
    output: Annotated[Text, typer.Option("--output", "-o", help="How to print.")] = Text.text,
    plain: Annotated[
        bool, typer.Option("--plain", help="Continue the text as it is, even if the model has a chat template.")
    ] = False,
    endpoint: ModelEndpoint = None,
) -> None:
    """Have a model write: continue a text, answer a prompt, or talk with you.

    The text of one prompt comes as it is written; several are computed together. Without PROMPT, prompts are read from
    standard input, one a line; on a terminal a conversation begins (/reset, /quit). Says tokens per second at the end.

    Examples:
      pretrain generate build/demo/storage/export 中国
      pretrain generate s3://models/llama2-7b/export --endpoint http://127.0.0.1:8333
      pretrain generate export --temperature 0 -o json < prompts.txt > answers.jsonl
    """
    from pretrain_trainer.inference import command

    settings = _settings(max_new_tokens, temperature, top_k, top_p, stop)
    place = command.Where(model, endpoint, device.value)
    raise typer.Exit(
        command.generate(place, prompts or [], settings, seed, as_json=output is Text.json, without_template=plain)
    )


@inference_commands.command(epilog=EXIT_CODES)
def predict(
    model: Model,
    records: Annotated[
        Path, typer.Argument(metavar="IN.JSONL", help="Records, one JSON object a line.", show_default=False)
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT.JSONL", help="Where the answers go, a line for each record.", show_default=False)
    ],
    batch_tokens: Annotated[
        int, typer.Option(min=1, help="Tokens that are computed at once, padding and answers included.")
    ] = 8192,
    max_new_tokens: MaxNewTokens = 128,
    temperature: Temperature = 0.0,
    top_k: TopK = None,
    top_p: TopP = 1.0,
    stop: Stop = None,
    seed: Seed = 0,
    device: Where = Device.auto,
    endpoint: ModelEndpoint = None,
) -> None:
    """Answer a file of records, in their order.

    What a record holds depends on the model: prompt or messages (it answers), text (it says label, score, scores) or words (it says
    tags). A record that cannot be answered gets an error in place of the answer; if that is all of them, the exit code is 65.

    Started again after it was stopped or killed, it goes on where it was, and ends with the same bytes.

    Examples:
      pretrain predict build/demo/storage/export prompts.jsonl answers.jsonl
      pretrain predict storage/finetune/reviews/export reviews.jsonl labels.jsonl --batch-tokens 32768
    """
    from pretrain_trainer.inference import command

    settings = _settings(max_new_tokens, temperature, top_k, top_p, stop)
    place = command.Where(model, endpoint, device.value)
    raise typer.Exit(command.predict_file(place, records, out, settings, batch_tokens, seed))


def _settings(max_new_tokens: int, temperature: float, top_k: int | None, top_p: float, stop: list[str] | None) -> Settings:
    from pretrain_trainer.generate import Sampling
    from pretrain_trainer.inference.answering import Settings

    return Settings(max_new_tokens, Sampling(temperature, top_k, top_p), tuple(stop or ()))
