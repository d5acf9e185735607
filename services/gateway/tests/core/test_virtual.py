"""What a virtual server shows: choice, names, words, roles. The grant still decides."""

import json
from typing import Any

import msgspec
import pytest

from gateway.core.access import View
from gateway.core.directory import Directory, Shown
from gateway.core.merge import ListKind, Lists, ServerFacts
from gateway.core.routing import offer
from gateway.core.search_tools import ToolsMode
from mcp_proto.contracts.registry import Catalog, CatalogTool
from mcp_proto.contracts.tenant_auth import Grant
from mcp_proto.contracts.virtuals import (
    Argument,
    VirtualPrompt,
    VirtualResource,
    VirtualServer,
    VirtualTool,
)
from mcp_proto.errors import ErrorKind, MeshError

ALL = Grant(permissions=frozenset({"CallTools"}), allow=("*",))


def tool(name: str, **members: object) -> CatalogTool:
    body = msgspec.json.encode({"name": name, "inputSchema": {"type": "object"}, **members})
    return CatalogTool(name=name, definition=msgspec.Raw(body))


def raw(**members: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(members))


FS = Catalog(
    tenant="_",
    server="fs",
    tools=(
        tool("read", description="reads", annotations={"readOnlyHint": True}),
        tool("write"),
        tool("admin_wipe"),
    ),
    prompts=(raw(name="summary", description="sums up"),),
    resources=(raw(uri="file:///a", name="a"), raw(uri="file:///secret", name="s")),
    resource_templates=(raw(uriTemplate="file:///{path}", name="any"),),
)
GIT = Catalog(tenant="acme", server="git", tools=(tool("log"), tool("read")))


class World:
    def __init__(self, *definitions: VirtualServer) -> None:
        self.hidden: list[tuple[str, str, int]] = []
        self.directory = Directory(lambda *said: self.hidden.append(said))
        for catalog in (FS, GIT):
            self.directory.set_offer(catalog.tenant, catalog.server, offer(catalog))
        for one in definitions:
            self.directory.set_virtual(one.tenant, one.name, one)

    def shown(self, *roles: str, tenant: str = "acme", name: str = "desk") -> Shown:
        found = self.directory.shown(tenant, f"v/{name}", roles)
        assert found is not None
        return found

    def view(self, *roles: str, grant: Grant = ALL, tenant: str = "acme") -> View:
        return View(self.shown(*roles, tenant=tenant).table, grant, binding="")

    def names(self, *roles: str, grant: Grant = ALL, tenant: str = "acme") -> list[str]:
        return sorted(one.listed for one in self.view(*roles, grant=grant, tenant=tenant).tools())


def desk(*tools: VirtualTool, **members: Any) -> VirtualServer:
    return VirtualServer(name="desk", tools=tools, **members)


def take(server: str, tool: str, **members: Any) -> VirtualTool:
    return VirtualTool(server=server, tool=tool, **members)


def test_tools_of_several_servers_stand_under_their_own_or_other_names() -> None:
    world = World(desk(take("fs", "read"), take("git", "read", name="show", title="Show")))
    assert world.names() == ["read", "show"]
    shown = world.view().callable_tool("show")
    assert (shown.server, shown.name) == ("git", "read")
    entry = json.loads(shown.entry)
    assert (entry["name"], entry["title"]) == ("show", "Show")
    own = json.loads(world.view().callable_tool("read").entry)
    assert own == json.loads(bytes(FS.tools[0].definition))


def test_a_name_that_is_not_chosen_is_unknown_by_every_spelling() -> None:
    view = World(desk(take("fs", "read", name="open"))).view()
    for name in ("read", "write", "fs__read", "fs:read", "fs:write"):
        with pytest.raises(MeshError) as caught:
            view.callable_tool(name)
        assert caught.value.kind is ErrorKind.PARAMS


def test_a_glob_takes_what_no_item_names_and_may_rename_all_of_it() -> None:
    world = World(desk(take("fs", "write", name="save"), take("fs", "*", name="file_*")))
    assert world.names() == ["file_admin_wipe", "file_read", "save"]


