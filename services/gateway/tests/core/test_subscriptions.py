"""The table of interests: shared, bounded, renewed, given back."""

import pytest

from gateway.core import subscriptions
from gateway.core.subscriptions import LINGER_S, Interests, Server
from mcp_proto.contracts.watching import RENEW_S, URIS_MAX
from mcp_proto.errors import ErrorKind, MeshError

SERVER = Server("_", "notes")


def test_many_listeners_share_one_interest_that_is_renewed() -> None:
    table: Interests[str] = Interests()
    first = table.join(SERVER, "a:1", "x", "a:1", 0.0)
    assert table.join(SERVER, "a:1", "y", "mesh://notes/a:1", 0.0) is first
    (batch,) = table.due(0.0)
    assert (batch.wanted, batch.interests) == (True, (first,))
    assert table.due(0.0) == []
    table.answered(first, 1.0, watched=True)
    assert table.due(1.0) == []
    assert table.next_due() == 1.0 + RENEW_S
    assert len(table.due(1.0 + RENEW_S)) == 1
    assert table.hearing(SERVER, "a:1") == [("x", "a:1"), ("y", "mesh://notes/a:1")]
    assert table.hearing(Server("t", "notes"), "a:1") == []


def test_an_interest_lingers_after_its_last_listener_and_is_then_given_back() -> None:
    table: Interests[str] = Interests()
    one = table.join(SERVER, "a:1", "x", "a:1", 0.0)
    table.due(0.0)
    table.answered(one, 0.0, watched=True)
    table.leave(one, "x", "a:1", 5.0)
    assert table.hearing(SERVER, "a:1") == []
    assert table.due(5.0) == []
    again = table.join(SERVER, "a:1", "y", "a:1", 5.5)
    assert again is one
    assert one.watched
    table.due(5.5)
    table.answered(one, 5.5, watched=True)
    table.leave(one, "y", "a:1", 6.0)
    (batch,) = table.due(6.0 + LINGER_S)
    assert not batch.wanted
    assert one.last == "y"
    table.given_back(one, 9.0)
    assert len(table) == 0


def test_who_comes_while_an_interest_is_given_back_is_asked_for_again() -> None:
    table: Interests[str] = Interests()
    one = table.join(SERVER, "a:1", "x", "a:1", 0.0)
    table.due(0.0)
    table.answered(one, 0.0, watched=True)
    table.leave(one, "x", "a:1", 0.0)
    table.due(LINGER_S)
    assert table.join(SERVER, "a:1", "y", "a:1", LINGER_S) is one
    assert not one.watched
    assert table.due(LINGER_S) == []
    table.given_back(one, LINGER_S)
    (batch,) = table.due(LINGER_S)
    assert batch.wanted


def test_requests_are_bounded_and_so_is_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    table: Interests[str] = Interests()
    for number in range(URIS_MAX + 1):
        table.join(SERVER, f"a:{number}", "x", "a", 0.0)
    assert [len(one.interests) for one in table.due(0.0)] == [URIS_MAX, 1]
    monkeypatch.setattr(subscriptions, "INTERESTS_MAX", len(table))
    with pytest.raises(MeshError) as caught:
        table.join(SERVER, "one:more", "x", "a", 0.0)
    assert caught.value.kind is ErrorKind.OVERLOADED
    table.join(SERVER, "a:0", "y", "a", 0.0)


def test_a_server_that_is_served_anew_is_asked_at_once() -> None:
    table: Interests[str] = Interests()
    one = table.join(SERVER, "a:1", "x", "a:1", 0.0)
    table.due(0.0)
    table.answered(one, 0.0, watched=True)
    assert not table.anew(Server("_", "other"), 1.0)
    assert table.anew(SERVER, 1.0)
    assert len(table.due(1.0)) == 1


@pytest.mark.parametrize(
    ("watched", "changed", "told"),
    [
        ("file:///a", "file:///a/b/c", "file:///a/b/c"),
        ("file:///a/", "file:///a/b", "file:///a/b"),
        ("file:///a", "file:///ab", None),
        ("file:///a/b", "file:///a", None),
    ],
)
def test_a_part_of_a_watched_resource_is_told(watched: str, changed: str, told: str | None) -> None:
    table: Interests[str] = Interests()
    table.join(SERVER, watched, "x", watched, 0.0)
    table.join(SERVER, watched, "y", "mesh://renamed", 0.0)
    expected = [] if told is None else [("x", told), ("y", "mesh://renamed")]
    assert table.hearing(SERVER, changed) == expected
