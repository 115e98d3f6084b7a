"""Experiment trackers: they are told, and whatever is wrong with them, training goes on at its pace and ends well."""

from __future__ import annotations

import builtins
import io
import json
import socket
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from pretrain_stage.errors import UserError
from pretrain_stage.events import Events
from pretrain_stage.section import parse
from pretrain_stage.storage import open_folder
from pretrain_trainer.config.sections import MLflow, Training, WeightsAndBiases
from pretrain_trainer.listeners import tracking as module
from pretrain_trainer.listeners.listener import CheckpointMeasures, StepMeasures, ValidationMeasures
from pretrain_trainer.listeners.mlflow import MLflowRun
from pretrain_trainer.listeners.tracking import Point, Tracking

from tests.mlflow_server import MLflowServer, running
from tests.trainer.conftest import Site
from tests.trainer.jobs import STEPS, start

OFFLINE = {"wandb": {"project": "little", "mode": "offline"}}


class Told:
    """A tracker that fails as it is told to."""

    FIELD = "told"

    def __init__(self, begin: Callable[[], None] = lambda: None, send: Callable[[], None] = lambda: None) -> None:
        self.points: list[Point] = []
        self.ended: list[bool] = []
        self._begin, self._send = begin, send

    def begin(self) -> None:
        self._begin()

    def send(self, points: Sequence[Point]) -> None:
        self._send()
        self.points += points

    def end(self, finished: bool) -> None:
        self.ended.append(finished)

    def files(self) -> Sequence[tuple[Path, str]]:
        return ()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything at once, where seconds pass otherwise."""
    monkeypatch.setattr(module, "STEP_SECONDS", 0.0)
    monkeypatch.setattr(module, "SEND_SECONDS", 0.01)
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(module, "CLOSE_SECONDS", 0.5)


def track(tracker: Any, folder: Path) -> tuple[Tracking, io.StringIO]:
    stream = io.StringIO()
    return Tracking(tracker, open_folder(folder), 3, Events({}, stream)), stream


def warnings(stream: io.StringIO) -> list[str]:
    return [said["message"] for said in map(json.loads, stream.getvalue().splitlines()) if said["event"] == "warning"]


def step(number: int) -> StepMeasures:
    return StepMeasures(number, 5.0 - number, 1e-3, 0.7, 256, 0.5, 0.01, time=1000.0 + number)


@pytest.mark.usefixtures("quick")
def test_everything_is_sent_and_the_end_is_told(tmp_path: Path) -> None:
    told = Told()
    tracker, stream = track(told, tmp_path)
    for number in (1, 2, 3):
        tracker.step(step(number))
    tracker.validation(ValidationMeasures(3, 4.5, 90.0))
    tracker.checkpoint(CheckpointMeasures(3, 0.5, 1000, 2.5))
    tracker.close()
    assert [point.step for point in told.points] == [1, 2, 3, 3, 3]
    assert told.points[1] == Point(
        2,
        1002.0,
        {
            "training/loss": 3.0,
            "training/learning_rate": 1e-3,
            "training/grad_norm": 0.7,
            "training/tokens_per_second": 512.0,
            "training/tokens": 512.0,
        },
    )
    assert told.points[3].values == {"validation/loss": 4.5, "validation/perplexity": 90.0}
    assert told.points[4].values == {
        "checkpoint/seconds": 0.5,
        "checkpoint/commit_seconds": 2.5,
        "checkpoint/bytes": 1000.0,
    }
    assert told.ended == [True]
    assert warnings(stream) == []


@pytest.mark.usefixtures("quick")
def test_a_run_that_ends_early_is_told_as_such(tmp_path: Path) -> None:
    told = Told()
    tracker, _ = track(told, tmp_path)
    tracker.step(step(1))
    tracker.close()
    assert told.ended == [False]


def test_short_steps_are_told_of_once_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEND_SECONDS", 0.01)
    told = Told()
    tracker, _ = track(told, tmp_path)
    for number in (1, 2, 3):
        tracker.step(step(number))
    tracker.close()
    assert [point.step for point in told.points] == [1, 3], "the first and the last of all"


@pytest.mark.usefixtures("quick")
def test_what_cannot_be_sent_is_tried_again_and_told_once(tmp_path: Path) -> None:
    failures = iter([OSError("no route"), OSError("no route"), OSError("still none")])

    def fail() -> None:
        error = next(failures, None)
        if error is not None:
            raise error

    told = Told(begin=fail, send=fail)
    tracker, stream = track(told, tmp_path)
    tracker.step(step(1))
    while not told.points:
        time.sleep(0.01)
    tracker.close()
    assert [point.step for point in told.points] == [1]
    assert warnings(stream) == ["told: OSError: no route; training goes on, and what waits is tried again"]


@pytest.mark.usefixtures("quick")
def test_a_tracker_that_hangs_holds_up_neither_steps_nor_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_POINTS", 10)
    hung = threading.Event()

    def hang() -> None:
        hung.wait(60)

    tracker, stream = track(Told(send=hang), tmp_path)
    began = time.monotonic()
    for number in range(1, 31):
        tracker.step(step(number))
    assert time.monotonic() - began < 0.2
    tracker.close()
    assert time.monotonic() - began < 3
    hung.set()
    assert tracker.lost == 20
    assert warnings(stream) == [
        "told: 10 points wait to be sent; those that come now are lost, and training goes on",
        "told: did not finish within 0.5 s; 30 of its points were not sent",
    ]


@pytest.mark.parametrize(
    "address",
    [
        "ftp://tracking.example",
        "file:///mlruns",
        "https://user:word@tracking.example",
        "http://tracking.example/?to=elsewhere",
        "http://tracking example",
    ],
)
def test_addresses_that_are_none_or_hold_credentials_are_refused(address: str) -> None:
    with pytest.raises(UserError, match="trackingURI"):
        parse(MLflow, {"trackingURI": address, "experiment": "e"}, "job")


def test_names_that_are_none_are_refused() -> None:
    with pytest.raises(UserError, match="project"):
        parse(WeightsAndBiases, {"project": "../elsewhere"}, "job")
    assert Training.model_validate({"tokens": 64, "globalBatchTokens": 64, "sequenceLength": 8}).tracking is None


class Silent:
    """A server that takes connections and never answers."""

    def __enter__(self) -> Silent:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.uri = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.taken: list[socket.socket] = []
        threading.Thread(target=self._take, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        for one in self.taken:
            one.close()

    def _take(self) -> None:
        while True:
            try:
                self.taken.append(self.socket.accept()[0])
            except OSError:
                return


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MLflowServer]:
    with running(tmp_path_factory.mktemp("mlflow")) as server:
        yield server


def test_credentials_go_to_the_server_that_the_job_names_and_no_further() -> None:
    heard: list[bytes] = []

    def serve(server: socket.socket, answer: bytes) -> None:
        while True:
            try:
                with server.accept()[0] as one:
                    heard.append(one.recv(65536))
                    one.sendall(answer)
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as other, socket.create_server(("127.0.0.1", 0)) as named:
        to = f"http://127.0.0.1:{other.getsockname()[1]}/"
        moved = f"HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
        threading.Thread(target=serve, args=(named, moved), daemon=True).start()
        threading.Thread(target=serve, args=(other, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"), daemon=True).start()
        section = MLflow(trackingURI=f"http://127.0.0.1:{named.getsockname()[1]}", experiment="e")
        run = MLflowRun(section, None, {"MLFLOW_TRACKING_TOKEN": "canary"})  # type: ignore[arg-type]
        with pytest.raises(OSError, match="302 of experiments/get-by-name"):
            run.begin()
        for server in (other, named):
            server.shutdown(socket.SHUT_RDWR)
    assert len(heard) == 1
    assert b"Authorization: Bearer canary" in heard[0]


def test_a_user_and_a_password_are_credentials_too() -> None:
    section = MLflow(trackingURI="http://127.0.0.1:1", experiment="e")
    env = {"MLFLOW_TRACKING_USERNAME": "ada", "MLFLOW_TRACKING_PASSWORD": "word"}
    assert MLflowRun(section, None, env).headers["Authorization"] == "Basic YWRhOndvcmQ="  # type: ignore[arg-type]
    assert "Authorization" not in MLflowRun(section, None, {}).headers  # type: ignore[arg-type]


def test_a_package_that_is_missing_is_a_warning_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "pretrain_trainer.listeners.wandb", raising=False)
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "wandb":
            raise ModuleNotFoundError("No module named 'wandb'")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    stream = io.StringIO()
    tracking = parse(Training, {"tokens": 64, "globalBatchTokens": 64, "sequenceLength": 8, "tracking": OFFLINE}, "job")

    class Plan:
        class job:  # noqa: N801
            class spec:  # noqa: N801
                training = tracking

    assert module.trackers(open_folder(tmp_path), Plan, tmp_path, 0, Events({}, stream)) == []  # type: ignore[arg-type]
    (warning,) = warnings(stream)
    assert "No module named 'wandb'; install pretrain-operator[tracking]" in warning


@pytest.mark.slow
def test_the_starts_of_a_training_are_one_run_on_a_real_server(site: Site, mlflow: MLflowServer) -> None:
    tracking = {"tracking": {"mlflow": {"trackingURI": mlflow.uri, "experiment": "little"}}}
    run = start("launch", site.write(**tracking))
    run.until("checkpoint")
    assert run.stop() == 143
    (found,) = mlflow.runs("little")
    assert found["info"]["status"] == "KILLED"
    again = start("launch", site.write(**tracking))
    assert again.ended() == 0, again.errors
    assert again.of("warning") == []
    (found,) = mlflow.runs("little")
    assert (found["info"]["run_name"], found["info"]["status"]) == ("little", "FINISHED")
    parameters = {entry["key"]: entry["value"] for entry in found["data"]["params"]}
    assert (parameters["model.layers"], parameters["optimizer.learningRate"]) == ("2", "0.003")
    losses = dict(mlflow.history(found["info"]["run_id"], "training/loss"))
    recorded = {line["step"]: line["loss"] for line in site.record() if line["kind"] == "step"}
    assert losses.keys() >= {1, STEPS}
    assert losses == {number: pytest.approx(recorded[number]) for number in losses}
    assert [number for number, _ in mlflow.history(found["info"]["run_id"], "validation/loss")] == [24, 48]


@pytest.mark.slow
def test_an_offline_run_of_wandb_lies_in_storage(site: Site) -> None:
    run = start("launch", site.write(tracking=OFFLINE), WANDB_API_KEY="c" * 40)
    assert run.ended() == 0, run.errors
    assert run.of("warning") == []
    assert run.stderr.read_text() == ""
    (file,) = site.path("reports/wandb").glob("offline-run-*/run-*.wandb")
    data = file.read_bytes()
    for name in (b"training/loss", b"validation/perplexity", b"checkpoint/seconds"):
        assert name in data
    assert b"c" * 40 not in data, "the key stays where it was"


@pytest.mark.slow
@pytest.mark.parametrize("tracker", ["mlflow", "wandb"])
def test_a_server_that_never_answers_costs_no_step(site: Site, new_site: Callable[[str], Site], tracker: str) -> None:
    """Steps keep their pace, the end waits a few seconds, and one warning or two tell of it."""
    with Silent() as silent:
        section = {
            "mlflow": {"trackingURI": silent.uri, "experiment": "little"},
            "wandb": {"project": "little"},
        }[tracker]
        hung = start("launch", site.write(tracking={tracker: section}), WANDB_BASE_URL=silent.uri, WANDB_API_KEY="c" * 40)
        assert hung.ended() == 0, hung.errors
        assert silent.taken, "it was asked"
    alone = new_site("alone")
    assert start("launch", alone.write()).ended() == 0

    took, usual = ([line["seconds"] for line in where.record() if line["kind"] == "step"] for where in (site, alone))
    # A step that waited would take as long as the server is waited for: ten seconds and more.
    assert max(took) < 5
    # Both runs share the machine with whatever else there is.
    assert statistics.median(took) < 2 * statistics.median(usual)
    assert any(f"training.tracking.{tracker}: did not finish within" in said["message"] for said in hung.of("warning"))
    (account,) = hung.of("account")
    assert account["seconds"]["stalled"] == 0
