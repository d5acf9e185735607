"""What reads, completions, tools and capabilities say of resources that are listed otherwise."""

import msgspec
import pytest

from gateway.core.abilities import extensions_of, read_abilities
from gateway.core.apps import relinked_app
from gateway.core.results import COMPLETIONS_MAX, bounded_completion, relisted
from gateway.core.routing import Item, Table, offer
from mcp_proto.contracts.registry import Catalog, CatalogTool

UI = "io.modelcontextprotocol/ui"


def test_contents_come_back_under_the_uri_that_was_asked_for() -> None:
    item = Item(listed="mesh://b/x%3A1", server="b", name="x:1", entry=b"")
    result = b'{"contents":[{"uri":"x\\u003a1","text":"t"},{"uri":"x:2","text":"u"}]}'
    made = msgspec.json.decode(relisted(result, item))["contents"]
    assert [one["uri"] for one in made] == ["mesh://b/x%3A1", "x:2"]
    assert relisted(b'{"contents":1}', item) == b'{"contents":1}'


@pytest.mark.parametrize("count", [COMPLETIONS_MAX, COMPLETIONS_MAX + 1])
def test_a_completion_has_at_most_a_hundred_values(count: int) -> None:
    given = msgspec.json.encode({"completion": {"values": [str(n) for n in range(count)]}})
    made = msgspec.json.decode(bounded_completion(given))["completion"]
    assert len(made["values"]) == COMPLETIONS_MAX
    assert made.get("hasMore", False) is (count > COMPLETIONS_MAX)
    if count > COMPLETIONS_MAX:
        assert made["total"] == count


def test_an_app_is_named_as_it_is_listed() -> None:
    ui = {"resourceUri": "ui://view", "csp": {"connectDomains": []}, "visibility": ["app"]}
    entry = msgspec.json.encode(
        {"name": "t", "_meta": {"ui": ui, "ui/resourceUri": "ui://view", "other": 1}}
    )
    made = msgspec.json.decode(relinked_app(entry, {"ui://view": "mesh://b/ui"}))
    assert made["_meta"] == {
        "ui": {**ui, "resourceUri": "mesh://b/ui"},
        "ui/resourceUri": "mesh://b/ui",
        "other": 1,
    }
    assert relinked_app(entry, {"ui://else": "x"}) is entry


def test_a_tool_follows_its_resource_when_two_servers_have_one_uri() -> None:
    def catalog(server: str) -> Catalog:
        definition = {"name": "t", "_meta": {"ui": {"resourceUri": "ui://view"}}}
        return Catalog(
            tenant="_",
            server=server,
            tools=(CatalogTool(name="t", definition=msgspec.Raw(msgspec.json.encode(definition))),),
            resources=(msgspec.Raw(b'{"uri":"ui://view","name":"v"}'),),
        )

    table = Table("t", (offer(catalog("a")), offer(catalog("b"))))
    uris = {
        name: msgspec.json.decode(tool.entry)["_meta"]["ui"]["resourceUri"]
        for name, tool in table.tools.items()
    }
    assert uris == {"a__t": "ui://view", "b__t": "mesh://b/ui%3A%2F%2Fview"}
    found = table.tool("b:t")
    assert found is not None
    assert found.entry == table.tools["b__t"].entry


def test_extensions_are_the_union_of_what_is_relayed() -> None:
    servers = [
        read_abilities(msgspec.Raw(raw))
        for raw in (
            b'{"extensions":{"io.modelcontextprotocol/ui":{},"com.example/odd":{}}}',
            b'{"extensions":{"io.modelcontextprotocol/skills":{"directoryRead":false}}}',
            b'{"extensions":{"io.modelcontextprotocol/skills":{"directoryRead":true}}}',
            b'{"extensions":1,"resources":1}',
            b"1",
        )
    ]
    assert msgspec.json.decode(msgspec.json.encode(extensions_of(servers))) == {
        "io.modelcontextprotocol/skills": {"directoryRead": True},
        UI: {},
    }
    assert not servers[3].subscribe
    assert read_abilities(msgspec.Raw(b'{"resources":{"subscribe":true}}')).subscribe
