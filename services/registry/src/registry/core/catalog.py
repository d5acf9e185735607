"""What a catalogue must look like before others see it, and what changed between two.

Gateways trust ``mesh_catalog`` without looking again, so everything that could shadow another
server, collide in a list or not fit a subject is refused here.
"""

from collections.abc import Iterable

import msgspec

from mcp_proto.catalogs import catalog_hash
from mcp_proto.contracts.registry import Catalog, CatalogTool, Put, ServerDefinition
from mcp_proto.contracts.tasks import policy_problem
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.ids import is_instance_id, is_server_name, is_tenant_id
from mcp_proto.limits import NAME_CHARS_MAX, TOOLS_PER_TENANT_MAX
from mcp_proto.names import RESERVED_SERVERS, listed_name
from mcp_proto.server_definitions import prefix_problem
from mcp_proto.server_types import server_problem
from mcp_proto.subjects import PLATFORM

__all__ = [
    "LIST_ENTRIES_MAX",
    "SERVERS_MAX",
    "changed_lists",
    "check_bare_names",
    "check_definition",
    "check_name",
    "check_put",
    "hidden_tools",
    "is_built_in",
    "rivals",
]

LIST_ENTRIES_MAX = 10_000
"""Resources, templates or prompts of one server; beyond that a server should page by template."""

SERVERS_MAX = 2_000
"""Servers of all tenants together: every gateway holds every catalogue."""

_HASH_CHARS = 64
_PERMISSION_CHARS_MAX = 64
_ARGS_MAX = 256
_ENV_MAX = 256
_WORD_CHARS_MAX = 32 * 1024
"""Longest argument or variable: Linux refuses strings above 128 KiB at exec."""
_TIMEOUT_MAX_S = 300.0
_CONCURRENCY_MAX = 1024


class _Named(msgspec.Struct):
    name: str


_NAMED = msgspec.json.Decoder(_Named)


def check_put(params: Put) -> None:
    """Check a registration.

    Raises:
        MeshError: ``params`` with the reason, or ``too_large``.
    """
    check_name(params.tenant, params.server)
    if not is_instance_id(params.instance):
        raise _refused("instance id is malformed")
    if len(params.hash) != _HASH_CHARS:
        raise _refused("hash is not SHA-256 in hex")
    catalog = params.catalog
    if catalog is None:
        return
    if (catalog.tenant, catalog.server) != (params.tenant, params.server):
        raise _refused("catalogue names another tenant or server than the request")
    _check_tools(catalog.tools)
    for what, entries in (
        ("resources", catalog.resources),
        ("resource templates", catalog.resource_templates),
        ("prompts", catalog.prompts),
    ):
        if len(entries) > LIST_ENTRIES_MAX:
            raise MeshError(
                ErrorKind.TOO_LARGE, f"a server may list at most {LIST_ENTRIES_MAX} {what}"
            )
    if catalog.mounted and catalog.prefixed:
        raise _refused("a mounted catalogue has no prefix")
    if is_built_in(catalog) and catalog.tenant != PLATFORM:
        raise _refused("only servers of the platform may keep bare tool names")
    if catalog.hash != params.hash or catalog_hash(catalog) != params.hash:
        raise _refused("hash does not match the catalogue")


def check_name(tenant: str, server: str) -> None:
    """Check a tenant token and a server name.

    Raises:
        MeshError: ``params``.
    """
    if tenant != PLATFORM and not is_tenant_id(tenant):
        raise _refused("tenant id is malformed")
    if not is_server_name(server):
        raise _refused(
            "server names have 1 to 40 letters, digits, '_', '-' or '.', start with a letter "
            "or digit, do not end with '_' and do not contain '__'"
        )


def _check_tools(tools: tuple[CatalogTool, ...]) -> None:
    if len(tools) > TOOLS_PER_TENANT_MAX:
        raise MeshError(
            ErrorKind.TOO_LARGE,
            f"a server may list at most {TOOLS_PER_TENANT_MAX} tools, this one has {len(tools)}",
        )
    seen: set[str] = set()
    for tool in tools:
        if not 1 <= len(tool.name) <= NAME_CHARS_MAX:
            raise _refused(f"tool names have 1 to {NAME_CHARS_MAX} characters")
        if tool.name in seen:
            raise _refused(f"tool {tool.name} is listed twice")
        seen.add(tool.name)
        if len(tool.permission) > _PERMISSION_CHARS_MAX:
            raise _refused(f"permission of tool {tool.name} is too long")
        try:
            named = _NAMED.decode(tool.definition)
        except msgspec.DecodeError:
            raise _refused(f"definition of tool {tool.name} is not a tool object") from None
        if named.name != tool.name:
            raise _refused(f"definition of tool {tool.name} carries another name")


