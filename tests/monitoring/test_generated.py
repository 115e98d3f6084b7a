"""What is made from the catalogues: committed as it is made, of metrics that exist, and complete."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from pretrain_operator.monitoring.__main__ import files
from pretrain_operator.monitoring.alerts import rules
from pretrain_operator.monitoring.catalogues import BOUNDS, BY_NAME, OWN_BOUNDS, PROGRAMS, is_of_a_job
from pretrain_operator.monitoring.dashboards import DASHBOARDS, text
from pretrain_operator.monitoring.query import rate, series, target_series
from pretrain_stage.metric import Metric
from pretrain_trainer.catalogue import SECONDS, STEP, STEP_SECONDS

from tests.monitoring.names import groupings, selectors
from tests.monitoring.tools import ROOT

RUNBOOKS = ROOT / "docs" / "runbooks"
RULES = [rule for group in rules()["groups"] for rule in group["rules"]]
TARGET_LABELS = {"instance", "job", "pod", "namespace"}
"""What Prometheus adds to a series of the operator's own."""


def boards() -> list[Any]:
    return [pytest.param(json.loads(text(name)), id=name) for name in DASHBOARDS]


def panels(board: Any) -> list[Any]:
    """All panels but headings."""
    found = [*board["panels"], *(panel for row in board["panels"] for panel in row.get("panels", []))]
    return [panel for panel in found if panel["type"] != "row"]


def queries(board: Any) -> Iterator[str]:
    """Every expression of a dashboard, those of its variables included."""
    for panel in panels(board):
        for target in panel["targets"]:
            yield target["expr"]
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"]


@pytest.mark.parametrize("path", files(), ids=str)
def test_what_is_committed_is_what_is_made(path: Any) -> None:
    assert (ROOT / path).read_text(encoding="utf-8") == files()[path], f"{path} is out of date: run `make generate`"


def test_each_name_is_in_one_catalogue_and_follows_the_rules() -> None:
    names = [metric.name for program in PROGRAMS for metric in program.metrics]
    assert len(names) == len(set(names)) == len(BY_NAME)
    for name, metric in BY_NAME.items():
        assert name.startswith("pretrain_")
        assert name.endswith("_total") == (metric.kind == "counter"), name
        assert metric.help.endswith("."), name
        assert is_of_a_job(metric) or name.startswith("pretrain_operator_"), f"{name} does not tell whose it is"
        assert set(metric.labels) <= set(BOUNDS), f"nobody says what bounds the labels of {name}"
        assert not {"step", "pod", "rank", "attempt", "message", "error", "uid"} & set(metric.labels), name
    for name, label in OWN_BOUNDS:
        assert label in BY_NAME[name].labels


def of_rules_and_boards() -> list[Any]:
    found = [pytest.param(rule["expr"], id=rule["alert"]) for rule in RULES]
    for name in DASHBOARDS:
        found += [pytest.param(query, id=f"{name}: {query[:60]}") for query in queries(json.loads(text(name)))]
    return found


@pytest.mark.parametrize("query", of_rules_and_boards())
def test_every_query_is_of_metrics_and_labels_in_the_catalogues(query: str) -> None:
    found = list(selectors(query))
    assert found, "a query of nothing of ours"
    labels = {"le"}
    for metric, chosen_by in found:
        assert chosen_by <= set(metric.labels) | (set() if is_of_a_job(metric) else TARGET_LABELS), metric.name
        labels |= set(metric.labels)
    assert groupings(query) <= labels


def test_a_metric_or_label_that_does_not_exist_cannot_be_written() -> None:
    with pytest.raises(AssertionError, match="has no such label"):
        series(STEP, 'state="stalled"')
    with pytest.raises(AssertionError, match="not a matcher"):
        series(SECONDS, "state=stalled")
    with pytest.raises(AssertionError, match="is a histogram"):
        rate(STEP_SECONDS, "5m")
    with pytest.raises(AssertionError, match="has this label by itself"):
        target_series(STEP, 'namespace="a"')
    with pytest.raises(KeyError):
        list(selectors("sum(pretrain_training_losses)"))
    assert [(metric.name, chosen) for metric, chosen in selectors(rate(STEP_SECONDS, "5m", 'name="a"', part="_sum"))] == [
        ("pretrain_training_step_seconds", {"name"})
    ]


