"""Hints of many sources as one."""

import msgspec
import pytest

from gateway.core.caching import DISCOVER, TTL_MAX_MS, merged_ttl_ms, read_hints
from gateway.core.routing import Offer, offer
from mcp_proto.contracts.registry import Catalog, CatalogTool

TOOL = CatalogTool(name="t", definition=msgspec.Raw(b'{"name":"t"}'))


def server(hint: int | None = None, *, empty: bool = False) -> Offer:
    ttls = {} if hint is None else {"tools": hint}
    return offer(Catalog(tenant="_", server="s", tools=() if empty else (TOOL,), ttls_ms=ttls))


@pytest.mark.parametrize(
    ("offers", "default", "merged"),
    [
        ([], 700, 700),
        ([server(60)], 700, 60),
        ([server(60), server(0)], 700, 0),
        ([server(60), server()], 700, 60),
        ([server(6_000), server()], 700, 700),
        ([server(6_000), server()], 0, 0),
        ([server(6_000), server(empty=True)], 0, 6_000),
        ([server(10 * TTL_MAX_MS)], 0, TTL_MAX_MS),
    ],
)
def test_the_most_impatient_source_decides(offers: list[Offer], default: int, merged: int) -> None:
    assert merged_ttl_ms(offers, "tools", default) == merged


def test_discover_counts_every_server() -> None:
    hinted = offer(Catalog(tenant="_", server="s", ttls_ms={DISCOVER: 90}))
    assert merged_ttl_ms([hinted], DISCOVER, 5_000) == 90
    assert merged_ttl_ms([hinted, offer(Catalog(tenant="_", server="t"))], DISCOVER, 50) == 50


@pytest.mark.parametrize(
    ("given", "repeated", "ttl", "scope"),
    [
        (b'{"ttlMs":5,"cacheScope":"public"}', False, 5, "private"),
        (b'{"ttlMs":5,"cacheScope":"private"}', False, 5, "private"),
        (b'{"contents":[]}', False, 0, "private"),
        (b'{"ttlMs":5,"cacheScope":"private"}', True, 0, "private"),
        (b'{"ttlMs":-1}', False, 0, "private"),
        (b'{"ttlMs":99999999999999999999999}', False, TTL_MAX_MS, "private"),
    ],
)
def test_a_read_is_private_and_never_kept_when_it_took_input(
    given: bytes, repeated: bool, ttl: int, scope: str
) -> None:
    made = msgspec.json.decode(read_hints(given, repeated=repeated))
    assert (made["ttlMs"], made["cacheScope"]) == (ttl, scope)


def test_what_asks_for_input_carries_no_hints() -> None:
    asks = b'{"resultType":"input_required","requestState":"x"}'
    assert read_hints(asks, repeated=False) == asks