def rivals(names: Iterable[tuple[str, str]], tenant: str, server: str) -> list[tuple[str, str]]:
    """Entries of ``names`` that may not exist beside ``(tenant, server)``.

    A shared server and a tenant's own of the same name would both receive the tenant's calls.
    """
    return [
        (other, name)
        for other, name in names
        if name == server and other != tenant and PLATFORM in {other, tenant}
    ]


def is_built_in(catalog: Catalog) -> bool:
    """Whether its bare names are reserved."""
    return not catalog.prefixed and not catalog.mounted


def hidden_tools(catalog: Catalog, others: Iterable[Catalog]) -> tuple[str, ...]:
    """Tools of a server mounted without a prefix whose names another server has.

    Those of the other come first: built-in and prefixed ones, and mounted ones by server name.
    """
    if not catalog.mounted:
        return ()
    taken: set[str] = set()
    for other in others:
        pair = (other.tenant, other.server)
        if pair == (catalog.tenant, catalog.server) or other.tenant not in {
            PLATFORM,
            catalog.tenant,
        }:
            continue
        if other.mounted and other.server > catalog.server:
            continue
        taken.update(
            listed_name(other.server, tool.name, prefixed=other.prefixed) for tool in other.tools
        )
    names = (tool.name for tool in catalog.tools)
    own = {name: listed_name(catalog.server, name, prefixed=False) for name in names}
    return tuple(name for name, listed in own.items() if listed in taken)


def check_bare_names(catalog: Catalog, others: Iterable[Catalog]) -> None:
    """Refuse a bare tool name that another built-in toolset already has.

    Raises:
        MeshError: ``params``.
    """
    if not is_built_in(catalog):
        return
    own = {tool.name for tool in catalog.tools}
    for other in others:
        if not is_built_in(other) or other.server == catalog.server:
            continue
        clash = next((tool.name for tool in other.tools if tool.name in own), None)
        if clash is not None:
            raise _refused(f"bare tool name {clash} belongs to server {other.server}")


def changed_lists(old: Catalog | None, new: Catalog | None) -> tuple[str, ...]:
    """Which lists differ: ``tools``, ``resources``, ``prompts``, in this order."""
    empty = Catalog(tenant=PLATFORM, server="")
    before, after = _lists(old or empty), _lists(new or empty)
    return tuple(name for name in before if before[name] != after[name])


def _lists(catalog: Catalog) -> dict[str, bytes]:
    return {
        "tools": msgspec.json.encode((catalog.tools, catalog.tasks)),
        "resources": msgspec.json.encode((catalog.resources, catalog.resource_templates)),
        "prompts": msgspec.json.encode(catalog.prompts),
    }


def check_definition(definition: ServerDefinition) -> None:
    """Check a server definition that is to be stored.

    Raises:
        MeshError: ``params`` with the field and the reason.
    """
    check_name(definition.tenant, definition.name)
    if definition.name in RESERVED_SERVERS:
        raise _refused(f"the server name {definition.name} is reserved")
    problem = (
        server_problem(definition)
        or prefix_problem(definition)
        or policy_problem(definition.task, definition.task_tools)
    )
    if problem is not None:
        raise _refused(problem)
    if len(definition.args) > _ARGS_MAX or len(definition.env) > _ENV_MAX:
        raise _refused(f"at most {_ARGS_MAX} arguments and {_ENV_MAX} variables")
    words = (definition.command, definition.cwd, *definition.args, *definition.env.values())
    if any(len(word) > _WORD_CHARS_MAX or "\0" in word for word in words):
        raise _refused(f"an argument is longer than {_WORD_CHARS_MAX} characters or holds NUL")
    if any(not name or "=" in name or "\0" in name for name in definition.env):
        raise _refused("name of a variable is malformed")
    if not 0 < definition.timeout_s <= _TIMEOUT_MAX_S:
        raise _refused(f"timeout_s must be above 0 and at most {_TIMEOUT_MAX_S:g}")
    if not 1 <= definition.concurrency <= _CONCURRENCY_MAX:
        raise _refused(f"concurrency must be 1 to {_CONCURRENCY_MAX}")


def _refused(reason: str) -> MeshError:
    return MeshError(ErrorKind.PARAMS, reason)