def test_every_metric_is_on_a_dashboard_or_in_a_rule() -> None:
    """A metric that nobody looks at is not worth its series. Tokens: their rate and their total have metrics of their own."""
    seen: set[Metric] = set()
    for case in of_rules_and_boards():
        seen |= {metric for metric, _ in selectors(case.values[0])}
    assert {metric.name for metric in BY_NAME.values()} - {metric.name for metric in seen} == {
        "pretrain_training_tokens_total",
        "pretrain_training_last_step_timestamp_seconds",
    }


@pytest.mark.parametrize("board", boards())
def test_a_dashboard_is_fit_for_any_grafana(board: Any) -> None:
    """Its datasource is a variable, its ids are its own, and each panel says what it shows and in which unit."""
    ids = [panel["id"] for panel in [*panels(board), *(row for row in board["panels"] if row["type"] == "row")]]
    assert len(ids) == len(set(ids))
    assert 0 not in ids
    assert "id" not in board or board["id"] is None, "ids of dashboards are Grafana's to give"
    first, *others = board["templating"]["list"]
    assert (first["type"], first["name"], first["query"]) == ("datasource", "datasource", "prometheus")
    assert all(variable["datasource"]["uid"] == "${datasource}" for variable in others)
    for panel in panels(board):
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["title"]
        assert panel["description"]
        assert panel["targets"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        if panel["type"] != "table":
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        for target in panel["targets"]:
            assert target["datasource"] == panel["datasource"]
            assert target.get("range", False) != target.get("instant", False), "one of them, and said so"
            if panel["type"] == "timeseries":
                assert target["legendFormat"] != "__auto", panel["title"]


@pytest.mark.parametrize("board", boards())
def test_grafanas_typed_library_reads_it_as_it_is(board: Any) -> None:
    """What its schema does not know would be lost on the way."""
    register_default_plugins()
    read = json.loads(json.dumps(Dashboard.from_json(board), cls=JSONEncoder))
    assert read == board


@pytest.mark.parametrize("board", boards())
def test_panels_lie_side_by_side_and_do_not_overlap(board: Any) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in [*panels(board), *(row for row in board["panels"] if row["type"] == "row")]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place.get("x", 0), place.get("x", 0) + place["w"])
            for y in range(place.get("y", 0), place.get("y", 0) + place["h"])
        }
        assert max(x for x, _ in cells) < 24, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells


def test_uids_are_for_ever() -> None:
    """Links of users point to them."""
    assert {name: json.loads(text(name))["uid"] for name in DASHBOARDS} == {
        "fleet": "pretrain-fleet",
        "job": "pretrain-job",
        "preprocessing": "pretrain-preprocessing",
        "operator": "pretrain-operator",
    }


def test_each_alert_has_its_page_and_each_page_its_alert() -> None:
    assert {path.stem for path in RUNBOOKS.glob("*.md")} == {rule["alert"] for rule in RULES}
    for rule in RULES:
        page = (RUNBOOKS / f"{rule['alert']}.md").read_text(encoding="utf-8")
        assert page.startswith(f"# {rule['alert']}\n")
        assert [line for line in page.splitlines() if line.startswith("## ")] == [
            "## What it means",
            "## What is at stake",
            "## How to look",
            "## What to do",
        ], rule["alert"]
        assert rule["annotations"]["runbook_url"] == f"docs/runbooks/{rule['alert']}.md"


def test_the_table_of_alerts_is_complete() -> None:
    lines = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8").splitlines()
    told = [line.split(" | ")[:2] for line in lines if line.startswith("| [Pretrain")]
    assert told == [
        [f"| [{rule['alert']}](runbooks/{rule['alert']}.md)", rule["labels"]["severity"]]
        for rule in RULES
    ]  # fmt: skip


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_each_rule_says_how_bad_and_what(rule: Any) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["for"]
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
