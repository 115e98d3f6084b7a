"""A Prometheus of the test's own: real, on this machine, quick, and ended with the test."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.monitoring.tools import PROMETHEUS
from tests.seaweedfs import free_ports

READY_SECONDS = 60.0
SCRAPE_SECONDS = 2

Sample = tuple[dict[str, str], float]


class Prometheus:
    """Scrapes what is added, every two seconds, and judges its rules every second."""

    def __init__(self, folder: Path, rules: Mapping[str, Any]) -> None:
        assert PROMETHEUS is not None
        self.folder = folder
        self.targets: dict[str, str] = {}
        (port,) = free_ports(1)
        self.address = f"http://127.0.0.1:{port}"
        (folder / "rules.yaml").write_text(yaml.safe_dump(dict(rules)))
        (folder / "targets.json").write_text("[]")
        (folder / "prometheus.yml").write_text(yaml.safe_dump(_configuration()))
        with (folder / "prometheus.log").open("w") as log:
            self.process = subprocess.Popen(
                [
                    PROMETHEUS,
                    f"--config.file={folder}/prometheus.yml",
                    f"--storage.tsdb.path={folder}/data",
                    f"--web.listen-address=127.0.0.1:{port}",
                ],
                stdout=log,
                stderr=log,
            )
        wait(READY_SECONDS, self._ready, "Prometheus is ready")

    def add(self, **targets: int) -> None:
        """Scrapes these too: a name of ours, and the port on this machine."""
        self.targets |= {name: f"127.0.0.1:{port}" for name, port in targets.items()}
        content = [{"targets": [address], "labels": {"target": name}} for name, address in self.targets.items()]
        new = self.folder / "targets.new"
        new.write_text(json.dumps(content))
        new.rename(self.folder / "targets.json")

    def query(self, expression: str) -> list[Sample]:
        """The value of an expression now, series by series. A wrong expression fails the test."""
        data = self._get("query", query=expression)
        if data["resultType"] == "scalar":
            return [({}, float(data["result"][1]))]
        return [(sample["metric"], float(sample["value"][1])) for sample in data["result"]]

    def label_values(self, selector: str, label: str) -> list[str]:
        """The values that a label has in these series: what Grafana asks for a variable."""
        return sorted({series[label] for series in self._get("series", **{"match[]": selector}) if label in series})

    def alerts(self) -> list[dict[str, Any]]:
        """Those that are pending or firing now, with their texts filled in."""
        found: list[dict[str, Any]] = self._get("alerts")["alerts"]
        return found

    def stop(self) -> None:
        """Ends it."""
        self.process.terminate()
        self.process.wait(timeout=30)

    def _get(self, path: str, **parameters: str) -> Any:
        url = f"{self.address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from None

    def _ready(self) -> bool:
        assert self.process.poll() is None, (self.folder / "prometheus.log").read_text()
        try:
            with urllib.request.urlopen(f"{self.address}/-/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


def wait(seconds: float, condition: Callable[[], object], what: str) -> None:
    """Waits until something is so; fails if it takes longer."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.2)


def _configuration() -> dict[str, Any]:
    return {
        "global": {
            "scrape_interval": f"{SCRAPE_SECONDS}s",
            "scrape_timeout": f"{SCRAPE_SECONDS}s",
            "evaluation_interval": "1s",
        },
        "rule_files": ["rules.yaml"],
        "scrape_configs": [
            {
                "job_name": "pretrain",
                "honor_labels": True,
                "file_sd_configs": [{"files": ["targets.json"], "refresh_interval": "1s"}],
            }
        ],
    }
