"""Tests of gateway.core.access and gateway.core.merge: one grant, one view, its lists."""

import base64

import msgspec
import pytest

from gateway.core.access import View, grant_digest
from gateway.core.merge import ListKind, Lists, ServerFacts
from gateway.core.routing import Table, offer
from mcp_proto.contracts.registry import Catalog, CatalogTool
from mcp_proto.contracts.tenant_auth import Grant
from mcp_proto.errors import ErrorKind, MeshError

FACTS = ServerFacts(name="gw", version="1", instructions="Hello.", page_size=2)


def tool(name: str, permission: str = "") -> CatalogTool:
    return CatalogTool(
        name=name, definition=msgspec.Raw(b'{"name":"%b"}' % name.encode()), permission=permission
    )


def view(grant: Grant, *catalogs: Catalog, tenant: str = "acme") -> View:
    made = Table(tenant, [offer(one) for one in catalogs])
    return View(made, grant, binding=f"{tenant}/{grant_digest(grant)}")


KV = Catalog(
    tenant="_",
    server="kv",
    prefixed=False,
    tools=(tool("kv_get", "ReadKV"), tool("kv_set", "WriteKV")),
)
FS = Catalog(
    tenant="_",
    server="fs",
    tools=(tool("read"), tool("write"), tool("wipe")),
    prompts=(msgspec.Raw(b'{"name":"ask"}'),),
    resources=(msgspec.Raw(b'{"uri":"f:1","name":"n"}'),),
    capabilities=msgspec.Raw(b'{"logging":{},"tools":{}}'),
    instructions="Read before you write.",
)
USER = Grant(
    permissions=frozenset({"ReadKV", "CallTools"}), allow=("kv:*", "fs:*"), deny=("fs:w*",)
)


def names(made: View, kind: ListKind = ListKind.TOOLS) -> list[str]:
    page = Lists(made, msgspec.structs.replace(FACTS, page_size=100)).listing(kind).page(None)
    return [one["name"] for one in msgspec.json.decode(page)[kind.value]]


def test_what_is_listed_is_what_can_be_called() -> None:
    made = view(USER, KV, FS)
    assert names(made) == ["fs__read", "kv_get"]
    for name in ("fs__read", "fs:read", "kv_get", "kv:kv_get"):
        assert made.callable_tool(name).name in {"read", "kv_get"}
    for name in ("fs__write", "fs:wipe", "kv_set", "kv:kv_set"):
        with pytest.raises(MeshError) as caught:
            made.callable_tool(name)
        assert caught.value.kind is ErrorKind.DENIED
        assert caught.value.data["missing"]


def test_a_denial_names_the_missing_grant() -> None:
    for grant, name, reason, missing in (
        (USER, "kv_set", "the caller lacks permission WriteKV", "permission WriteKV"),
        (Grant(), "fs__read", "no allow rule covers fs:read", "an allow rule for fs:read"),
        (
            USER,
            "fs__wipe",
            "a deny rule covers fs:wipe",
            "a grant without a deny rule for fs:wipe",
        ),
    ):
        with pytest.raises(MeshError) as caught:
            view(grant, KV, FS).callable_tool(name)
        assert caught.value.message == f"tool {name} is denied: {reason}"
        assert caught.value.data == {"missing": missing}


@pytest.mark.parametrize("name", ["FS__READ", "fs__read ", "fs__read\0", "", "x" * 10_000, "fs:"])
def test_a_name_that_is_no_tool_is_unknown_and_never_echoed_whole(name: str) -> None:
    with pytest.raises(MeshError) as caught:
        view(USER, FS).callable_tool(name)
    assert caught.value.kind is ErrorKind.PARAMS
    assert len(caught.value.message) < 200


def test_resources_and_prompts_go_through_the_same_grant() -> None:
    allowed, nobody = view(USER, FS), view(Grant(permissions=frozenset({"CallTools"})), FS)
    assert allowed.prompt("fs__ask").name == "ask"
    assert allowed.resource("f:1").server == "fs"
    assert names(nobody, ListKind.PROMPTS) == []
    for use in (nobody.prompt, nobody.resource):
        with pytest.raises(MeshError):
            use("fs__ask" if use == nobody.prompt else "f:1")


def test_an_unknown_resource_is_named() -> None:
    with pytest.raises(MeshError) as caught:
        view(USER, FS).resource("f:2")
    assert caught.value.data == {"uri": "f:2"}


