"""One job as people see it."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from pretrain_operator.goodput_bar import CELLS, COLOURS, bar
from pretrain_operator.kubectl.seen import SeenJob, seen
from pretrain_operator.kubectl.view import attention, changes, draw
from pretrain_stage.ledger import STATES
from rich.console import Console

from tests.kubectl.resources import NOW, TRAINING, ago, conditions, resource, stage


def printed(job: SeenJob, width: int = 80, **options: Any) -> list[str]:
    console = Console(file=StringIO(), width=width, force_terminal=False)
    console.print(draw(job, NOW, **options), end="")
    assert isinstance(console.file, StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def job(status: dict[str, Any] | None = None, **metadata: Any) -> SeenJob:
    return seen(resource(status=status, **metadata))


def test_a_job_in_training() -> None:
    assert printed(job(TRAINING), losses=(9.0, 6.0, 4.0, 3.2)) == [
        "team/demo  Training  age 10m",
        "s3://models/right",
        "A stage runs.",
        "",
        "STAGE       STATE      TASKS                                                TIME",
        "preflight   Succeeded    1/1                                                0:10",
        "clean       Succeeded    4/4                                                4:40",
        "train       Running      0/2  ━━━━━━━━━━━━ 30 %, 2 active                   2:05",
        "report      Pending      0/1",
        "",
        "TRAINING attempt 2",
        "step 120 of 400, loss 3.214, validation loss 3.3, 12,346 tokens/s, 4m10s left,",
        "checkpoint at 100",
        "█▄▂▁",
        "",
        "RESTARTS of training (1 of them counted against training.maxRestarts)",
        *[line for line in printed(job(TRAINING)) if "attempt 1 ended" in line],
        "known then: 50)",
        "",
    ]
    assert any("attempt 1 ended, Infrastructure: rank 1: killed (checkpoint" in line for line in printed(job(TRAINING)))


def test_fine_tuning_shows_how_far_it_is() -> None:
    stages = [stage("train", "Succeeded", 2, succeeded=2), stage("finetune-mood", "Running", active=1, startTime=ago(20))]
    now = job(TRAINING | {"phase": "Finishing", "stage": "finetune-mood", "progress": "75%", "stages": stages})
    (line,) = (line for line in printed(now) if line.startswith("finetune-mood"))
    assert "━━━━━━━━━━━━ 75 %, 1 active" in line
    before = job(TRAINING | {"phase": "Finishing", "stage": "finetune-mood", "progress": "25%", "stages": stages})
    assert list(changes(before, now, NOW)) == ["finetune-mood: 75%"]
    unknown = job(TRAINING | {"phase": "Finishing", "stage": "finetune-mood", "progress": "0/1", "stages": stages})
    (line,) = (line for line in printed(unknown) if line.startswith("finetune-mood"))
    assert "%" not in line


LEDGER = {
    "state": "productive", "since": ago(8), "ratio": 0.43,
    "seconds": {"queued": 12, "starting": 20.5, "preprocessing": 280, "initializing": 30.25, "productive": 120.5,
                "data_wait": 1.25, "checkpoint": 6, "repeated": 40, "down": 81.5},
}  # fmt: skip


@pytest.mark.parametrize("width", [80, 120])
def test_where_the_time_went_and_what_it_cost(width: int) -> None:
    body = resource(status=TRAINING | {"goodput": LEDGER, "cost": {"gpuSeconds": 90_000.0, "spent": 62.5}})
    body["spec"]["cost"] = {"pricePerGPUHour": 2.5, "budget": 1000}
    lines = printed(seen(body), width)
    at = lines.index("TIME 10:00 (43 % productive since training began); now productive")
    assert lines[at + 1] == "━" * 60
    legend = " ".join(lines[at + 2 : lines.index("25.00 GPU hours at 2.5 each: 62.50 of 1,000 spent")])
    assert legend == (
        "preprocessing 47 %, productive 21 %, down 14 %, repeated 7 %, initializing 5 %, starting 3 %, queued 2 %, "
        "checkpoint 1 %, data wait <1 %"
    )


def test_a_training_pod_that_is_not_heard_of_has_stalled() -> None:
    def shown(**changed: Any) -> list[str]:
        return printed(job(TRAINING | {"goodput": LEDGER | {"since": ago(200)}} | changed), 120)

    assert any("now stalled" in line for line in shown())
    assert any("productive 23 %" in line and "stalled 18 %" in line for line in shown())
    assert any("now productive" in line for line in shown(stage="evaluate"))
    finished = {"since": ago(0), "seconds": {"productive": 30, "resting": 5, "queued": "x", "down": -1}}
    assert "TIME 0:30" in shown(goodput=finished)


def test_the_bar_shows_each_state_as_long_as_it_was() -> None:
    drawn = bar({"queued": 1.0, "productive": 2.0, "down": 1.0}, 8)
    spans = [(span.end - span.start, span.style) for span in drawn.spans if span.end > span.start]
    assert spans == [(2, COLOURS["queued"]), (4, COLOURS["productive"]), (2, COLOURS["down"])]
    assert len(bar({"queued": 0.001, "productive": 1.0, "down": 0.001})) == CELLS
    assert bar({}).plain == ""
    assert set(COLOURS) == set(STATES)


def test_a_restart_tells_what_it_cost() -> None:
    restarts = [TRAINING["restarts"][0] | {"step": 70}]  # type: ignore[index]
    shown = " ".join(printed(job(TRAINING | {"restarts": restarts})))
    assert "(at step 70, checkpoint known then: 50, up to 20 steps lost)" in shown


def test_a_low_terminal_shows_less() -> None:
    lines = printed(job(TRAINING), height=10)
    assert [line.split()[0] for line in lines[5:8]] == ["2", "train", "report"]
    assert lines[5].startswith("2 stages    Succeeded")


def test_a_preprocessing_stage_counts_its_tasks() -> None:
    status = {"phase": "Preprocessing", "conditions": conditions(), "observedGeneration": 1,
              "stages": [stage("clean", "Running", 2000, succeeded=412, active=200, failed=3, startTime=ago(60))]}  # fmt: skip
    assert "clean       Running    412/2000  ━━━━━━━━━━━━ 20 %, 200 active, 3 failed    1:00" in printed(job(status))


def test_a_finished_job() -> None:
    done = TRAINING | {
        "phase": "Succeeded",
        "completionTime": ago(10),
        "conditions": conditions(Succeeded=("True", "Succeeded", "The model is in s3://models/right/export."),
                                 Progressing=("False", "Succeeded", "It has finished.")),
        "stages": [stage("train", "Succeeded", 2, succeeded=2, startTime=ago(100), completionTime=ago(20))],
    }  # fmt: skip
    lines = printed(job(done))
    assert lines[0] == "team/demo  Succeeded  took 9:40  age 10m"
    assert "The model is in s3://models/right/export." in lines
    assert not any("tokens/s" in line or "left" in line or "Progressing" in line for line in lines)
    assert job(done).finished == "Succeeded"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"Progressing": ("False", "Unschedulable", "3 of 8 pods cannot be scheduled")},
         ["Progressing=False (Unschedulable): 3 of 8 pods cannot be scheduled"]),
        ({"Accepted": ("False", "StorageInUse", "another job writes there"), "Progressing": ("False", "StorageInUse", "x")},
         ["Accepted=False (StorageInUse): another job writes there", "Progressing=False (StorageInUse): x"]),
        ({"Suspended": ("True", "Suspended", "halted"), "Progressing": ("False", "Suspended", "halted")},
         ["Suspended (Suspended): halted"]),
        ({"Failed": ("True", "UserError", "clean: no text"), "Progressing": ("False", "UserError", "x")},
         ["Failed (UserError): clean: no text"]),
        ({"Progressing": ("Unknown", "Lost", "x")}, ["Progressing=Unknown (Lost): x"]),
        ({"Stalled": ("True", "Hung", "no step in 10 minutes")}, ["Stalled (Hung): no step in 10 minutes"]),
        ({}, []),
    ],
)  # fmt: skip
def test_conditions_that_need_attention(changed: dict[str, tuple[str, str, str]], said: list[str]) -> None:
    status = TRAINING | {"conditions": conditions(**changed)}
    assert [line for line, _ in attention(job(status), NOW)] == said


def test_what_else_needs_attention() -> None:
    def lines(seen_job: SeenJob) -> str:
        return "\n".join(line for line, _ in attention(seen_job, NOW))

    assert "No operator has looked at this job in 10m" in lines(job())
    assert lines(job(creationTimestamp=ago(5))) == ""
    assert "has not yet acted on the last change" in lines(job(TRAINING, generation=2))
    assert "Deleting" in lines(job(TRAINING, deletionTimestamp=ago(1)))
    managed = resource()
    managed["spec"]["managedBy"] = "kueue.x-k8s.io/multikueue"
    assert "kueue.x-k8s.io/multikueue takes care of this job" in lines(seen(managed))


def test_texts_of_the_status_cannot_act_on_the_terminal() -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\u202e"
    status = TRAINING | {
        "phase": f"Training{evil}", "progress": evil, "conditions": conditions(Failed=("True", f"A{evil}", f"m{evil}")),
        "stages": [stage(f"train{evil}", f"Running{evil}")],
        "restarts": [{"attempt": 1, "time": "x", "reason": evil, "message": f"m\r\n{evil}"}],
    }  # fmt: skip
    shown = "\n".join([*printed(job(status)), *changes(None, job(status), NOW)])
    assert not set(shown) & set("\x1b\x07\u202e\r")
    assert "[bold]" in "\n".join(printed(job(TRAINING | {"phase": "[bold]x[/bold]"}))), "no markup of rich's either"


@pytest.mark.parametrize("status", [
    {"conditions": "x", "stages": 3, "training": [], "restarts": [1], "startTime": 5, "observedGeneration": "1"},
    {"conditions": [{}], "stages": [{}], "training": {"step": "many", "loss": "NaN"}, "restarts": [{}]},
    {"phase": None, "stages": [{"name": "new", "state": "Skipped", "tasks": 0}], "future": {"a": 1}, "conditions": None},
])  # fmt: skip
def test_a_status_of_another_version_is_shown_as_far_as_it_goes(status: dict[str, Any]) -> None:
    assert printed(job(status))[0].startswith("team/demo")


def test_lines_of_what_has_changed() -> None:
    def after(**changed: Any) -> SeenJob:
        return job(TRAINING | changed)

    first = list(changes(None, after(), NOW))
    assert first[0] == "demo: Training"
    assert "clean: Succeeded after 4:40" in first
    assert "train: Running" in first
    assert "train: step 120 of 400, loss 3.214, validation loss 3.3, 12,346 tokens/s, 4m10s left, checkpoint at 100" in first
    assert "restart: attempt 1 ended, Infrastructure: rank 1: killed (checkpoint known then: 50)" in first
    assert list(changes(after(), after(), NOW)) == []

    step = after(training=TRAINING["training"] | {"step": 130})  # type: ignore[operator]
    assert [line.split(",")[0] for line in changes(after(), step, NOW)] == ["train: step 130 of 400"]
    failed = after(phase="Failed", conditions=conditions(Failed=("True", "UserError", "no text")))
    assert list(changes(after(), failed, NOW)) == ["demo: Failed", "Failed (UserError): no text"]
    tasks = [after(stages=[stage("clean", "Running", 9, succeeded=count)]) for count in (1, 2)]
    assert list(changes(tasks[0], tasks[1], NOW)) == ["clean: 2 of 9 tasks"]
