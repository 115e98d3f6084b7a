"""A run on an MLflow tracking server, over its REST API (https://mlflow.org/docs/latest/rest-api.html, version 2.0).

Five calls: MLflow's own client would bring thirty packages for them. A run is found again by its tag, so the starts of a
training are one run.
"""

from __future__ import annotations

import base64
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pretrain_trainer.config.sections import MLflow
from pretrain_trainer.plan import RunPlan

if TYPE_CHECKING:
    from pretrain_trainer.listeners.tracking import Point

TIMEOUT_SECONDS = 10.0
MOST_METRICS = 1000
"""In one request, as the server allows."""
MOST_PARAMETERS = 100
MOST_BYTES = 1 << 20
"""Of an answer that is read."""
TAG = "pretrain.dev/training"


class MLflowRun:
    """The client. Credentials come from the environment: a token, or user and password."""

    FIELD = "training.tracking.mlflow"

    def __init__(self, section: MLflow, plan: RunPlan, env: Mapping[str, str] = os.environ) -> None:
        self.section, self.plan = section, plan
        self.headers = {"Content-Type": "application/json", **_authorization(env)}
        self.opener = urllib.request.build_opener(_NoRedirects)
        self.run = ""

    def begin(self) -> None:
        experiment = self._experiment()
        found = self._call(
            "POST",
            "runs/search",
            {"experiment_ids": [experiment], "filter": f"tags.`{TAG}` = '{self.plan.training_key}'", "max_results": 1},
        ).get("runs")
        if found:
            self.run = found[0]["info"]["run_id"]
            self._call("POST", "runs/update", {"run_id": self.run, "status": "RUNNING"})
            return
        metadata = self.plan.job.metadata
        tags = {
            TAG: self.plan.training_key,
            "pretrain.dev/namespace": metadata.namespace,
            "pretrain.dev/name": metadata.name,
        }
        made = self._call(
            "POST",
            "runs/create",
            {
                "experiment_id": experiment,
                "run_name": metadata.name,
                "start_time": _milliseconds(time.time()),
                "tags": [{"key": key, "value": value} for key, value in tags.items()],
            },
        )
        self.run = made["run"]["info"]["run_id"]
        parameters = [{"key": key, "value": value[:6000]} for key, value in _flat(self.plan.config)]
        self._call("POST", "runs/log-batch", {"run_id": self.run, "params": parameters[:MOST_PARAMETERS]})

    def send(self, points: Sequence[Point]) -> None:
        metrics = [
            {"key": name, "value": value, "timestamp": _milliseconds(point.time), "step": point.step}
            for point in points
            for name, value in point.values.items()
        ]
        for first in range(0, len(metrics), MOST_METRICS):
            self._call("POST", "runs/log-batch", {"run_id": self.run, "metrics": metrics[first : first + MOST_METRICS]})

    def end(self, finished: bool) -> None:
        status = "FINISHED" if finished else "KILLED"
        self._call("POST", "runs/update", {"run_id": self.run, "status": status, "end_time": _milliseconds(time.time())})

    def files(self) -> Sequence[tuple[Path, str]]:
        return ()

    def _experiment(self) -> str:
        """The id of the experiment, which is made unless it is there."""
        name = self.section.experiment
        try:
            query = urllib.parse.urlencode({"experiment_name": name})
            return str(self._call("GET", f"experiments/get-by-name?{query}")["experiment"]["experiment_id"])
        except _Refused as error:
            if error.code != 404:
                raise
        return str(self._call("POST", "experiments/create", {"name": name})["experiment_id"])

    def _call(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """One request. Raises OSError or ValueError if it is not answered as it should be."""
        request = urllib.request.Request(  # noqa: S310 - the schema lets no other scheme through
            f"{self.section.tracking_uri.rstrip('/')}/api/2.0/mlflow/{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers=self.headers,
            method=method,
        )
        try:
            with self.opener.open(request, timeout=TIMEOUT_SECONDS) as answer:
                found: dict[str, Any] = json.loads(answer.read(MOST_BYTES) or b"{}")
        except urllib.error.HTTPError as error:
            with error:
                raise _Refused(error.code, f"{path.partition('?')[0]}: {_reason(error.read(MOST_BYTES))}") from None
        return found


class _Refused(OSError):
    """The server said no."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} of {reason}")
        self.code = code


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Whom credentials are meant for is written in the job; they are carried to nobody else."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _authorization(env: Mapping[str, str]) -> dict[str, str]:
    if token := env.get("MLFLOW_TRACKING_TOKEN"):
        return {"Authorization": f"Bearer {token}"}
    if user := env.get("MLFLOW_TRACKING_USERNAME"):
        both = f"{user}:{env.get('MLFLOW_TRACKING_PASSWORD', '')}"
        return {"Authorization": f"Basic {base64.b64encode(both.encode()).decode()}"}
    return {}


def _reason(answer: bytes) -> str:
    """What an error's body says: MLflow's own, or its beginning."""
    try:
        return str(json.loads(answer)["message"])
    except (ValueError, KeyError, TypeError):
        return answer[:200].decode(errors="replace")


def _flat(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as `a.b` and text."""
    found = []
    for key, value in config.items():
        found += _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(f"{prefix}{key}", str(value))]
    return found


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)
