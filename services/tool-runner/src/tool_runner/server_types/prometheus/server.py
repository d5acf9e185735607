"""Prometheus, and what speaks its HTTP API (Thanos, Mimir, VictoriaMetrics), as a server."""

import time
from collections.abc import Callable, Sequence
from typing import TypeVar
from urllib.parse import urlencode

import msgspec

from mcp_proto.contracts.registry import ServerDefinition
from mcp_proto.errors import Outcome
from mcp_proto.server_types import settings_of
from mcp_proto.server_types.prometheus import PrometheusSettings
from tool_runner.core.instants import INSTANT_HELP, SPAN_HELP, instant, rfc3339, span_s
from tool_runner.core.query_ranges import (
    POINTS_WANTED,
    QueryRangeAsked,
    fitting_step,
    range_problem,
)
from tool_runner.server_types.linked_server import Answer, LinkedServer, Pairs, path_of
from tool_runner.server_types.prometheus import shapes
from tool_runner.server_types.prometheus.shapes import Api, RawData
from tool_runner.server_types.tool_server import ServedTool
from tool_runner.server_types.typed_tools import Refused, typed_tool
from tool_runner.upstreams.factory import NetworkSettings

__all__ = ["PrometheusServer"]

ROWS_MAX = 1000
"""Alerts, rules and targets of one answer."""
_FORM = {"Content-Type": "application/x-www-form-urlencoded"}

T = TypeVar("T")
D = TypeVar("D")
R = TypeVar("R")


