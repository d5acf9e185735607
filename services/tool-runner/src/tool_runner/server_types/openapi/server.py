"""``Life`` of a server of type ``openapi``: reads the document, then calls the API it describes."""

import asyncio
import logging
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

import aiohttp
import msgspec
from yarl import URL

from mcp_proto.contracts.registry import ServerDefinition
from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mcp_proto.server_definitions import redacted_url, url_problem
from mcp_proto.server_types import settings_of
from mcp_proto.server_types.openapi import OpenApiSettings
from mcp_proto.tool_spec import ToolSpec
from tool_runner.core.promises import Promise
from tool_runner.core.toolbox import Toolbox, ToolResult, failure
from tool_runner.server_types.openapi.answers import Answer, result_of
from tool_runner.server_types.openapi.credentials import Credentials
from tool_runner.server_types.openapi.document import (
    DOCUMENT_BYTES_MAX,
    DocumentError,
    check,
    parse,
)
from tool_runner.server_types.openapi.operations import Operation, operations_of
from tool_runner.server_types.openapi.references import mapping
from tool_runner.server_types.openapi.requests import outgoing
from tool_runner.server_types.openapi.values import RefusedValueError
from tool_runner.server_types.tool_server import ServedTool, ToolServer
from tool_runner.upstreams.factory import NetworkSettings, make_link
from tool_runner.upstreams.http_link import HttpLink, read_body
from tool_runner.upstreams.upstream import Request

__all__ = ["OpenApiServer"]

FETCH_S = 20.0
"""Longest fetch of a document."""
LEFT_OUT_SHOWN = 8
_VARIABLES_MAX = 16
_URL_SAFE = "/:@!$&'()*+,;=-._~%"

_log = logging.getLogger(__name__)


class _Api(msgspec.Struct, frozen=True, kw_only=True):
    """What a document comes to; ``base`` = of its ``servers``, as written there."""

    tools: "tuple[_Tool, ...]"
    left_out: tuple[str, ...]
    credentials: Any
    base: str


class _Tool(msgspec.Struct, frozen=True, kw_only=True):
    operation: Operation
    spec: ToolSpec
    promise: Any


class OpenApiServer(ToolServer):
    """``Life`` of a server of type ``openapi``.

    Args:
        definition: of the server.
        network: how it is reached.
        trusted: the definition is the operator's: its document may be a file of this machine.
    """

    def __init__(
        self, definition: ServerDefinition, network: NetworkSettings, trusted: bool
    ) -> None:
        super().__init__(definition)
        self._network = network
        self._trusted = trusted
        self._settings = settings_of(definition, OpenApiSettings)
        self._link: HttpLink | None = None
        self._base = self._query = ""
        self._api: _Api | None = None

    async def _open(self) -> None:
        raw = await self._document()
        try:
            # In a thread, for it takes up to seconds; what it may read is bounded.
            api = await asyncio.to_thread(_read, raw, self._settings, self._definition)
            base = self._definition.url or self._documents_own(api.base)
        except DocumentError as error:
            raise self._error(f"has a document that cannot be used: {error}") from None
        for reason in api.left_out[:LEFT_OUT_SHOWN]:
            _log.warning("operation left out: %s", reason, extra={"server": self._definition.name})
        if len(api.left_out) > LEFT_OUT_SHOWN:
            _log.warning(
                "%d operations are left out", len(api.left_out),
                extra={"server": self._definition.name},
            )  # fmt: skip
        named = bool(self._definition.url) or _same_origin(base, self._settings.document)
        definition = msgspec.structs.replace(self._definition, url=base)
        # Where only the document names a place, it is judged like any other on the internet.
        link = make_link(definition, self._network, trusted=self._trusted and named)
        link.secretive = bool(self._settings.credentials)
        link.open()
        place, _, self._query = base.partition("?")
        self._link, self._base, self._api = link, place.rstrip("/"), api

    async def _list(self) -> Sequence[ServedTool]:
        api = self._api
        if api is None:
            raise self._error("is not open")
        return [ServedTool(tool.spec, partial(self._call, tool)) for tool in api.tools]

    async def _close(self) -> None:
        if self._link is not None:
            await self._link.close()

    # Calls

    async def _call(self, tool: _Tool, request: Request, arguments: msgspec.Raw) -> ToolResult:
        del request
        link, api = self._link, self._api
        if link is None or api is None:
            raise self._error("is not open")
        given: dict[str, Any] = msgspec.json.decode(arguments)
        try:
            out = outgoing(tool.operation, given, api.credentials.of(tool.operation), _boundary)
        except RefusedValueError as error:
            return failure(f"Invalid arguments for {tool.operation.tool}: {error}")
        response = await link.send(
            tool.operation.method.upper(),
            out.headers,
            out.body,
            url=self._url(out.target),
        )
        try:
            body = await read_body(response, self._settings.answer_bytes_max)
        except (aiohttp.ClientError, OSError) as error:
            raise link.failure(error) from error
        finally:
            link.finish(response)
        if body is None:
            raise MeshError(
                ErrorKind.TOO_LARGE,
                f"server {self._definition.name} answered with more than "
                f"{self._settings.answer_bytes_max} bytes",
                data={"upstream": self._definition.name},
                outcome=Outcome.EXECUTED,
            )
        answer = Answer.of(response.status, response.reason or "", response.headers, body)
        return result_of(self._definition.name, tool.operation, tool.promise, answer)

    def _url(self, target: str) -> URL:
        joint = "&" if "?" in target else "?"
        more = f"{joint}{self._query}" if self._query else ""
        return URL(f"{self._base}{target}{more}", encoded=True)

    # The document

    async def _document(self) -> bytes | Mapping[str, Any]:
        document = self._settings.document
        if isinstance(document, dict):
            return document
        if document.startswith(("http://", "https://")):
            return await self._fetched(document)
        if "\n" in document or document.lstrip().startswith("{"):
            return document.encode()
        if not self._trusted:
            raise self._error("may not read a document from a file; give it as a URL or in full")
        try:
            return await asyncio.to_thread(_read_file, document)
        except OSError as error:
            reason = error.strerror or "cannot be read"
            raise self._error(f"settings.document: {document[:256]}: {reason}") from None

    async def _fetched(self, url: str) -> bytes:
        definition = msgspec.structs.replace(self._definition, url=url)
        if not _same_origin(url, self._definition.url):
            definition = msgspec.structs.replace(definition, headers={}, bearer="", oauth=None)
        link = make_link(definition, self._network, trusted=self._trusted)
        link.open()
        shown = redacted_url(url)
        try:
            async with asyncio.timeout(FETCH_S):
                accept = "application/json, application/yaml;q=0.9, */*;q=0.5"
                response = await link.send("GET", {"Accept": accept})
                try:
                    if response.status != 200:
                        status = response.status
                        raise self._error(f"has no document: {shown} answered HTTP {status}")
                    body = await read_body(response, DOCUMENT_BYTES_MAX)
                finally:
                    response.close()
        except TimeoutError:
            raise self._error(f"has no document: {shown} did not answer in time") from None
        except (aiohttp.ClientError, OSError) as error:
            raise link.failure(error) from error
        finally:
            await link.close()
        if body is None:
            raise self._error(f"has a document of more than {DOCUMENT_BYTES_MAX} bytes")
        return body

    def _documents_own(self, written: str) -> str:
        """Where the document says that the API is."""
        document = self._settings.document
        if isinstance(document, str) and document.startswith(("http://", "https://")):
            written = urljoin(document, written or "/")
        problem = url_problem("servers[0].url", written)
        if problem is not None:
            raise DocumentError(f"{problem}; or give the definition a url")
        return written