def test_the_first_glob_that_covers_a_tool_decides_and_its_roles_are_not_passed_by() -> None:
    world = World(desk(take("fs", "admin_*", roles=("Admin",)), take("fs", "*")))
    assert world.names("Admin") == ["admin_wipe", "read", "write"]
    assert world.names("User") == ["read", "write"]


def test_an_item_for_a_role_is_hidden_and_unknown_to_others() -> None:
    world = World(
        desk(
            take("fs", "write", roles=("Admin", "Editor")),
            take("fs", "write", name="draft", arguments={"x": Argument(value=1)}),
            take("fs", "*"),
        )
    )
    assert world.names("Editor", "Other") == ["admin_wipe", "draft", "read", "write"]
    assert world.names("User") == ["admin_wipe", "draft", "read"]
    with pytest.raises(MeshError, match="unknown tool"):
        world.view("User").callable_tool("write")


def test_callers_who_differ_in_roles_that_no_item_names_share_a_table() -> None:
    world = World(desk(take("fs", "write", roles=("Admin",)), take("fs", "read")))
    assert world.shown("User") is world.shown("Viewer")
    assert world.shown("User") is not world.shown("Admin")


def test_a_grant_decides_about_the_owner_and_its_name_whatever_the_shown_name() -> None:
    narrow = Grant(permissions=frozenset({"CallTools"}), allow=("fs:read",), deny=("git:*",))
    world = World(
        desk(take("fs", "read", name="x"), take("fs", "write", name="read"), take("git", "*"))
    )
    assert world.names(grant=narrow) == ["x"]
    with pytest.raises(MeshError) as caught:
        world.view(grant=narrow).callable_tool("read")
    assert caught.value.kind is ErrorKind.DENIED
    assert caught.value.data["missing"] == "an allow rule for fs:write"


def test_another_tenant_finds_only_shared_servers_in_a_shared_virtual() -> None:
    world = World(desk(take("fs", "read"), take("git", "log")))
    assert world.names() == ["log", "read"]
    assert world.names(tenant="other") == ["read"]


def test_a_tenants_virtual_is_not_there_for_another_tenant() -> None:
    world = World(desk(take("fs", "read"), tenant="acme"))
    assert world.directory.shown("other", "v/desk") is None
    assert world.directory.shown("acme", "v/missing") is None


def test_a_name_that_is_taken_is_left_out_and_counted() -> None:
    world = World(desk(take("fs", "read"), take("git", "*")))
    assert world.names() == ["log", "read"]
    assert world.view().callable_tool("read").server == "fs"
    assert world.hidden == [("acme", "v/desk", 1)]


def test_fixed_arguments_leave_the_schema_and_their_headers() -> None:
    schema = {
        "type": "object",
        "properties": {
            "place": {"type": "string", "x-mcp-header": "Place"},
            "zone": {"type": "string", "x-mcp-header": "Zone"},
        },
        "required": ["place", "zone"],
    }
    world = World(desk(take("geo", "at", arguments={"zone": Argument(value="eu")})))
    geo = Catalog(tenant="_", server="geo", tools=(tool("at", inputSchema=schema),))
    world.directory.set_offer("_", "geo", offer(geo))
    found = world.view().callable_tool("at")
    assert json.loads(found.entry)["inputSchema"]["required"] == ["place"]
    assert [one.header for one in found.headers] == ["mcp-param-place"]
    assert found.arguments is not None


def test_prompts_and_resources_are_renamed_and_found_again() -> None:
    world = World(
        desk(
            prompts=(VirtualPrompt(server="fs", prompt="sum*", name="my_*", description="Mine"),),
            resources=(
                VirtualResource(server="fs", uri="file:///a", shown_uri="desk://a", title="A"),
            ),
        )
    )
    view = world.view()
    prompt = view.prompt("my_summary")
    assert (prompt.name, json.loads(prompt.entry)["description"]) == ("summary", "Mine")
    resource = view.resource("desk://a")
    assert resource.name == "file:///a"
    assert json.loads(resource.entry) == {"uri": "desk://a", "name": "a", "title": "A"}
    for uri in ("file:///a", "file:///secret"):
        with pytest.raises(MeshError, match="unknown resource"):
            view.resource(uri)


