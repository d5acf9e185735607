"""``settings`` of servers of type ``prometheus``: the HTTP API of Prometheus and its kin."""

from typing import Annotated

import msgspec
from msgspec import Meta

__all__ = ["PrometheusSettings"]


class PrometheusSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds of what is asked and given; ``url`` of the definition is where its ``/api`` is.

    Attributes:
        points_max: points per series that a range query may ask for; Prometheus refuses more
            than 11,000.
        series_max: series of one answer; further ones are left out and counted.
        range_max_s: longest range of a query, in seconds; 0 = any.
        query_timeout_s: given to Prometheus as the time-out of a query.
    """

    points_max: Annotated[int, Meta(ge=1, le=11_000)] = 1_000
    series_max: Annotated[int, Meta(ge=1, le=10_000)] = 200
    range_max_s: Annotated[float, Meta(ge=0)] = 0.0
    query_timeout_s: Annotated[float, Meta(gt=0, le=300)] = 20.0
