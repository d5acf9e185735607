from mcp_types import methods as sdk

from mcp_proto.methods import (
    BEFORE_INITIALIZE_TCP,
    CACHEABLE,
    METHODS,
    TCP_METHODS,
    Direction,
    MethodKind,
    is_known,
    method_of,
    routing_member,
)
from mcp_proto.versions import MODERN, NEWEST_LEGACY, Revision

SKILLS = {"skills/list", "skills/get", "resources/directory/read"}  # an extension
OPEN_TASKS = {"notifications/tasks/status", "notifications/tasks"}  # the SDK leaves tasks out


def rows(directions: set[Direction], kind: MethodKind) -> set[tuple[str, str]]:
    return {
        (method.name, revision.value)
        for method in METHODS
        for revision in Revision
        if method.kind is kind
        and method.direction in directions
        and method.first <= revision <= method.last
        and not method.name.startswith("tasks/")
        and method.name not in OPEN_TASKS | SKILLS
    }


def test_the_table_is_that_of_the_sdk() -> None:
    client, server = {Direction.CLIENT, Direction.BOTH}, {Direction.SERVER, Direction.BOTH}
    assert rows(client, MethodKind.REQUEST) == set(sdk.CLIENT_REQUESTS)
    assert rows(client, MethodKind.NOTIFICATION) == set(sdk.CLIENT_NOTIFICATIONS)
    assert rows(server, MethodKind.REQUEST) == set(sdk.SERVER_REQUESTS)
    # The modern cancel of a server ends a listen stream; the SDK types it so too.
    assert rows(server, MethodKind.NOTIFICATION) == set(sdk.SERVER_NOTIFICATIONS)
    assert set(sdk.CACHEABLE_METHODS) == CACHEABLE


def test_input_requests_are_no_messages_of_the_modern_era() -> None:
    assert is_known("elicitation/create", NEWEST_LEGACY)
    assert not is_known("elicitation/create", MODERN)
    found = method_of("elicitation/create", MODERN)
    assert found is not None
    assert found.kind is MethodKind.INPUT
    assert method_of("elicitation/create", Revision.R2024_11_05) is None


def test_removed_and_unknown_methods_are_unknown() -> None:
    for name in (
        "initialize",
        "ping",
        "logging/setLevel",
        "tasks/result",
        "nope",
        "",
        "Tools/Call",
    ):
        assert not is_known(name, MODERN)
    assert not is_known("server/discover", NEWEST_LEGACY)
    assert not TCP_METHODS & {method.name for method in METHODS}
    assert TCP_METHODS < BEFORE_INITIALIZE_TCP


def test_each_entry_of_a_method_covers_its_own_revisions() -> None:
    seen: set[tuple[str, Revision]] = set()
    for method in METHODS:
        for revision in Revision:
            if method.first <= revision <= method.last:
                assert (method.name, revision) not in seen
                seen.add((method.name, revision))


def test_mcp_name_repeats_the_member_that_routes() -> None:
    assert routing_member("tools/call") == "name"
    assert routing_member("resources/read") == "uri"
    assert routing_member("tasks/update") == "taskId"
    assert routing_member("tools/list") is None
    assert routing_member("tasks/update", NEWEST_LEGACY) is None