class PrometheusServer(LinkedServer):
    """See ``LinkedServer``."""

    def __init__(
        self, definition: ServerDefinition, network: NetworkSettings, trusted: bool
    ) -> None:
        super().__init__(definition, network, trusted)
        self._settings = settings_of(definition, PrometheusSettings)

    async def _probe(self) -> None:
        # A query, because every kin of Prometheus has it and its proxies let it pass.
        answer = await self._ask("GET", "/api/v1/query", [("query", "vector(1)")])
        self._api(answer)

    async def _list(self) -> Sequence[ServedTool]:
        return [*self._queries(), *self._names_and_series(), *self._state()]

    def _queries(self) -> list[ServedTool]:
        settings = self._settings
        return [
            typed_tool(
                "query",
                "Query at one moment",
                "Evaluates a PromQL expression at one moment. Gives at most "
                f"{settings.series_max} series; aggregate or select to have fewer.",
                self.query,
                asks=shapes.Query,
                gives=shapes.Result,
            ),
            typed_tool(
                "query_range",
                "Query over time",
                "Evaluates a PromQL expression at every step of a range of time. At most "
                f"{settings.points_max} points per series and {settings.series_max} series.",
                self.query_range,
                asks=shapes.QueryRange,
                gives=shapes.RangeResult,
            ),
        ]

    def _names_and_series(self) -> list[ServedTool]:
        return [
            typed_tool(
                "series",
                "Find series",
                "Lists the series that selectors match, each as its labels.",
                self.series,
                asks=shapes.SelectSeries,
                gives=shapes.SeriesList,
            ),
            typed_tool(
                "labels",
                "List label names",
                "Lists the names of labels, of all series or of those that selectors match.",
                self.labels,
                asks=shapes.LabelNames,
                gives=shapes.Names,
            ),
            typed_tool(
                "label_values",
                "List values of a label",
                "Lists the values of one label; of __name__ these are the names of all metrics.",
                self.label_values,
                asks=shapes.LabelValues,
                gives=shapes.Names,
            ),
        ]

    def _state(self) -> list[ServedTool]:
        return [
            typed_tool(
                "alerts",
                "List alerts",
                "Lists the alerts that fire or are pending now.",
                self.alerts,
                asks=shapes.ListAlerts,
                gives=shapes.AlertList,
            ),
            typed_tool(
                "rules",
                "List rules",
                "Lists alerting and recording rules with their health.",
                self.rules,
                asks=shapes.ListRules,
                gives=shapes.RuleList,
            ),
            typed_tool(
                "targets",
                "List targets",
                "Lists what is scraped, whether it is up, and why not.",
                self.targets,
                asks=shapes.ListTargets,
                gives=shapes.TargetList,
            ),
        ]

    # The tools

    async def query(self, asked: shapes.Query) -> shapes.Result:
        """``/api/v1/query``."""
        at = _moment("time", asked.time)
        api = await self._post("query", [("query", asked.query), ("time", f"{at:.3f}"), *self._in])
        data = self._decoded(api.data, RawData)
        if data.result_type == "matrix":
            found = self._shaped(shapes.range_series, data)
            kept, left_out = _cut(found, self._settings.series_max)
            self._check_points(sum(len(one.points) for one in kept))
            return shapes.Result(
                kind="matrix", series=(), ranges=kept, left_out=left_out, warnings=_warnings(api)
            )
        found_now = self._shaped(shapes.instant_series, data)
        kept_now, left_out = _cut(found_now, self._settings.series_max)
        return shapes.Result(
            kind=data.result_type, series=kept_now, left_out=left_out, warnings=_warnings(api)
        )

    async def query_range(self, asked: shapes.QueryRange) -> shapes.RangeResult:
        """``/api/v1/query_range``."""
        settings, wanted = self._settings, self._range(asked)
        form = [
            ("query", asked.query),
            ("start", f"{wanted.start_s:.3f}"),
            ("end", f"{wanted.end_s:.3f}"),
            ("step", f"{wanted.step_s:.3f}"),
        ]
        api = await self._post("query_range", [*form, *self._in])
        found = self._shaped(shapes.range_series, self._decoded(api.data, RawData))
        kept, left_out = _cut(found, settings.series_max)
        self._check_points(sum(len(one.points) for one in kept))
        return shapes.RangeResult(
            start=rfc3339(wanted.start_s),
            end=rfc3339(wanted.end_s),
            step_seconds=wanted.step_s,
            series=kept,
            left_out=left_out,
            warnings=_warnings(api),
        )

    async def series(self, asked: shapes.SelectSeries) -> shapes.SeriesList:
        """``/api/v1/series``."""
        api = await self._post("series", self._selection(asked))
        found = self._decoded(api.data, tuple[dict[str, str], ...])
        kept, left_out = _cut(found, self._settings.series_max)
        return shapes.SeriesList(series=kept, left_out=left_out, warnings=_warnings(api))

    async def labels(self, asked: shapes.LabelNames) -> shapes.Names:
        """``/api/v1/labels``."""
        return self._names(await self._post("labels", self._selection(asked)))

    async def label_values(self, asked: shapes.LabelValues) -> shapes.Names:
        """``/api/v1/label/<name>/values``."""
        path = path_of("api", "v1", "label", asked.label, "values")
        return self._names(self._api(await self._ask("GET", path, self._selection(asked))))

    async def alerts(self, asked: shapes.ListAlerts) -> shapes.AlertList:
        """``/api/v1/alerts``."""
        api = self._api(await self._ask("GET", "/api/v1/alerts"))
        found = shapes.alerts_of(self._decoded(api.data, shapes.RawAlerts), asked.state)
        kept, left_out = _cut(found, ROWS_MAX)
        return shapes.AlertList(alerts=kept, left_out=left_out, warnings=_warnings(api))

    async def rules(self, asked: shapes.ListRules) -> shapes.RuleList:
        """``/api/v1/rules``."""
        kind = [("type", asked.type)] if asked.type else []
        api = self._api(await self._ask("GET", "/api/v1/rules", kind))
        kept, left_out = _cut(shapes.rules_of(self._decoded(api.data, shapes.RawRules)), ROWS_MAX)
        return shapes.RuleList(rules=kept, left_out=left_out, warnings=_warnings(api))

    async def targets(self, asked: shapes.ListTargets) -> shapes.TargetList:
        """``/api/v1/targets``."""
        api = self._api(await self._ask("GET", "/api/v1/targets", [("state", "active")]))
        found = shapes.targets_of(self._decoded(api.data, shapes.RawTargets), asked.health)
        kept, left_out = _cut(found, ROWS_MAX)
        return shapes.TargetList(targets=kept, left_out=left_out, warnings=_warnings(api))

    # What is asked

    @property
    def _in(self) -> Pairs:
        return [("timeout", f"{self._settings.query_timeout_s:g}s")]

    def _range(self, asked: shapes.QueryRange) -> QueryRangeAsked:
        """A range that may be asked for.

        Raises:
            Refused: it may not; says what may.
        """
        settings = self._settings
        start_s, end_s = _moment("start", asked.start), _moment("end", asked.end)
        step_s = span_s(asked.step) if asked.step != "" else None
        if step_s is None and asked.step != "":
            raise Refused(f"step: {str(asked.step)[:64]!r} is no span; {SPAN_HELP}.")
        if step_s is None:
            step_s = fitting_step(end_s - start_s, min(POINTS_WANTED, settings.points_max))
        wanted = QueryRangeAsked(start_s, end_s, step_s)
        problem = range_problem(
            wanted, points_max=settings.points_max, range_max_s=settings.range_max_s
        )
        if problem is not None:
            raise Refused(problem)
        return wanted

    def _selection(
        self, asked: shapes.SelectSeries | shapes.LabelNames | shapes.LabelValues
    ) -> Pairs:
        start_s, end_s = _moment("start", asked.start), _moment("end", asked.end)
        if end_s < start_s:
            raise Refused("end is before start.")
        return [
            *(("match[]", one) for one in asked.match),
            ("start", f"{start_s:.3f}"),
            ("end", f"{end_s:.3f}"),
        ]

    async def _post(self, operation: str, form: Pairs) -> Api:
        # POST, because expressions grow longer than addresses may be.
        body = urlencode(form).encode()
        return self._api(await self._ask("POST", f"/api/v1/{operation}", body=body, headers=_FORM))

    # What is answered

    def _api(self, answer: Answer) -> Api:
        """The answer of the API.

        Raises:
            Refused: Prometheus says what is wrong with the query.
            MeshError: ``upstream``: it is no Prometheus, or its own fault.
        """
        try:
            api = msgspec.json.decode(answer.body, type=Api)
        except (msgspec.DecodeError, UnicodeDecodeError):
            if 200 <= answer.status < 300 or answer.status in {404, 405}:
                raise self._error(
                    f"is no Prometheus: no HTTP API at its url (status {answer.status})"
                ) from None
            raise self._status(answer.status, answer.body[:300].decode(errors="replace")) from None
        if api.status == "success" and answer.status < 300:
            return api
        if api.error_type in _CALLERS or answer.status in {400, 422}:
            raise Refused(f"Prometheus refuses ({api.error_type or answer.status}): {api.error}")
        raise self._status(answer.status, api.error)

    def _decoded(self, raw: bytes | msgspec.Raw, kind: type[T]) -> T:
        return self._shaped(lambda data: msgspec.json.decode(data, type=kind), raw)

    def _shaped(self, shape: Callable[[D], T], data: D) -> T:
        """What is read of an answer, which may be anything."""
        try:
            return shape(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self._error(
                f"answered with what is no answer of Prometheus: {error}", Outcome.EXECUTED
            ) from None

    def _names(self, api: Api) -> shapes.Names:
        found = self._decoded(api.data, tuple[str, ...])
        kept, left_out = _cut(found, shapes.NAMES_MAX)
        return shapes.Names(values=kept, left_out=left_out, warnings=_warnings(api))

    def _check_points(self, points: int) -> None:
        """A matrix of many long series fits every single bound and is too much for a model."""
        if points > _POINTS_ANSWER_MAX:
            raise Refused(
                f"The answer has {points} points, at most {_POINTS_ANSWER_MAX} are given. "
                "Aggregate (sum by (…)), select fewer series, or use a larger step."
            )


_CALLERS = frozenset(("bad_data", "execution", "timeout", "canceled"))
"""Kinds of errors that the query is the cause of."""
_POINTS_ANSWER_MAX = 50_000


def _moment(field: str, text: str | float) -> float:
    moment = instant(text, time.time())
    if moment is None:
        raise Refused(f"{field}: {str(text)[:64]!r} is no time; {INSTANT_HELP}.")
    return moment


def _cut(found: tuple[R, ...], limit: int) -> tuple[tuple[R, ...], int]:
    return found[:limit], max(0, len(found) - limit)


def _warnings(api: Api) -> tuple[str, ...]:
    return (*(api.warnings or ()), *(api.infos or ()))