def _read(
    raw: bytes | Mapping[str, Any], settings: OpenApiSettings, definition: ServerDefinition
) -> _Api:
    """Make tools of a document; blocks.

    Raises:
        DocumentError: it cannot be used.
    """
    document = parse(raw if isinstance(raw, bytes) else msgspec.json.encode(raw))
    faults = check(document)
    credentials = Credentials(document, settings.credentials, definition.name)
    own = [*credentials.own, *(name.lower() for name in definition.headers)]
    found = operations_of(document, settings, own, faults)
    tools: list[_Tool] = []
    left_out = list(found.left_out)
    for operation in found.operations:
        spec = _spec(operation)
        try:
            Toolbox((spec,))
            promise = Promise(operation.output_schema)
        except ValueError as error:
            said = str(error).splitlines()[0][:200]
            left_out.append(f"{operation.method.upper()} {operation.path}: {said}")
            continue
        tools.append(_Tool(operation=operation, spec=spec, promise=promise))
    if not tools:
        raise DocumentError(left_out[0])
    return _Api(
        tools=tuple(tools),
        left_out=tuple(left_out),
        credentials=credentials,
        base=_server_url(document),
    )


def _spec(operation: Operation) -> ToolSpec:
    return ToolSpec(
        name=operation.tool,
        title=operation.title,
        description=operation.description,
        input_schema=operation.input_schema,
        output_schema=operation.output_schema,
        read_only=operation.read_only,
        destructive=not operation.read_only,
        idempotent=operation.idempotent,
        open_world=True,
    )


def _server_url(document: Mapping[str, Any]) -> str:
    servers = document.get("servers")
    first = mapping(servers[0]) if isinstance(servers, list) and servers else {}
    url = str(first.get("url", ""))
    for name, variable in list(mapping(first.get("variables")).items())[:_VARIABLES_MAX]:
        value = str(mapping(variable).get("default", ""))
        url = url.replace("{" + name + "}", quote(value, safe=_URL_SAFE))
    return url.rstrip("/") if "{" not in url else ""


def _same_origin(one: object, other: object) -> bool:
    origins = [_origin(text) for text in (one, other)]
    return origins[0] is not None and origins[0] == origins[1]


def _origin(url: object) -> tuple[str, str, int] | None:
    if not isinstance(url, str) or not url.startswith(("http://", "https://")):
        return None
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return parts.scheme, (parts.hostname or "").lower(), port


def _read_file(path: str) -> bytes:
    with Path(path).open("rb") as file:
        return file.read(DOCUMENT_BYTES_MAX + 1)


def _boundary() -> str:
    return os.urandom(16).hex()
