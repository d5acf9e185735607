"""Arguments and results of the ``prometheus`` tools, and the way from the HTTP API to them.

Prometheus writes samples as text, because JSON has no NaN and no infinity. Here a sample is a
number where it is one, and otherwise the text ``NaN``, ``+Inf`` or ``-Inf``.
"""

import math
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from tool_runner.core.instants import INSTANT_HELP, SPAN_HELP

__all__ = [
    "Alert",
    "AlertList",
    "Api",
    "Histogram",
    "LabelNames",
    "LabelValues",
    "ListAlerts",
    "ListRules",
    "ListTargets",
    "Names",
    "Query",
    "QueryRange",
    "RangeResult",
    "RawAlerts",
    "RawData",
    "RawRules",
    "RawTargets",
    "Result",
    "Rule",
    "RuleList",
    "SelectSeries",
    "Series",
    "SeriesList",
    "TargetList",
    "alerts_of",
    "instant_series",
    "number",
    "range_series",
    "rules_of",
    "targets_of",
]

QUERY_CHARS_MAX = 16 * 1024
NAMES_MAX = 10_000

Expression = Annotated[
    str, Meta(min_length=1, max_length=QUERY_CHARS_MAX, description="PromQL expression.")
]
Moment = Annotated[str | float, Meta(description=INSTANT_HELP)]
Selectors = Annotated[
    tuple[Annotated[str, Meta(min_length=1, max_length=QUERY_CHARS_MAX)], ...],
    Meta(max_length=32, description='Series selectors: up, http_requests_total{job="api"}.'),
]
Value = float | str


class _Asked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Arguments."""


class Query(_Asked, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Arguments of ``query``."""

    query: Expression
    time: Moment = "now"


class QueryRange(_Asked, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Arguments of ``query_range``."""

    query: Expression
    start: Moment
    end: Moment = "now"
    step: Annotated[
        str | float, Meta(description=f"Between two points: {SPAN_HELP}. Empty: a fitting one.")
    ] = ""


class SelectSeries(_Asked, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Arguments of ``series``."""

    match: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=QUERY_CHARS_MAX)], ...],
        Meta(min_length=1, max_length=32, description='Series selectors: up, {job="api"}.'),
    ]
    start: Moment = "-1h"
    end: Moment = "now"


class LabelNames(_Asked, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Arguments of ``labels``."""

    match: Selectors = ()
    start: Moment = "-1h"
    end: Moment = "now"


class LabelValues(_Asked, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Arguments of ``label_values``."""

    label: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,255}$",
            description="Name of a label; __name__ = the names of all metrics.",
        ),
    ]
    match: Selectors = ()
    start: Moment = "-1h"
    end: Moment = "now"


