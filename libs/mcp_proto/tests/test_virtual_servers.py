"""What a virtual server may say, and which of its items decides about a thing."""

from typing import Any

import msgspec
import pytest

from mcp_proto.contracts.virtuals import (
    Argument,
    VirtualPrompt,
    VirtualRecord,
    VirtualResource,
    VirtualServer,
    VirtualTool,
)
from mcp_proto.virtual_servers import (
    GLOBS_MAX,
    ITEMS_MAX,
    Covering,
    is_glob,
    shown_name,
    virtual_problem,
)


def take(tool: str = "read", server: str = "fs", **members: Any) -> VirtualTool:
    return VirtualTool(server=server, tool=tool, **members)


def desk(*tools: VirtualTool, **members: Any) -> VirtualServer:
    return VirtualServer(**{"name": "desk", "tools": tools or (take(),), **members})


def resource(uri: str, **members: Any) -> VirtualServer:
    return desk(resources=(VirtualResource(server="fs", uri=uri, **members),))


def test_a_good_definition_has_no_problem() -> None:
    good = desk(
        take(
            "read", name="open", arguments={"a": Argument(value=None), "b": Argument(hidden=True)}
        ),
        take("*", name="fs.*", roles=("Admin",)),
        tenant="acme",
        prompts=(VirtualPrompt(server="fs", prompt="*"),),
        resources=(VirtualResource(server="fs", uri="file:///a?b", shown_uri="desk://a"),),
        tool_list="search",
    )
    assert virtual_problem(good) is None
    again = msgspec.json.decode(
        msgspec.json.encode(VirtualRecord(definition=good)), type=VirtualRecord
    )
    assert again.definition == good


@pytest.mark.parametrize(
    ("definition", "field"),
    [
        (desk(name="a b"), "name"),
        (desk(name=""), "name"),
        (desk(tenant="ACME"), "tenant"),
        (desk(title="x" * 257), "title"),
        (desk(instructions="x" * 8193), "instructions"),
        (VirtualServer(name="desk"), "tools"),
        (desk(*[take(f"t{n}") for n in range(ITEMS_MAX + 1)]), "tools"),
        (desk(*[take(f"t{n}*") for n in range(GLOBS_MAX + 1)]), "tools"),
        (desk(take(), take(server="")), "tools[1].server"),
        (desk(take("")), "tools[0].tool"),
        (desk(take("x" * 129)), "tools[0].tool"),
        (desk(take(name="no blanks")), "tools[0].name"),
        (desk(take("re*", name="open")), "tools[0].name"),
        (desk(take("re*", name="*_*")), "tools[0].name"),
        (desk(take("re*", name="ä*")), "tools[0].name"),
        (desk(take(roles=("",))), "tools[0].roles"),
        (desk(take(description="x" * 8193)), "tools[0].description"),
        (desk(take(arguments={"a": Argument()})), "tools[0].arguments.a"),
        (desk(take(arguments={"a": Argument(value=1, default=2)})), "tools[0].arguments.a"),
        (desk(take(arguments={"a": Argument(hidden=True, default=2)})), "tools[0].arguments.a"),
        (desk(take(), take(server="git")), "tools[1].name"),
        (desk(prompts=(VirtualPrompt(server="fs", prompt=""),)), "prompts[0].prompt"),
        (resource("file:///*", shown_uri="x://y"), "resources[0].shown_uri"),
        (resource("file:///a", shown_uri="nothing"), "resources[0].shown_uri"),
    ],
)
def test_a_problem_names_its_field(definition: VirtualServer, field: str) -> None:
    problem = virtual_problem(definition)
    assert problem is not None
    assert problem.startswith(f"{field}: "), problem


def test_a_misspelt_key_is_refused_with_its_place() -> None:
    with pytest.raises(msgspec.ValidationError, match=r"argumnts.*tools\[0\]"):
        msgspec.convert(
            {"name": "d", "tools": [{"server": "a", "tool": "b", "argumnts": {}}]}, VirtualServer
        )


def covering(items: tuple[Any, ...], server: str, name: str) -> list[Any]:
    return list(Covering(items).of(server, name))


def test_what_names_a_tool_comes_before_every_glob_and_then_the_first_glob() -> None:
    exact, again = take("admin_a"), take("admin_a", name="second")
    first, rest = take("admin_*"), take("*")
    items = (rest, exact, first, again, take("*", server="git"))
    assert covering(items, "fs", "admin_a") == [exact, again]
    assert covering(items, "fs", "admin_b") == [rest]
    assert covering((first, rest), "fs", "admin_b") == [first]
    assert covering((first, rest), "fs", "other") == [rest]
    assert covering((first,), "fs", "other") == []
    assert covering(items, "none", "admin_a") == []


def test_a_question_mark_is_a_wildcard_in_names_and_a_query_in_uris() -> None:
    assert is_glob(take("a?"))
    query = VirtualResource(server="fs", uri="http://x/?q=1")
    assert not is_glob(query)
    assert covering((query,), "fs", "http://x/?q=1") == [query]
    assert covering((query,), "fs", "http://x/yq=1") == []


def test_a_glob_renames_by_its_star() -> None:
    assert shown_name(take("re*", name="fs_*"), "read") == "fs_read"
    assert shown_name(take("re*"), "read") == ""
    assert shown_name(take("read", name="open"), "read") == "open"
