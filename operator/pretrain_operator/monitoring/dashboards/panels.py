"""The pieces of which all dashboards are made, with Grafana's typed library: variables, and panels of three kinds.

The width of a dashboard is 24; panels are laid out from left to right, row after row, in the order in which they are added.
A panel's id is its for ever: links and alerts of users point to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from grafana_foundation_sdk.builders import common as common_builder
from grafana_foundation_sdk.builders import dashboard as dashboard_builder
from grafana_foundation_sdk.builders import prometheus, stat, table, timeseries
from grafana_foundation_sdk.models import common, dashboard
from grafana_foundation_sdk.models.prometheus import PromQueryFormat
from pretrain_stage.metric import Metric

from pretrain_operator.monitoring.query import series

TAG = "pretrain"
SOURCE = dashboard.DataSourceRef(type_val="prometheus", uid="${datasource}")
NAMESPACES, THIS_JOB = ('namespace=~"$namespace"',), ('namespace="$namespace"', 'name="$name"')
WINDOW = "$__rate_interval"
GREEN, YELLOW, RED, BLUE = "green", "yellow", "red", "blue"

Panel = timeseries.Panel | stat.Panel | table.Panel
Steps = Sequence[tuple[float | None, str]]
"""From which value on (None: from the least) which colour."""


def board(
    uid: str, title: str, description: str, *variables: dashboard_builder.QueryVariable
) -> dashboard_builder.Dashboard:
    """An empty dashboard with the datasource as its first variable and links to the others."""
    made = (
        dashboard_builder.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags([TAG])
        .editable()
        .timezone("browser")
        .time("now-6h", "now")
        .refresh("30s")
        .tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
        .link(
            dashboard_builder.DashboardLink("Pretraining")
            .type(dashboard.DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .keep_time(True)
            .include_vars(True)
        )
        .with_variable(dashboard_builder.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    )
    for variable in variables:
        made = made.with_variable(variable)
    return made


def variable(
    name: str, label: str, metric: Metric, *matchers: str, all_values: bool = False
) -> dashboard_builder.QueryVariable:
    """A variable whose values are those that a label of this name has in Prometheus."""
    return (
        dashboard_builder.QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query(f"label_values({series(metric, *matchers)}, {name})")
        .refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(dashboard.VariableSort.ALPHABETICAL_ASC)
        .multi(all_values)
        .include_all(all_values)
    )


def number(
    id_: int,
    title: str,
    description: str,
    expression: str,
    unit: str,
    *,
    width: int = 4,
    legend: str = "",
    steps: Steps = ((None, BLUE),),
    decimals: int | None = None,
    trend: bool = True,
) -> stat.Panel:
    """One number, large. legend: a label to show in its place, such as {{phase}}. trend: whether with its past behind it."""
    made = (
        stat.Panel()
        .id(id_)
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .height(4)
        .span(width)
        .unit(unit)
        .thresholds(_thresholds(steps))
        .reduce_options(common_builder.ReduceDataOptions().calcs(["lastNotNull"]))
        .graph_mode(common.BigValueGraphMode.AREA if trend else common.BigValueGraphMode.NONE)
        .color_mode(common.BigValueColorMode.VALUE)
        .with_target(_query("A", expression, legend).range() if trend else _query("A", expression, legend).instant())
    )
    if legend:
        made = made.text_mode(
            common.BigValueTextMode.VALUE_AND_NAME if legend != "{{phase}}" else common.BigValueTextMode.NAME
        )
    return made if decimals is None else made.decimals(decimals)


def curves(
    id_: int,
    title: str,
    description: str,
    queries: Mapping[str, str],
    unit: str,
    *,
    width: int = 8,
    height: int = 8,
    stacked: bool = False,
    logarithmic: bool = False,
    bars: bool = False,
    least: float | None = 0,
    most: float | None = None,
    steps: Steps = (),
) -> timeseries.Panel:
    """Curves over time. queries: expression by legend. steps: thresholds, drawn as lines."""
    made = (
        timeseries.Panel()
        .id(id_)
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .height(height)
        .span(width)
        .unit(unit)
        .fill_opacity(60 if stacked or bars else 8)
        .line_width(1)
        .show_points(common.VisibilityMode.NEVER)
        .draw_style(common.GraphDrawStyle.BARS if bars else common.GraphDrawStyle.LINE)
        .legend(
            common_builder.VizLegendOptions()
            .show_legend(True)
            .display_mode(common.LegendDisplayMode.LIST)
            .placement(common.LegendPlacement.BOTTOM)
        )
        .tooltip(common_builder.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING))
    )
    if stacked:
        made = made.stacking(common_builder.StackingConfig().mode(common.StackingMode.NORMAL).group("A"))
    if logarithmic:
        made = made.scale_distribution(common_builder.ScaleDistributionConfig().type(common.ScaleDistribution.LOG).log(10))
    elif least is not None:
        made = made.min(least)
    if most is not None:
        made = made.max(most)
    if steps:
        made = made.thresholds(_thresholds(steps)).thresholds_style(
            common_builder.GraphThresholdsStyleConfig().mode(common.GraphTresholdsStyleMode.LINE)
        )
    for letter, (legend, expression) in zip("ABCDEFGH", queries.items(), strict=False):
        made = made.with_target(_query(letter, expression, legend).range())
    return made


def rows(
    id_: int,
    title: str,
    description: str,
    queries: Mapping[str, str],
    units: Mapping[str, str],
    *,
    hidden: Sequence[str] = (),
    links: Mapping[str, tuple[str, str]] | None = None,
    width: int = 24,
    height: int = 10,
) -> table.Panel:
    """A table with a line for each set of labels. queries: expression by column. units: by column. hidden: labels that are
    not shown. links: title and address by column.
    """
    made = (
        table.Panel()
        .id(id_)
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .height(height)
        .span(width)
        .show_header(True)
        .with_transformation(dashboard.DataTransformerConfig(id_val="merge", options={}))
        .with_transformation(
            dashboard.DataTransformerConfig(
                id_val="organize",
                options={
                    "excludeByName": dict.fromkeys(("Time", *hidden), True),
                    "renameByName": {f"Value #{letter}": name for letter, name in zip("ABCDEFGH", queries, strict=False)},
                },
            )
        )
    )
    for letter, expression in zip("ABCDEFGH", queries.values(), strict=False):
        made = made.with_target(_query(letter, expression, "").instant().format(PromQueryFormat.TABLE))
    for column, unit in units.items():
        made = made.override_by_name(column, [dashboard.DynamicConfigValue("unit", unit)])
    for column, (text, address) in (links or {}).items():
        made = made.override_by_name(column, [dashboard.DynamicConfigValue("links", [{"title": text, "url": address}])])
    return made


def heading(id_: int, title: str) -> dashboard_builder.Row:
    """A line between groups of panels."""
    return dashboard_builder.Row(title).id(id_)


def with_panels(made: dashboard_builder.Dashboard, *panels: Panel | dashboard_builder.Row) -> dashboard_builder.Dashboard:
    """The dashboard with these added to it, in their order."""
    for panel in panels:
        made = made.with_row(panel) if isinstance(panel, dashboard_builder.Row) else made.with_panel(panel)
    return made


def _query(letter: str, expression: str, legend: str) -> prometheus.Dataquery:
    return prometheus.Dataquery().ref_id(letter).expr(expression).legend_format(legend or "__auto").datasource(SOURCE)


def _thresholds(steps: Steps) -> dashboard_builder.ThresholdsConfig:
    made = [dashboard.Threshold(value=value, color=colour) for value, colour in steps]
    return dashboard_builder.ThresholdsConfig().mode(dashboard.ThresholdsMode.ABSOLUTE).steps(made)
