"""Resources, prompts and completion: what a client reads to work with."""

from collections.abc import Mapping
from typing import Any

import msgspec

from mcp_proto.endpoints import of_server
from mcp_proto.errors import ErrorKind
from mesh_sdk.client.errors import MeshCallError
from mesh_sdk.client.listening import LISTS, Listening
from mesh_sdk.client.opened import Opened
from mesh_sdk.client.results import (
    Completion,
    ListChanged,
    PromptInfo,
    PromptResult,
    ResourceContents,
    ResourceInfo,
    ResourceUpdated,
    decoded,
)

__all__ = ["ContextMethods"]


class ContextMethods(Opened):
    """The part of ``Client`` that is about resources, prompts and completion."""

    async def list_resources(self, agent: str = "") -> tuple[ResourceInfo, ...]:
        """Every resource the caller may read; with ``agent`` those of one server."""
        endpoint = of_server(agent) if agent else ""
        rows = await self._pages("resources/list", "resources", endpoint)
        return tuple(decoded(raw, ResourceInfo) for raw in rows)

    async def list_resource_templates(self, agent: str = "") -> tuple[ResourceInfo, ...]:
        """Every resource template, with ``uri_template`` set."""
        endpoint = of_server(agent) if agent else ""
        rows = await self._pages("resources/templates/list", "resourceTemplates", endpoint)
        return tuple(decoded(raw, ResourceInfo) for raw in rows)

    async def read_resource(
        self, uri: str, *, agent: str = "", timeout_s: float | None = None
    ) -> tuple[ResourceContents, ...]:
        """Read a resource.

        Raises:
            MeshCallError: ``params`` with ``data.uri`` when there is none.
        """
        asked = self._asked(timeout_s, of_server(agent) if agent else "")
        raw = await self._ready.ask("resources/read", {"uri": uri}, asked)
        return decoded(raw, _Contents).contents

    async def get_resource(
        self, agent: str, name: str, *, timeout_s: float | None = None
    ) -> tuple[ResourceContents, ...]:
        """Read a resource of an agent by its name or URI.

        Raises:
            MeshCallError: ``not_found`` when the agent has none of that name.
        """
        for resource in await self.list_resources(agent):
            if name in {resource.name, resource.uri}:
                return await self.read_resource(resource.uri, agent=agent, timeout_s=timeout_s)
        raise MeshCallError(ErrorKind.NOT_FOUND, f"{agent} has no resource {name[:100]!r}")

    def subscribe(self, *uris: str, agent: str = "") -> Listening[ResourceUpdated]:
        """Hear when resources change: ``async with client.subscribe(uri) as updates: async for …``.

        Entering the block waits until the mesh has taken it; ``refused`` then holds URIs that no
        server watches. Reconnects by itself and tells then what may have been missed.
        """
        self._check_open()
        return Listening(
            self._ready,
            self._tasks,
            ResourceUpdated,
            resources=uris,
            endpoint=of_server(agent) if agent else "",
        )

    def list_changes(self, *lists: str) -> Listening[ListChanged]:
        """Hear when lists change: of ``tools``, ``prompts``, ``resources``; none = all of them."""
        if unknown := set(lists) - set(LISTS):
            raise MeshCallError(ErrorKind.PARAMS, f"no lists: {', '.join(sorted(unknown))}")
        self._check_open()
        return Listening(self._ready, self._tasks, ListChanged, lists=lists or LISTS)

    async def list_prompts(self, agent: str = "") -> tuple[PromptInfo, ...]:
        """Every prompt the caller may use; with ``agent`` those of one server."""
        endpoint = of_server(agent) if agent else ""
        rows = await self._pages("prompts/list", "prompts", endpoint)
        return tuple(decoded(raw, PromptInfo) for raw in rows)

    async def get_prompt(
        self,
        name: str,
        args: Mapping[str, str] | None = None,
        *,
        agent: str = "",
        timeout_s: float | None = None,
    ) -> PromptResult:
        """Fill in a prompt."""
        params: dict[str, Any] = {"name": name, "arguments": dict(args or {})}
        asked = self._asked(timeout_s, of_server(agent) if agent else "")
        raw = await self._ready.ask("prompts/get", params, asked)
        found: PromptResult = decoded(raw, PromptResult)
        return msgspec.structs.replace(found, raw=bytes(raw))

    async def complete(
        self,
        argument: str,
        value: str,
        *,
        prompt: str = "",
        template: str = "",
        context: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> Completion:
        """Values for an argument of a prompt or of a resource template.

        Args:
            argument: its name.
            value: what has been typed.
            prompt: name of the prompt, or
            template: URI template of the resource.
            context: arguments already chosen.
            timeout_s: budget.
        """
        if bool(prompt) == bool(template):
            raise MeshCallError(ErrorKind.PARAMS, "complete needs a prompt or a template")
        reference = (
            {"type": "ref/prompt", "name": prompt}
            if prompt
            else {"type": "ref/resource", "uri": template}
        )
        params: dict[str, Any] = {
            "ref": reference,
            "argument": {"name": argument, "value": value},
        }
        if context:
            params["context"] = {"arguments": dict(context)}
        raw = await self._ready.ask("completion/complete", params, self._asked(timeout_s))
        return decoded(raw, _Completed).completion


class _Contents(msgspec.Struct):
    contents: tuple[ResourceContents, ...] = ()


class _Completed(msgspec.Struct):
    completion: Completion
