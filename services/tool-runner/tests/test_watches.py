"""Who watches what of a server, and at which level its log is wanted."""

import pytest

from mcp_proto.contracts import watching
from mcp_proto.contracts.watching import LEASE_S, URIS_MAX, read_asked, write_asked
from mcp_proto.errors import ErrorKind, MeshError
from tool_runner.core import watches
from tool_runner.core.log_levels import WISH_S, Wishes
from tool_runner.core.watches import WatchTable


def test_a_resource_is_watched_while_anybody_renews_it() -> None:
    table = WatchTable()
    assert table.renew("a:1", "gateway-1", 0.0)
    assert not table.renew("a:1", "gateway-2", 1.0)
    table.end("a:1", "gateway-1")
    assert table.alive(LEASE_S) == {"a:1"}
    assert table.alive(LEASE_S + 1.0) == frozenset()
    assert "a:1" not in table
    table.end("a:1", "nobody")


def test_the_table_is_bounded_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watches, "WATCHED_MAX", 1)
    monkeypatch.setattr(watches, "SUBSCRIBERS_MAX", 1)
    table = WatchTable()
    table.renew("a:1", "x", 0.0)
    table.renew("a:1", "x", 1.0)
    for uri, subscriber in (("a:2", "x"), ("a:1", "y")):
        with pytest.raises(MeshError) as caught:
            table.renew(uri, subscriber, 1.0)
        assert caught.value.kind is ErrorKind.OVERLOADED


def test_a_request_names_its_uris_and_who_asks() -> None:
    asked = watching.Asked(uris=("a:1", "a:2"), subscriber="gateway-1")
    assert read_asked(write_asked(asked), "") == asked
    plain = read_asked(b'{"uri":"a:1"}', "somebody")
    assert plain == watching.Asked(uris=("a:1",), subscriber="somebody")


@pytest.mark.parametrize(
    "params",
    [
        b"{}",
        b'{"uri":1}',
        b'{"uri":"a","_meta":{"mesh/subscriber":1}}',
        b'{"uris":[""]}',
        b'{"uri":"%b"}' % (b"x" * 5_000),
        b'{"uris":[%b]}' % b",".join(b'"%d"' % n for n in range(URIS_MAX + 1)),
    ],
)
def test_a_request_that_cannot_be_read_is_refused(params: bytes) -> None:
    with pytest.raises(MeshError) as caught:
        read_asked(params, "me")
    assert caught.value.kind is ErrorKind.PARAMS


def test_a_shared_server_is_set_to_the_finest_level_wanted_lately() -> None:
    wishes = Wishes()
    assert wishes.want("warning", 0.0) == "warning"
    assert wishes.want("error", 1.0) == ""
    assert wishes.want("debug", 2.0) == "debug"
    assert wishes.want("warning", 3.0) == ""
    assert wishes.want("warning", 3.0 + WISH_S) == "warning"
    wishes.forget()
    assert wishes.want("warning", 4.0 + WISH_S) == "warning"
