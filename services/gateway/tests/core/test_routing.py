"""Tests of gateway.core.routing and gateway.core.templates."""

from collections import Counter

import msgspec
import pytest

from gateway.core.routing import Table, offer
from gateway.core.templates import uri_pattern
from mcp_proto.contracts.registry import Catalog, CatalogTool
from mcp_proto.limits import TOOLS_PER_TENANT_MAX


def raw(**members: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(members))


def catalog(server: str, *names: str, prefixed: bool = True, **members: object) -> Catalog:
    tools = tuple(CatalogTool(name=name, definition=raw(name=name)) for name in names)
    return Catalog(tenant="_", server=server, tools=tools, prefixed=prefixed, **members)


def table(*catalogs: Catalog) -> Table:
    return Table("acme", [offer(one) for one in catalogs])


def test_a_tool_is_found_by_listed_name_bare_name_and_alias() -> None:
    made = table(catalog("kv", "kv_get", prefixed=False), catalog("fs", "read", "a:b"))
    assert made.tool("kv_get").server == "kv"
    assert made.tool("kv:kv_get").listed == "kv_get"
    assert made.tool("fs__read").name == made.tool("fs:read").name == "read"
    assert made.tool("fs:a:b").name == "a:b"
    for unknown in ("read", "FS__read", "fs__Read", "fs:", ":read", "kv__kv_get"):
        assert made.tool(unknown) is None


def test_listed_names_are_short_and_legal_whatever_the_server_calls_them() -> None:
    made = table(catalog("fs", "x" * 128, "ünïcode tool", "a/b"))
    for name in made.tools:
        assert len(name) <= 64
        assert set(name) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-")
    assert len(made.tools) == 3


def test_a_definition_keeps_its_bytes_but_for_name_and_missing_description() -> None:
    definition = msgspec.Raw(
        b'{"inputSchema": {"$defs":{"a" : 1.0}},"name":"read","x":1e5,"description":""}'
    )
    made = table(
        Catalog(tenant="_", server="fs", tools=(CatalogTool(name="read", definition=definition),))
    )
    entry = made.tool("fs__read").entry
    assert b'{"$defs":{"a" : 1.0}}' in entry
    assert b'"x":1e5' in entry
    assert msgspec.json.decode(entry)["name"] == "fs__read"
    assert msgspec.json.decode(entry)["description"] == "read of fs"


@pytest.mark.parametrize("definition", [b"[]", b"null", b"{", b'{"a":' * 2_000])
def test_a_definition_that_cannot_be_read_is_left_out_and_counted(definition: bytes) -> None:
    made = offer(
        Catalog(
            tenant="_",
            server="fs",
            tools=(CatalogTool(name="x", definition=msgspec.Raw(definition)),),
        )
    )
    assert made.tools == ()
    assert made.unreadable == 1


def test_a_tenant_lists_no_more_tools_than_the_limit() -> None:
    names = [f"t{n}" for n in range(TOOLS_PER_TENANT_MAX + 3)]
    made = table(catalog("big", *names))
    assert len(made.tools) == TOOLS_PER_TENANT_MAX
    assert made.hidden == 3


def test_a_server_with_thousands_of_tools_pushes_out_no_other() -> None:
    def many(count: int) -> list[str]:
        return [f"t{n}" for n in range(count)]

    big, bigger = many(TOOLS_PER_TENANT_MAX), many(TOOLS_PER_TENANT_MAX)
    made = table(
        catalog("a", *big), catalog("b", *bigger), catalog("y", *many(40)), catalog("z", "one")
    )
    listed = Counter(tool.server for tool in made.tools.values())
    assert listed["z"] == 1
    assert listed["y"] == 40
    assert sum(listed.values()) == TOOLS_PER_TENANT_MAX
    assert abs(listed["a"] - listed["b"]) <= 1
    assert made.hidden == 2 * TOOLS_PER_TENANT_MAX + 41 - TOOLS_PER_TENANT_MAX
    assert made.tool("z:one") is not None


def test_the_same_uri_of_two_servers_is_listed_once_as_it_is_and_once_wrapped() -> None:
    resources = (raw(uri="note:1", name="n"),)
    made = table(catalog("b", resources=resources), catalog("a", resources=resources))
    assert made.resource("note:1").server == "a"
    wrapped = made.resource("mesh://b/note%3A1")
    assert (wrapped.server, wrapped.name) == ("b", "note:1")


def test_a_uri_finds_the_most_literal_template() -> None:
    made = table(
        catalog("any", resource_templates=(raw(uriTemplate="{+uri}", name="n"),)),
        catalog("file", resource_templates=(raw(uriTemplate="file:///{+path}", name="n"),)),
    )
    assert made.resource("file:///a/b").server == "file"
    assert made.resource("x:y").server == "any"
    assert made.resource("x" * 5_000) is None
    assert made.template("{+uri}").server == "any"


def test_a_template_that_two_servers_have_reaches_both() -> None:
    made = table(
        *(
            catalog(name, resource_templates=(raw(uriTemplate="note://{id}/text", name="n"),))
            for name in ("b", "a")
        )
    )
    assert [one.listed for one in made.templates] == [
        "mesh://b/note://{id}/text",
        "note://{id}/text",
    ]
    kept, moved = made.resource("note://1/text"), made.resource("mesh://b/note://a%2Fb/text")
    assert (kept.server, kept.name) == ("a", "note://1/text")
    assert (moved.server, moved.name) == ("b", "note://a%2Fb/text")
    assert moved.listed == "mesh://b/note://a%2Fb/text"
    template = made.template("mesh://b/note://{id}/text")
    assert template.own == "note://{id}/text"
    assert msgspec.json.decode(template.entry)["uriTemplate"] == template.listed
    assert made.hidden == 0


@pytest.mark.parametrize(
    ("template", "uri", "matches"),
    [
        ("note:{id}", "note:1", True),
        ("note:{id}", "note:", True),
        ("note:{id}", "note:1/2", False),
        ("note:{+id}", "note:1/2", True),
        ("note:{id}.txt", "note:a.txt", True),
        ("note:{id}.txt", "note:a.pdf", False),
        ("a/{x}/b/{y}", "a/1/b/2", True),
        ("a/{x}/b/{y}", "a/1/2/b/2", False),
        ("a{?q,r}", "a?q=1&r=2", True),
        ("plain", "plain", True),
        ("plain", "plain2", False),
        ("{a}{b}", "xy", True),
        ("x{a", "x{a", True),
    ],
)
def test_a_template_matches_what_it_makes(template: str, uri: str, matches: bool) -> None:
    assert uri_pattern(template).matches(uri) is matches


def test_a_hostile_template_costs_linear_time() -> None:
    pattern = uri_pattern("{+a}x" * 1_000)
    assert not pattern.matches("x" * 999 + "y" * 3_000)


def test_a_server_with_a_long_time_limit_passes_it_to_its_tools() -> None:
    definition = msgspec.Raw(b'{"name":"dig","inputSchema":{"type":"object"}}')
    tools = (CatalogTool(name="dig", definition=definition),)
    catalog = Catalog(tenant="_", server="mine", tools=tools, timeout_s=120.0)
    assert offer(catalog).tools[0].timeout_s == 120.0
