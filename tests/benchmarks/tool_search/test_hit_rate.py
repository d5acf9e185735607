"""A change of the ranking may not cost hits unnoticed."""

from tests.benchmarks.tool_search.collection import queries, servers, tools
from tests.benchmarks.tool_search.evaluate import pair, rates, shipped, substring

MARGIN = 0.03
MEASURED_AT_5 = 0.90
"""Held-out half, when the ranking was shipped (docs/tool-search.md)."""
FREE = {"MIT", "Apache-2.0", "MIT and Apache-2.0"}


def test_the_fixture_is_what_the_report_says() -> None:
    collection, asked = tools(), queries()
    known = {pair(one) for one in collection}
    assert len(collection) >= 200
    assert len(asked) >= 150
    assert {one.license for one in servers()} <= FREE
    assert all(one.version and one.package for one in servers())
    for query in asked:
        assert query.wanted <= known, query.text


def test_hit_rate_on_held_out_queries_stays_near_what_was_measured() -> None:
    collection = tools()
    held_out = [one for one in queries() if one.held_out]
    measured = rates(shipped(collection), held_out)
    assert measured.at_5 >= MEASURED_AT_5 - MARGIN
    assert measured.at_5 > rates(substring(collection), held_out).at_5 + 0.1
