"""One row per server: what the registry lists, and what the runner says of it."""

import pytest

from mcp_proto.contracts.registry import ServerStatus
from mcp_proto.contracts.tool_runner import ServerView
from mesh_cli.upstreams import ServerRow, merge


def listed(**members: object) -> ServerStatus:
    known: dict[str, object] = {
        "tenant": "_", "server": "git", "state": "running", "instances": ("runner-1",),
        "tools": 3, "hash": "h", "defined": "config",
    }  # fmt: skip
    return ServerStatus(**{**known, **members})  # type: ignore[arg-type]


def merged(status: ServerStatus, **view: object) -> ServerRow:
    seen = ServerView(tenant="_", server="git", **view)  # type: ignore[arg-type]
    (row,) = merge([status], {("_", "git"): seen})
    return row


@pytest.mark.parametrize(
    ("view", "state", "reason"),
    [
        ({"state": "running"}, "running", ""),
        ({"state": "running", "breaker": "open"}, "failing", "calls to it fail"),
        ({"state": "waiting", "reason": "exited with status 1"}, "failing", "exited"),
        ({"state": "starting", "reason": "exited with status 1"}, "failing", "exited"),
        ({"state": "starting"}, "starting", "it is starting"),
        ({"state": "quarantined", "reason": "exited"}, "quarantined", "exited"),
        ({"state": "refused", "reason": "it has no command"}, "refused", "no command"),
        ({"state": "stopped"}, "down", "it is stopped"),
    ],
)
def test_row_says_what_the_runner_says_even_while_the_tools_stay_listed(
    view: dict[str, object], state: str, reason: str
) -> None:
    row = merged(listed(), **view)

    assert row.state == state
    assert reason in row.reason
    assert row.serves is (state == "running")
    assert row.tools == 3


def test_server_that_never_registered_is_listed_with_its_reason() -> None:
    view = ServerView(
        tenant="_", server="broken", state="quarantined", reason="exited", log=("first", "no db")
    )
    for rows in (
        merge([], {("_", "broken"): view}),
        merge(
            [listed(server="broken", state="down", instances=(), tools=0, hash="")],
            {("_", "broken"): view},
        ),
    ):
        (row,) = rows
        assert (row.server, row.state, row.tools, row.defined) == (
            "broken", "quarantined", 0, "config",
        )  # fmt: skip
        assert row.words == "exited; it last said: no db"


def test_server_without_a_runner_is_down() -> None:
    (row,) = merge([listed(state="down", instances=())], {})

    assert (row.state, row.reason) == ("down", "no runner serves it")


def test_disabled_server_is_no_trouble() -> None:
    row = merged(listed(state="disabled"), state="stopped")

    assert (row.state, row.reason, row.serves) == ("disabled", "", True)


def test_server_whose_tools_are_not_listed_yet_does_not_serve() -> None:
    assert merged(listed(hash="", tools=0), state="running").state == "starting"


def test_servers_of_other_owners_stay_out() -> None:
    views = {
        (owner, "own"): ServerView(tenant=owner, server="own", state="waiting")
        for owner in ("acme", "umbra")
    }

    assert [row.tenant for row in merge([], views, tenant="acme")] == ["acme"]
    assert [row.tenant for row in merge([], views)] == ["acme", "umbra"]
