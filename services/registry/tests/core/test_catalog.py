"""What the registry refuses to store, and what it says has changed."""

import msgspec
import pytest

from mcp_proto.catalogs import catalog_hash
from mcp_proto.contracts.registry import Catalog, CatalogTool, Put, ServerDefinition
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.limits import TOOLS_PER_TENANT_MAX
from registry.core import catalog as core


def tool(name: str = "read", definition: bytes | None = None) -> CatalogTool:
    body = definition if definition is not None else b'{"name":"%s"}' % name.encode()
    return CatalogTool(name=name, definition=msgspec.Raw(body))


def listed(**fields: object) -> Catalog:
    made = Catalog(**{"tenant": "acme", "server": "notes", "tools": (tool(),), **fields})
    return msgspec.structs.replace(made, hash=catalog_hash(made))


def put(listed_: Catalog, /, **fields: object) -> Put:
    defaults = {
        "tenant": listed_.tenant,
        "server": listed_.server,
        "instance": "runner-1",
        "hash": listed_.hash,
        "catalog": listed_,
    }
    return Put(**{**defaults, **fields})


def refusal(params: Put) -> MeshError:
    with pytest.raises(MeshError) as caught:
        core.check_put(params)
    return caught.value


def test_good_registration_passes_with_and_without_body() -> None:
    core.check_put(put(listed()))
    core.check_put(put(listed(), catalog=None))


@pytest.mark.parametrize(
    ("params", "word"),
    [
        (put(listed(), server="a__b", catalog=None), "server names"),
        (put(listed(), server="", catalog=None), "server names"),
        (put(listed(), tenant="ACME", catalog=None), "tenant"),
        (put(listed(), instance="a.b"), "instance"),
        (put(listed(), hash="0" * 63), "SHA-256"),
        (put(listed(), hash="0" * 64), "hash does not match"),
        (put(listed(), tenant="_"), "names another"),
        (put(listed(), server="other"), "names another"),
        (put(listed(tools=(tool(), tool()))), "listed twice"),
        (put(listed(tools=(tool(""),))), "tool names"),
        (put(listed(tools=(tool("x" * 129),))), "tool names"),
        (put(listed(tools=(tool(definition=b'"read"'),))), "not a tool object"),
        (put(listed(tools=(tool(definition=b"{}"),))), "not a tool object"),
        (put(listed(tools=(tool(definition=b'{"name":"write"}'),))), "another name"),
        (put(listed(prefixed=False)), "bare tool names"),
    ],
)
def test_bad_registration_is_refused_with_the_reason(params: Put, word: str) -> None:
    error = refusal(params)
    assert error.kind is ErrorKind.PARAMS
    assert word in error.message


def test_forged_hash_inside_the_catalogue_is_refused() -> None:
    forged = msgspec.structs.replace(listed(), hash="0" * 64)
    assert "hash does not match" in refusal(put(forged)).message


def test_tools_are_taken_up_to_the_limit_and_refused_above() -> None:
    names = [tool(f"t{n}") for n in range(TOOLS_PER_TENANT_MAX + 1)]
    core.check_put(put(listed(tools=tuple(names[:-1]))))
    error = refusal(put(listed(tools=tuple(names))))
    assert error.kind is ErrorKind.TOO_LARGE


def test_shared_and_own_server_of_one_name_are_rivals_and_two_tenants_are_not() -> None:
    assert core.rivals([("_", "notes")], "acme", "notes") == [("_", "notes")]
    assert core.rivals([("acme", "notes"), ("b", "x")], "_", "notes") == [("acme", "notes")]
    assert core.rivals([("b", "notes"), ("acme", "notes")], "acme", "notes") == []


def test_bare_tool_name_belongs_to_one_server() -> None:
    mine = listed(tenant="_", server="kv", prefixed=False)
    core.check_bare_names(mine, [mine, listed(tenant="_", server="x")])
    with pytest.raises(MeshError, match="belongs to server echo"):
        core.check_bare_names(mine, [listed(tenant="_", server="echo", prefixed=False)])


def test_changed_lists_names_what_differs() -> None:
    one = listed()
    assert core.changed_lists(None, one) == ("tools",)
    assert core.changed_lists(one, None) == ("tools",)
    assert core.changed_lists(one, listed(instructions="new")) == ()
    assert core.changed_lists(
        one,
        listed(
            tools=(tool("b"),),
            resource_templates=(msgspec.Raw(b"{}"),),
            prompts=(msgspec.Raw(b"{}"),),
        ),
    ) == ("tools", "resources", "prompts")


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "a__b"},
        {"tenant": "A"},
        {"transport": "http"},
        {"command": ""},
        {"command": "a\0b"},
        {"args": ("x" * 40_000,)},
        {"args": ("x",) * 257},
        {"env": {"A=B": "c"}},
        {"env": {"": "c"}},
        {"timeout_s": 0.0},
        {"timeout_s": 301.0},
        {"concurrency": 0},
    ],
)
def test_bad_definition_is_refused(fields: dict[str, object]) -> None:
    good = {"name": "time", "command": "mcp-server-time", "args": ("--x",), "env": {"A": "b"}}
    core.check_definition(ServerDefinition(**good))
    with pytest.raises(MeshError) as caught:
        core.check_definition(ServerDefinition(**{**good, **fields}))
    assert caught.value.kind is ErrorKind.PARAMS


@pytest.mark.parametrize("name", ["mesh", "results"])
def test_names_of_the_meshs_own_servers_are_refused(name: str) -> None:
    with pytest.raises(MeshError, match="reserved"):
        core.check_definition(ServerDefinition(name=name, command="true"))
