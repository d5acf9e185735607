"""A tool that a service offers itself, as data: how it is listed and what its caller needs."""

from collections.abc import Mapping

import msgspec

from mcp_proto.contracts.registry import CatalogTool

__all__ = ["ToolSpec"]


class ToolSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One tool as it is listed.

    Attributes:
        name: bare name, unique among what is mounted beside it.
        title: for people.
        description: for models; what it does, what it returns, its limits.
        input_schema: JSON Schema 2020-12 with root type object.
        output_schema: schema of ``structuredContent``; None = it promises none.
        permission: permission a caller needs; "" = the tool rules alone decide.
        read_only: changes nothing. ``destructive``: may overwrite or delete.
        idempotent: repeating it with the same arguments changes nothing more.
        open_world: it reaches things outside the mesh.
    """

    name: str
    title: str
    description: str
    input_schema: Mapping[str, object]
    output_schema: Mapping[str, object] | None = None
    permission: str = ""
    read_only: bool = False
    destructive: bool = False
    idempotent: bool = False
    open_world: bool = False

    def catalog_tool(self) -> CatalogTool:
        """The entry of the catalogue."""
        definition: dict[str, object] = {
            "name": self.name,
            "title": self.title,
            "description": self.description,
            "inputSchema": self.input_schema,
            **({} if self.output_schema is None else {"outputSchema": self.output_schema}),
            "annotations": {
                "title": self.title,
                "readOnlyHint": self.read_only,
                "destructiveHint": self.destructive,
                "idempotentHint": self.idempotent,
                "openWorldHint": self.open_world,
            },
        }
        return CatalogTool(
            name=self.name,
            definition=msgspec.Raw(msgspec.json.encode(definition)),
            permission=self.permission,
        )