def test_pages_are_sorted_and_a_cursor_continues_behind_its_entry() -> None:
    grant = Grant(permissions=frozenset({"CallTools"}), allow=("*",))
    listing = Lists(view(grant, FS), FACTS).listing(ListKind.TOOLS)
    first = msgspec.json.decode(listing.page(None))
    assert [one["name"] for one in first["tools"]] == ["fs__read", "fs__wipe"]
    grown = msgspec.structs.replace(FS, tools=(*FS.tools, tool("aaa"), tool("x")))
    later = Lists(view(grant, grown), FACTS).listing(ListKind.TOOLS)
    second = msgspec.json.decode(later.page(first["nextCursor"]))
    assert [one["name"] for one in second["tools"]] == ["fs__write", "fs__x"]
    assert "nextCursor" not in second


def test_a_page_is_made_once_and_private() -> None:
    listing = Lists(view(USER, FS), FACTS).listing(ListKind.TOOLS)
    page = listing.page(None)
    assert listing.page(None) is page
    read = msgspec.json.decode(page)
    assert (read["resultType"], read["cacheScope"], read["ttlMs"]) == ("complete", "private", 0)
    assert read["_meta"]["io.modelcontextprotocol/serverInfo"] == {"name": "gw", "version": "1"}


@pytest.mark.parametrize("cursor", ["", "x", "====", "é", "A" * 5_000, "AAAAAAAAAAAAAAAAAAAA"])
def test_a_cursor_that_was_not_given_is_refused(cursor: str) -> None:
    with pytest.raises(MeshError, match="bad cursor"):
        Lists(view(USER, FS), FACTS).listing(ListKind.TOOLS).page(cursor)


@pytest.mark.parametrize(
    ("after", "names"), [(b"fs__read", ["fs__wipe", "fs__write"]), (b"\xff", [])]
)
def test_a_forged_cursor_moves_about_in_the_own_list_and_keeps_nothing(
    after: bytes, names: list[str]
) -> None:
    grant = Grant(permissions=frozenset({"CallTools"}), allow=("*",))
    listing = Lists(view(grant, FS), FACTS).listing(ListKind.TOOLS)
    cursor = base64.urlsafe_b64encode(listing._seal(after) + after).decode()
    if names:
        page = listing.page(cursor)
        assert [one["name"] for one in msgspec.json.decode(page)["tools"]] == names
        assert listing.page(cursor) is not page
    else:
        with pytest.raises(MeshError, match="bad cursor"):
            listing.page(cursor)


def test_a_cursor_of_another_tenant_grant_or_list_is_refused() -> None:
    grant = Grant(permissions=frozenset({"CallTools"}), allow=("*",))
    own = Lists(view(grant, FS), FACTS)
    cursor = msgspec.json.decode(own.listing(ListKind.TOOLS).page(None))["nextCursor"]
    other_grant = msgspec.structs.replace(grant, deny=("x:y",))
    for foreign in (
        Lists(view(grant, FS, tenant="other"), FACTS).listing(ListKind.TOOLS),
        Lists(view(other_grant, FS), FACTS).listing(ListKind.TOOLS),
        own.listing(ListKind.PROMPTS),
    ):
        with pytest.raises(MeshError):
            foreign.page(cursor)


def test_discover_promises_what_visible_servers_offer() -> None:
    found = msgspec.json.decode(Lists(view(USER, KV, FS), FACTS).discover())
    assert found["supportedVersions"] == ["2026-07-28"]
    assert found["capabilities"]["logging"] == {}
    assert "completions" not in found["capabilities"]
    assert found["instructions"] == "Hello.\n\n# fs\nRead before you write."
    hidden = msgspec.json.decode(Lists(view(Grant(), KV, FS), FACTS).discover())
    assert "logging" not in hidden["capabilities"]
    assert hidden["instructions"] == "Hello."


def test_equal_grants_have_one_digest() -> None:
    one = Grant(permissions=frozenset({"A", "B"}), allow=("a", "b"))
    two = Grant(permissions=frozenset({"B", "A"}), allow=("b", "a"))
    assert grant_digest(one) == grant_digest(two)
    assert grant_digest(one) != grant_digest(msgspec.structs.replace(one, deny=("a",)))
