"""Which agents become servers, which go, which are left out and why."""

import msgspec
import pytest

from mcp_proto.contracts.registry import ServerDefinition
from mcp_proto.discovery import definition_of, endpoint_url
from registry.core.found import Agent, Sightings, plan


def agent(name: str, url: str = "http://h:1") -> Agent:
    return Agent(name=name, url=url)


def decided(found, defined=(), *, taken=None, gone=(), allow=None):
    return plan(
        found,
        {one.name: one for one in defined},
        taken=taken or {},
        gone=set(gone),
        allow=allow or {},
    )


def stored(name: str, origin: str = "etcd", generation: int = 0) -> ServerDefinition:
    made = definition_of(name, "http://h:1", origin=origin, allow=())
    return msgspec.structs.replace(made, generation=generation)


def test_a_found_agent_becomes_a_shared_http_server_without_credentials() -> None:
    (made,) = decided({"etcd": [agent("a")]}, allow={"etcd": ("10.0.0.0/8",)}).write
    assert made == ServerDefinition(
        name="a",
        transport="http",
        url="http://h:1/mcp",
        allow_private=("10.0.0.0/8",),
        origin="etcd",
    )


def test_what_is_stored_already_is_not_written_again() -> None:
    assert decided({"etcd": [agent("a")]}, [stored("a", generation=7)]).write == ()
    moved = decided({"etcd": [agent("a", "http://h:2")]}, [stored("a")])
    assert [one.url for one in moved.write] == ["http://h:2/mcp"]


def test_only_what_is_gone_is_removed_and_only_what_was_found() -> None:
    both = [stored("a"), stored("b")]
    assert decided({"etcd": [agent("a")]}, both).remove == ()
    assert decided({"etcd": [agent("a")]}, both, gone=[("etcd", "b")]).remove == ("b",)


def test_an_agent_of_a_place_that_is_away_too_long_goes_although_it_was_not_withdrawn() -> None:
    away = decided({"etcd": [agent("a")]}, [stored("a")], gone=[("etcd", "a")])
    assert (away.write, away.remove) == ((), ("a",))


@pytest.mark.parametrize(
    ("name", "url", "said"),
    [
        ("time", "http://h:1", "somebody's"),
        ("a__b", "http://h:1", "server names"),
        ("a.*", "http://h:1", "server names"),
        ("kv", "nats://h:1", "http"),
        ("x", "http://user:pw@h:1", "user name"),
        ("x", "file:///etc/passwd", "http"),
        ("x", "", "http"),
    ],
)
def test_an_agent_that_cannot_be_a_server_is_left_out_with_the_reason(
    name: str, url: str, said: str
) -> None:
    made = decided({"etcd": [agent(name, url), agent("good")]}, taken={"time": "somebody's"})
    assert [one.name for one in made.write] == ["good"]
    assert said in made.left_out[0].reason


def test_a_server_that_took_the_name_later_takes_it_from_the_agent() -> None:
    made = decided({"etcd": [agent("a")]}, [stored("a")], taken={"a": "declared"})
    assert (made.remove, made.left_out[0].reason) == (("a",), "declared")


def test_of_two_agents_of_one_name_the_first_place_wins() -> None:
    made = decided({"static": [agent("a")], "etcd": [agent("a"), agent("b"), agent("b")]})
    assert [(one.name, one.origin) for one in made.write] == [("a", "static"), ("b", "etcd")]
    assert [one.reason for one in made.left_out] == [
        "another agent of this name was found in static",
        "another agent of this name was found here",
    ]


def test_an_agent_not_seen_for_its_time_to_live_is_gone() -> None:
    sightings = Sightings(60.0)
    known = [("etcd", "a"), ("etcd", "b")]
    sightings.see("etcd", ["a"], 0.0)
    assert sightings.gone(known, 10.0) == set()
    assert sightings.gone(known, 61.0) == {("etcd", "a")}
    # One that was known before the process began has its time from then on.
    assert sightings.gone(known, 71.0) == {("etcd", "a"), ("etcd", "b")}
    sightings.see("etcd", ["a"], 72.0)
    assert sightings.gone(known, 73.0) == {("etcd", "b")}
    sightings.forget("etcd", ["a"])
    assert ("etcd", "a") in sightings.gone(known, 73.0)


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("http://h:1", "http://h:1/mcp"),
        ("http://h:1/", "http://h:1/mcp"),
        ("http://h:1/agents/a", "http://h:1/agents/a"),
        ("http://h:1?x=1", "http://h:1?x=1"),
    ],
)
def test_without_a_path_the_usual_one_is_meant(url: str, endpoint: str) -> None:
    assert endpoint_url(url) == endpoint
