"""Tests of gateway.store: catalogues in memory, and who hears of changes."""

import asyncio

import msgspec
import pytest

from gateway.core.access import grant_digest
from gateway.core.merge import ListKind, ServerFacts
from gateway.store import Catalogs, Viewer
from mcp_proto import catalogs
from mcp_proto.contracts.registry import Catalog, CatalogTool
from mcp_proto.contracts.tenant_auth import Grant
from mcp_proto.contracts.virtuals import VirtualRecord, VirtualServer, VirtualTool
from mcp_proto.errors import MeshError
from mesh_chassis.testing.conditions import eventually

ALL = Grant(permissions=frozenset({"CallTools"}), allow=("*",))


def viewer(tenant: str = "acme", grant: Grant = ALL) -> Viewer:
    return Viewer(tenant=tenant, grant=grant, digest=grant_digest(grant))


def put(store: Catalogs, server: str, *tools: str, tenant: str = "_", pad: int = 0) -> None:
    made = Catalog(
        tenant=tenant,
        server=server,
        tools=tuple(
            CatalogTool(
                name=name,
                definition=msgspec.Raw(b'{"name":"%b","x":"%b"}' % (name.encode(), b"x" * pad)),
            )
            for name in tools
        ),
    )
    stored = catalogs.encode_catalog(made)
    for key, part in stored.parts:
        store.feed(key, part, 1)
    store.feed(stored.key, stored.head, 1)


def remove(store: Catalogs, server: str, tenant: str = "_") -> None:
    store.feed(catalogs.catalog_key(tenant, server), None, 2)


def tools(store: Catalogs, who: Viewer) -> list[str]:
    page = store.lists(who).listing(ListKind.TOOLS).page(None)
    return [one["name"] for one in msgspec.json.decode(page)["tools"]]


@pytest.fixture
def store() -> Catalogs:
    return Catalogs(ServerFacts(name="gw", version="1"))


def test_a_tenant_sees_shared_servers_and_its_own(store: Catalogs) -> None:
    put(store, "fs", "read")
    put(store, "own", "x", tenant="acme")
    put(store, "theirs", "y", tenant="other")
    assert tools(store, viewer()) == ["fs__read", "own__x"]
    assert tools(store, viewer("other")) == ["fs__read", "theirs__y"]


def test_a_list_is_made_once_until_something_changes(store: Catalogs) -> None:
    put(store, "fs", "read")
    first = store.lists(viewer())
    assert store.lists(viewer()) is first
    put(store, "theirs", "y", tenant="other")
    assert store.lists(viewer()) is first
    put(store, "fs", "read", "write")
    assert tools(store, viewer()) == ["fs__read", "fs__write"]
    remove(store, "fs")
    assert tools(store, viewer()) == []


def test_a_catalogue_in_parts_appears_whole_or_not_at_all(store: Catalogs) -> None:
    put(store, "big", *(f"t{n}" for n in range(300)), pad=3_000)
    assert len(tools(store, viewer())) == 300


def test_an_unreadable_entry_leaves_the_others_in_force(store: Catalogs) -> None:
    put(store, "fs", "read")
    store.feed(catalogs.catalog_key("_", "fs"), b"garbage", 2)
    store.feed("nonsense", b"{}", 2)
    store.reset()
    assert tools(store, viewer()) == ["fs__read"]


async def test_a_listener_hears_only_of_what_its_own_view_shows(store: Catalogs) -> None:
    narrow = Grant(permissions=frozenset({"CallTools"}), allow=("seen:*",))
    heard: list[frozenset[ListKind]] = []
    listener = store.listen(lambda: viewer(grant=narrow), heard.append)
    assert listener is not None
    put(store, "hidden", "x")
    put(store, "seen", "y")
    put(store, "seen", "y", "z")
    await eventually(lambda: bool(heard))
    assert heard == [frozenset({ListKind.TOOLS})]
    listener.close()
    remove(store, "seen")
    await asyncio.sleep(0)
    assert len(heard) == 1
    store.close()


