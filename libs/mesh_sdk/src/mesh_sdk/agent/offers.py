"""What an agent offers: tools, resources and prompts, as they are listed and as they are found."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import jsonschema_rs
import msgspec

from mcp_proto.codec import encode
from mcp_proto.contracts.registry import CatalogTool
from mesh_sdk.agent.handler import Handler
from mesh_sdk.agent.signature import ArgumentError, object_schema
from mesh_sdk.agent.uris import UriTemplate, is_template

__all__ = ["Completer", "Prompt", "Resource", "Tool"]

_TEXT_CHARS_MAX = 400


class Tool:
    """A tool.

    Args:
        name: its own name; listed as ``agent__name``.
        description: for models; "" = the docstring of the handler.
        parameters: JSON Schema of the arguments, or only its ``properties``; None = from the
            signature, which is the better way.
        handler: plain or ``async``; with a schema of its own it gets the arguments by name, or,
            when it has one parameter that the schema does not name, all of them as a dict.
        title: for people.
        permission: permission a caller needs; "" = the tool rules alone decide.
        read_only: changes nothing.
        destructive: may overwrite or delete.
        idempotent: repeating it changes nothing more.
        open_world: it reaches things outside the mesh.
        timeout_s: longest call, in seconds; 0 = as long as the caller allows.
        thread: False = a plain handler that never waits may run on the loop.

    Raises:
        TypeError: the signature cannot be served.
    """

    def __init__(
        self,
        name: str,
        description: str,
        parameters: Mapping[str, Any] | None,
        handler: Callable[..., Any],
        *,
        title: str = "",
        permission: str = "",
        read_only: bool | None = None,
        destructive: bool | None = None,
        idempotent: bool | None = None,
        open_world: bool | None = None,
        timeout_s: float = 0.0,
        thread: bool | None = None,
    ) -> None:
        self.name = name
        self.handler = Handler(handler, f"tool {name}", name, thread=thread)
        signature = self.handler.signature
        self.title = title
        self.description = description or signature.doc.text
        self.permission = permission
        self.timeout_s = timeout_s
        self._hints = {
            "title": title or None,
            "readOnlyHint": read_only,
            "destructiveHint": destructive,
            "idempotentHint": idempotent,
            "openWorldHint": open_world,
        }
        self.output_schema = object_schema(signature.returns)
        self.schema: dict[str, Any] = signature.schema
        self.read: Callable[[bytes | msgspec.Raw], dict[str, Any]] = signature.read
        if parameters is not None:
            self.schema = _whole_schema(parameters)
            self.read = _Checked(name, self.schema, signature.parameters).read

    def listed(self) -> CatalogTool:
        """Its entry in the catalogue."""
        hints = {key: value for key, value in self._hints.items() if value is not None}
        definition: dict[str, Any] = {
            "name": self.name,
            **({"title": self.title} if self.title else {}),
            **({"description": self.description} if self.description else {}),
            "inputSchema": self.schema,
            **({"outputSchema": self.output_schema} if self.output_schema is not None else {}),
            **({"annotations": hints} if hints else {}),
        }
        return CatalogTool(
            name=self.name, definition=msgspec.Raw(encode(definition)), permission=self.permission
        )


def _whole_schema(parameters: Mapping[str, Any]) -> dict[str, Any]:
    if parameters.get("type") == "object" and not isinstance(parameters.get("type"), Mapping):
        return dict(parameters)
    properties = {
        name: {"type": one} if isinstance(one, str) else dict(one)
        for name, one in parameters.items()
    }
    return {"type": "object", "properties": properties}


class _Checked:
    """Arguments of a tool that brings its own schema: checked against that, once."""

    def __init__(self, name: str, schema: dict[str, Any], parameters: tuple[Any, ...]) -> None:
        self._name = name
        self._validator = jsonschema_rs.Draft202012Validator(schema)
        named = set(cast("Mapping[str, Any]", schema.get("properties", {})))
        alone = len(parameters) == 1 and parameters[0].name not in named
        self._whole = parameters[0].name if alone else ""

    def read(self, arguments: bytes | msgspec.Raw) -> dict[str, Any]:
        try:
            found = msgspec.json.decode(arguments if memoryview(arguments).nbytes else b"{}")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ArgumentError(f"Invalid arguments for {self._name}: {error}") from None
        if not self._validator.is_valid(found):
            first = next(iter(self._validator.iter_errors(found)))
            path = ".".join(str(part) for part in first.instance_path)
            text = f"{path}: {first.message}" if path else first.message
            raise ArgumentError(f"Invalid arguments for {self._name}: {text[:_TEXT_CHARS_MAX]}")
        return {self._whole: found} if self._whole else found


class Resource:
    """A resource, or a family of them when its URI is a template.

    Args:
        name: for lists.
        resource_type: what it is (``file``, ``database``, …); shown in ``_meta``; "" = not said.
        uri: its URI, or a template: ``weather://{city}/now``.
        metadata: shown in ``_meta``; also the content where there is no handler.
        handler: gives the content: text, bytes, or anything that has a JSON form.
        title: for people.
        description: for models; "" = the docstring of the handler.
        mime_type: "" = by what the handler gives.
        thread: as of ``Tool``.

    Raises:
        TypeError: the handler's parameters are not those of the template.
        ValueError: the template cannot be read.
    """

    def __init__(
        self,
        name: str,
        resource_type: str,
        uri: str,
        metadata: Mapping[str, Any] | None = None,
        *,
        handler: Callable[..., Any] | None = None,
        title: str = "",
        description: str = "",
        mime_type: str = "",
        thread: bool | None = None,
    ) -> None:
        self.name = name
        self.uri = uri
        self.title = title
        self.mime_type = mime_type
        self.template = UriTemplate(uri) if is_template(uri) else None
        about = dict(metadata or {})
        self._meta = {**({"mesh/resourceType": resource_type} if resource_type else {}), **about}
        given = handler or (lambda: about)
        self.handler = Handler(given, f"resource {name}", name, thread=thread if handler else False)
        self.description = description or (self.handler.signature.doc.text if handler else "")
        names = {one.name for one in self.handler.signature.parameters}
        variables = set(self.template.names) if self.template is not None else set[str]()
        required = {one.name for one in self.handler.signature.parameters if one.required}
        if not names <= variables or not required <= variables:
            raise TypeError(
                f"resource {uri}: the handler takes {', '.join(sorted(names)) or 'nothing'}, the "
                f"URI has {', '.join(sorted(variables)) or 'no variables'}"
            )

    def listed(self) -> msgspec.Raw:
        """Its ``Resource`` or ``ResourceTemplate`` object."""
        key = "uri" if self.template is None else "uriTemplate"
        return msgspec.Raw(
            encode(
                {
                    key: self.uri,
                    "name": self.name,
                    **({"title": self.title} if self.title else {}),
                    **({"description": self.description} if self.description else {}),
                    **({"mimeType": self.mime_type} if self.mime_type else {}),
                    **({"_meta": self._meta} if self._meta else {}),
                }
            )
        )

    def match(self, uri: str) -> dict[str, Any] | None:
        """Arguments of the handler for a URI; None when it is another one.

        Raises:
            ArgumentError: a value in the URI does not fit its type.
        """
        if self.template is None:
            return {} if uri == self.uri else None
        values = self.template.match(uri)
        if values is None:
            return None
        wanted = {one.name for one in self.handler.signature.parameters}
        return self.handler.signature.convert({k: v for k, v in values.items() if k in wanted})


class Prompt:
    """A prompt; the parameters of its handler are its arguments.

    Args:
        name: its own name.
        handler: gives text or messages.
        title: for people.
        description: "" = the docstring of the handler.
        thread: as of ``Tool``.
    """

    def __init__(
        self,
        name: str,
        handler: Callable[..., Any],
        *,
        title: str = "",
        description: str = "",
        thread: bool | None = None,
    ) -> None:
        self.name = name
        self.title = title
        self.handler = Handler(handler, f"prompt {name}", name, thread=thread)
        self.description = description or self.handler.signature.doc.text

    def listed(self) -> msgspec.Raw:
        """Its ``Prompt`` object."""
        arguments = [
            {
                "name": one.name,
                **({"description": one.description} if one.description else {}),
                **({"required": True} if one.required else {}),
            }
            for one in self.handler.signature.parameters
        ]
        return msgspec.Raw(
            encode(
                {
                    "name": self.name,
                    **({"title": self.title} if self.title else {}),
                    **({"description": self.description} if self.description else {}),
                    **({"arguments": arguments} if arguments else {}),
                }
            )
        )


class Completer:
    """Values for one argument of a prompt or a resource template.

    Args:
        handler: takes what has been typed (``value``) and, where it has a parameter
            ``arguments``, those chosen already; gives texts.
        of: name of the prompt, or the template.
        argument: its argument.
    """

    def __init__(self, handler: Callable[..., Any], of: str, argument: str) -> None:
        self.handler = Handler(handler, f"completion of {of}", argument)
        names = [one.name for one in self.handler.signature.parameters]
        if "value" not in names or set(names) - {"value", "arguments"}:
            raise TypeError(f"completion of {of}: a handler takes value, and arguments if it likes")
        self._takes_arguments = "arguments" in names

    def values(self, value: str, arguments: dict[str, str]) -> dict[str, Any]:
        """Arguments of the handler."""
        return {"value": value, **({"arguments": arguments} if self._takes_arguments else {})}
