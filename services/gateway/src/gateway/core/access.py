"""Who may use what: one decision for the list and for the call.

The rule itself is ``mcp_proto.policy.permits`` over the resolved pair (server, name), so a listed
name, an alias and a short form cannot differ. What is here turns it into a ``View``: the part of a
tenant's table that one grant can see, with each decision kept, since table and grant are frozen.
"""

import hashlib
from collections.abc import Iterable

import msgspec

from gateway.core.routing import Item, Table, Template, Tool
from mcp_proto.contracts.tenant_auth import Grant
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.names import RESULTS_PREFIX, RESULTS_SERVER
from mcp_proto.policy import CALL_TOOLS, Denial, permits

__all__ = ["View", "clip", "grant_digest"]


_CALLS = frozenset((CALL_TOOLS,))


def grant_digest(grant: Grant, roles: Iterable[str] = ()) -> str:
    """A name for a grant and roles: equal ones share views, and cursors are bound to it."""
    canonical = msgspec.json.encode(
        (sorted(grant.permissions), sorted(grant.allow), sorted(grant.deny), sorted(roles))
    )
    return hashlib.sha256(canonical).hexdigest()[:32]


class View:
    """What one grant sees of one table."""

    def __init__(self, table: Table, grant: Grant, *, binding: str) -> None:
        self.table = table
        self.grant = grant
        self.binding = binding
        """Names tenant and grant: cursors of one view do not work in another."""
        self._callable: dict[str, Tool] = {}

    def _denial(self, server: str, name: str, permission: str = "") -> Denial | None:
        if server == RESULTS_SERVER:
            # What a call returned belongs to its caller, whatever rules let it call.
            own = msgspec.structs.replace(self.grant, permissions=_CALLS, allow=("*",))
            return permits(own, server, name, permission)
        return permits(self.grant, server, name, permission)

    def callable_tool(self, name: str) -> Tool:
        """The tool behind any accepted spelling of its name, if this grant may call it.

        Raises:
            MeshError: ``params`` for an unknown tool, ``denied`` naming the missing grant.
        """
        known = self._callable.get(name)
        if known is not None:
            return known
        tool = self.table.tool(name)
        if tool is None:
            raise MeshError(ErrorKind.PARAMS, f"unknown tool: {clip(name)}")
        denial = self._denial(tool.server, tool.name, tool.permission)
        if denial is not None:
            raise _denied(f"tool {tool.listed}", denial)
        # At most two spellings per tool reach this line, so the memo is bounded by the table.
        self._callable[name] = tool
        return tool

    def prompt(self, name: str) -> Item:
        """The prompt behind a name.

        Raises:
            MeshError: ``params`` for an unknown prompt, ``denied``.
        """
        prompt = self.table.prompt(name)
        if prompt is None:
            raise MeshError(ErrorKind.PARAMS, f"unknown prompt: {clip(name)}")
        denial = self._denial(prompt.server, prompt.name)
        if denial is not None:
            raise _denied(f"prompt {prompt.listed}", denial)
        return prompt

    def resource(self, uri: str) -> Item:
        """The owner of a URI.

        Raises:
            MeshError: ``not_found`` with ``data.uri``, ``denied``.
        """
        # Before the table: a stored result is read at any endpoint, and no template of a server
        # may stand in its way.
        if uri.startswith(RESULTS_PREFIX):
            resource = Item(listed=uri, server=RESULTS_SERVER, name=uri, entry=b"")
        else:
            resource = self.table.resource(uri)
        if resource is None:
            raise MeshError(ErrorKind.NOT_FOUND, "unknown resource", data={"uri": clip(uri, 2_048)})
        denial = self._denial(resource.server, resource.name, resource.permission)
        if denial is not None:
            raise _denied("resource", denial, uri=clip(uri, 2_048))
        return resource

    def template(self, uri_template: str) -> Template:
        """The owner of a resource template.

        Raises:
            MeshError: ``params`` for an unknown template, ``denied``.
        """
        template = self.table.template(uri_template)
        if template is None:
            raise MeshError(ErrorKind.PARAMS, f"unknown resource template: {clip(uri_template)}")
        denial = self._denial(template.server, template.own, template.permission)
        if denial is not None:
            raise _denied("resource template", denial)
        return template

    def tools(self) -> list[Tool]:
        """Every tool that may be called, which is every tool that is listed."""
        return [
            tool
            for tool in self.table.tools.values()
            if self._denial(tool.server, tool.name, tool.permission) is None
        ]

    def prompts(self) -> list[Item]:
        """Every prompt that may be read."""
        return [
            one for one in self.table.prompts.values() if self._denial(one.server, one.name) is None
        ]

    def resources(self) -> list[Item]:
        """Every resource that may be read."""
        return [
            one
            for one in self.table.resources.values()
            if self._denial(one.server, one.name, one.permission) is None
        ]

    def templates(self) -> list[Template]:
        """Every template whose resources may be read."""
        return [
            one
            for one in self.table.templates
            if self._denial(one.server, one.own, one.permission) is None
        ]


def _denied(what: str, denial: Denial, **data: str) -> MeshError:
    return MeshError(
        ErrorKind.DENIED,
        f"{what} is denied: {denial.reason}",
        data={"missing": denial.missing, **data},
    )


def clip(text: str, chars: int = 128) -> str:
    """Text of a client inside an error: bounded, so that a hostile name cannot grow a log."""
    return text if len(text) <= chars else text[:chars] + "…"