async def test_a_listener_that_fails_does_not_end_the_others(store: Catalogs) -> None:
    heard: list[frozenset[ListKind]] = []

    def fail(_: frozenset[ListKind]) -> None:
        raise RuntimeError("broken")

    store.listen(viewer, fail)
    store.listen(viewer, heard.append)
    put(store, "fs", "read")
    await eventually(lambda: bool(heard))
    store.close()


def shows(store: Catalogs, endpoint: str, who: Viewer | None = None) -> list[str]:
    page = store.lists(who or viewer(), endpoint).listing(ListKind.TOOLS).page(None)
    return [one["name"] for one in msgspec.json.decode(page)["tools"]]


def put_virtual(store: Catalogs, *chosen: VirtualTool, tenant: str = "_") -> None:
    definition = VirtualServer(name="desk", tenant=tenant, tools=chosen)
    record = msgspec.json.encode(VirtualRecord(definition=definition))
    store.feed_virtual(f"{tenant}.desk", record, 1)


def test_an_endpoint_of_a_server_shows_that_server_alone(store: Catalogs) -> None:
    put(store, "fs", "read", "x" * 100)
    put(store, "other", "read")
    assert shows(store, "u/fs") == ["read", "x" * 100]
    assert store.lists(viewer(), "u/fs") is store.lists(viewer(), "u/fs")
    for missing in ("u/none", "v/none", "w/fs", "nonsense"):
        with pytest.raises(MeshError, match="no such endpoint"):
            store.lists(viewer(), missing)
    narrow = Grant(permissions=frozenset({"CallTools"}), allow=("other:*",))
    for _ in range(2):
        with pytest.raises(MeshError, match="no such endpoint"):
            store.lists(viewer(grant=narrow), "u/fs")
    put(store, "own", "x", tenant="other")
    with pytest.raises(MeshError):
        store.lists(viewer(), "u/own")


def test_a_virtual_server_is_seen_changed_and_gone(store: Catalogs) -> None:
    put(store, "fs", "read", "write")
    put_virtual(store, VirtualTool(server="fs", tool="*"))
    assert shows(store, "v/desk") == ["read", "write"]
    everything = store.lists(viewer())
    put_virtual(store, VirtualTool(server="fs", tool="read", name="open"))
    assert shows(store, "v/desk") == ["open"]
    assert store.lists(viewer()) is everything
    put(store, "fs", "read", "more")
    assert shows(store, "v/desk") == ["open"]
    store.feed_virtual("_.desk", b"{", 2)
    with pytest.raises(MeshError):
        store.lists(viewer(), "v/desk")
    store.feed_virtual("_.desk.x", b"{", 2)
    store.feed_virtual("_.desk", None, 3)


def test_roles_choose_the_view_of_a_virtual_server(store: Catalogs) -> None:
    put(store, "fs", "read", "write")
    put_virtual(
        store,
        VirtualTool(server="fs", tool="write", roles=("Admin",)),
        VirtualTool(server="fs", tool="*"),
    )

    def of(*roles: str) -> Viewer:
        return Viewer(tenant="acme", grant=ALL, digest=grant_digest(ALL, roles), roles=roles)

    assert shows(store, "v/desk", of("Admin")) == ["read", "write"]
    assert shows(store, "v/desk", of("User")) == ["read"]
    assert shows(store, "u/fs", of("User")) == ["read", "write"]


async def test_a_listener_of_an_endpoint_hears_of_it_alone(store: Catalogs) -> None:
    put(store, "fs", "read")
    put_virtual(store, VirtualTool(server="fs", tool="read"))
    heard: list[frozenset[ListKind]] = []
    listener = store.listen(viewer, heard.append, "v/desk")
    assert listener is not None
    put(store, "other", "x")
    put(store, "fs", "read", "write")
    listener.check()
    assert not heard
    put_virtual(store, VirtualTool(server="fs", tool="write"))
    await eventually(lambda: len(heard) == 1)
    store.feed_virtual("_.desk", None, 2)
    await eventually(lambda: len(heard) == 2)
    listener.check()
    assert len(heard) == 2
    listener.close()
    store.close()