def test_a_template_reaches_no_resource_that_is_for_other_roles() -> None:
    world = World(
        desk(
            resources=(
                VirtualResource(server="fs", uri="file:///secret", roles=("Admin",)),
                VirtualResource(server="fs", uri="file:///{path}"),
            )
        )
    )
    assert world.view("User").resource("file:///other").server == "fs"
    assert world.view("Admin").resource("file:///secret").listed == "file:///secret"
    with pytest.raises(MeshError, match="unknown resource"):
        world.view("User").resource("file:///secret")


def test_the_endpoint_presents_itself_in_its_own_words() -> None:
    world = World(
        desk(
            take("fs", "read"),
            title="Desk",
            description="For the desk",
            instructions="Be brief.",
            tool_list="both",
        )
    )
    shown = world.shown()
    lists = Lists(world.view(), ServerFacts(name="gw", version="1"), shown.front)
    said = json.loads(lists.discover())
    assert said["instructions"].endswith("Be brief.")
    info = said["_meta"]["io.modelcontextprotocol/serverInfo"]
    assert info == {"name": "gw", "version": "1", "title": "Desk", "description": "For the desk"}
    assert lists.tools_mode is ToolsMode.BOTH


def test_a_change_of_a_server_or_of_the_definition_is_seen_at_once() -> None:
    world = World(desk(take("fs", "*"), take("late", "tool")))
    assert world.names() == ["admin_wipe", "read", "write"]
    late = Catalog(tenant="_", server="late", tools=(tool("tool"),))
    world.directory.set_offer("_", "late", offer(late))
    assert "tool" in world.names()
    assert not world.directory.set_virtual("_", "desk", desk(take("fs", "*"), take("late", "tool")))
    world.directory.set_virtual("_", "desk", desk(take("late", "tool")))
    assert world.names() == ["tool"]
    world.directory.set_virtual("_", "desk", None)
    assert world.directory.shown("acme", "v/desk") is None


def test_a_virtual_of_servers_that_are_not_there_is_vacant() -> None:
    world = World(desk(take("late", "tool")))
    assert world.shown().vacant
    assert not World(desk(take("fs", "read", roles=("Admin",)))).shown("User").vacant


def test_a_server_mounted_without_prefix_takes_no_name_from_others() -> None:
    world = World()
    kv = Catalog(tenant="_", server="kv", prefixed=False, tools=(tool("kv_get"),))
    bare = Catalog(
        tenant="_",
        server="aaa",
        prefixed=False,
        mounted=True,
        tools=(tool("kv_get"), tool("fs__read"), tool("mine")),
    )
    second = Catalog(
        tenant="_", server="bbb", prefixed=False, mounted=True, tools=(tool("mine"), tool("own"))
    )
    for one in (kv, bare, second):
        world.directory.set_offer("_", one.server, offer(one))
    shown = world.directory.shown("acme", "")
    assert shown is not None
    owners = {name: one.server for name, one in shown.table.tools.items()}
    assert owners["kv_get"] == "kv"
    assert owners["fs__read"] == "fs"
    assert (owners["mine"], owners["own"]) == ("aaa", "bbb")
    assert world.hidden == [("acme", "", 3)]


def test_lists_of_a_virtual_hold_what_the_view_holds() -> None:
    world = World(desk(take("fs", "read"), resources=(VirtualResource(server="fs", uri="*"),)))
    lists = Lists(world.view(), ServerFacts(name="gw", version="1"), world.shown().front)
    page = json.loads(lists.listing(ListKind.TEMPLATES).page(None))
    assert [one["uriTemplate"] for one in page["resourceTemplates"]] == ["file:///{path}"]
    page = json.loads(lists.listing(ListKind.RESOURCES).page(None))
    assert [one["uri"] for one in page["resources"]] == ["file:///a", "file:///secret"]