class ListAlerts(_Asked, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Arguments of ``alerts``."""

    state: Annotated[
        str, Meta(pattern="^(|firing|pending)$", description="Only of this state; empty: all.")
    ] = ""


class ListRules(_Asked, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Arguments of ``rules``."""

    type: Annotated[
        str, Meta(pattern="^(|alert|record)$", description="Only of this kind; empty: all.")
    ] = ""


class ListTargets(_Asked, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Arguments of ``targets``."""

    health: Annotated[
        str, Meta(pattern="^(|up|down|unknown)$", description="Only such ones; empty: all.")
    ] = ""


class _Told(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Part of a result."""


class Point(msgspec.Struct, frozen=True, array_like=True):
    """Unix seconds and value."""

    time: float
    value: Value


class Histogram(_Told, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A native histogram; its buckets are left out."""

    count: Value
    sum: Value


class Series(_Told, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A series at one moment; a number, NaN, +Inf or -Inf, or a text where the query gives one."""

    labels: dict[str, str]
    time: float
    value: Value | None = None
    histogram: Histogram | None = None


class RangeSeries(_Told, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A series over time."""

    labels: dict[str, str]
    points: tuple[Point, ...] = ()
    histograms: Annotated[int, Meta(description="Points that are histograms, left out.")] = 0


class _Noted(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What Prometheus adds to an answer, and what was left out of it."""

    warnings: Annotated[tuple[str, ...], Meta(description="What Prometheus warns of.")] = ()
    left_out: Annotated[int, Meta(description="Further ones, over the limit.")] = 0


class Result(_Noted, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Result of ``query``."""

    kind: Annotated[str, Meta(description="vector, scalar, string or matrix.")]
    series: tuple[Series, ...]
    ranges: Annotated[
        tuple[RangeSeries, ...], Meta(description="Of kind matrix, as up[5m] gives.")
    ] = ()


class RangeResult(_Noted, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Result of ``query_range``."""

    start: str
    end: str
    step_seconds: float
    series: tuple[RangeSeries, ...]


class SeriesList(_Noted, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Result of ``series``."""

    series: tuple[dict[str, str], ...]


class Names(_Noted, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Result of ``labels`` and ``label_values``."""

    values: tuple[str, ...]


class Alert(_Told, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """An alert that fires or is about to."""

    name: str
    state: str
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    active_at: str = ""
    value: Value | None = None


class AlertList(_Noted, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Result of ``alerts``."""

    alerts: tuple[Alert, ...]


class Rule(_Told, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A rule that alerts or records."""

    group: str
    name: str
    type: str
    query: str
    health: str = ""
    state: str = ""
    for_seconds: float = 0.0
    last_error: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class RuleList(_Noted, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Result of ``rules``."""

    rules: tuple[Rule, ...]


class Target(_Told, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Something that is scraped."""

    job: str
    instance: str
    health: str
    url: Annotated[str, Meta(description="What is scraped, without its query.")] = ""
    last_error: str = ""
    last_scrape: str = ""
    last_scrape_seconds: float = 0.0
    labels: dict[str, str] = {}


class TargetList(_Noted, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Result of ``targets``."""

    targets: tuple[Target, ...]


# What the API says


class Api(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Every answer of the API."""

    status: str
    data: msgspec.Raw = msgspec.Raw(b"null")
    error_type: str = ""
    error: str = ""
    warnings: tuple[str, ...] | None = ()
    infos: tuple[str, ...] | None = ()


class RawData(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Of a query."""

    result_type: str
    result: msgspec.Raw


class RawSeries(msgspec.Struct, frozen=True, kw_only=True):
    """Of a vector or matrix."""

    metric: dict[str, str] = {}
    value: tuple[float, str] | None = None
    values: tuple[tuple[float, str], ...] = ()
    histogram: tuple[float, dict[str, Any]] | None = None
    histograms: tuple[msgspec.Raw, ...] = ()


class RawAlert(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """An alert."""

    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    state: str = ""
    active_at: str = ""
    value: str = ""


class RawAlerts(msgspec.Struct, frozen=True, kw_only=True):
    """All alerts."""

    alerts: tuple[RawAlert, ...] = ()


class RawRule(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A rule."""

    name: str = ""
    type: str = ""
    query: str = ""
    health: str = ""
    state: str = ""
    duration: float = 0.0
    last_error: str = ""
    labels: dict[str, str] | None = {}
    annotations: dict[str, str] | None = {}


class RawGroup(msgspec.Struct, frozen=True, kw_only=True):
    """A group of rules."""

    name: str = ""
    rules: tuple[RawRule, ...] = ()


class RawRules(msgspec.Struct, frozen=True, kw_only=True):
    """All groups."""

    groups: tuple[RawGroup, ...] = ()


class RawTarget(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A target."""

    labels: dict[str, str] = {}
    scrape_url: str = ""
    health: str = ""
    last_error: str = ""
    last_scrape: str = ""
    last_scrape_duration: float = 0.0


class RawTargets(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """All targets."""

    active_targets: tuple[RawTarget, ...] = ()


def number(text: str) -> Value:
    """A sample."""
    try:
        value = float(text)
    except ValueError:
        return text
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"


def instant_series(data: RawData) -> tuple[Series, ...]:
    """Of a query of kind vector, scalar or string."""
    if data.result_type in {"scalar", "string"}:
        at, text = msgspec.json.decode(data.result, type=tuple[float, str])
        value = number(text) if data.result_type == "scalar" else text
        return (Series(labels={}, time=at, value=value),)
    return tuple(
        Series(labels=one.metric, time=one.value[0], value=number(one.value[1]))
        if one.value is not None
        else _histogram(one)
        for one in msgspec.json.decode(data.result, type=tuple[RawSeries, ...])
    )


def _histogram(one: RawSeries) -> Series:
    at, told = one.histogram or (0.0, {})
    count, total = str(told.get("count", "NaN")), str(told.get("sum", "NaN"))
    return Series(
        labels=one.metric,
        time=at,
        histogram=Histogram(count=number(count), sum=number(total)),
    )


def range_series(data: RawData) -> tuple[RangeSeries, ...]:
    """Of a query of kind matrix."""
    return tuple(
        RangeSeries(
            labels=one.metric,
            points=tuple(Point(at, number(text)) for at, text in one.values),
            histograms=len(one.histograms),
        )
        for one in msgspec.json.decode(data.result, type=tuple[RawSeries, ...])
    )


def alerts_of(raw: RawAlerts, state: str) -> tuple[Alert, ...]:
    """Those of a state; "" = all."""
    return tuple(
        Alert(
            name=one.labels.get("alertname", ""),
            state=one.state,
            labels=one.labels,
            annotations=one.annotations,
            active_at=one.active_at,
            value=number(one.value) if one.value else None,
        )
        for one in raw.alerts
        if state in {"", one.state}
    )


def rules_of(raw: RawRules) -> tuple[Rule, ...]:
    """All rules, group by group."""
    return tuple(
        Rule(
            group=group.name,
            name=one.name,
            type=one.type,
            query=one.query,
            health=one.health,
            state=one.state,
            for_seconds=one.duration,
            last_error=one.last_error,
            labels=one.labels or {},
            annotations=one.annotations or {},
        )
        for group in raw.groups
        for one in group.rules
    )


def targets_of(raw: RawTargets, health: str) -> tuple[Target, ...]:
    """Those of a health; "" = all. A query may hold a token, so it is not shown."""
    return tuple(
        Target(
            job=one.labels.get("job", ""),
            instance=one.labels.get("instance", ""),
            health=one.health,
            url=one.scrape_url.partition("?")[0],
            last_error=one.last_error,
            last_scrape=one.last_scrape,
            last_scrape_seconds=one.last_scrape_duration,
            labels=one.labels,
        )
        for one in raw.active_targets
        if health in {"", one.health}
    )
