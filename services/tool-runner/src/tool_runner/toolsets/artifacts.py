"""``artifacts_*``: files of the tenant, by key, with a content type. Nothing crosses tenants.

Small ones travel in the result; larger ones are linked, and read as resources or in ranges.
"""

import asyncio
import base64
import binascii

import msgspec

from mcp_proto.codec import encode
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.tool_spec import ToolSpec
from mcp_proto.types.content import AudioContent, EmbeddedResource, ImageContent, ResourceLink
from mesh_chassis.bus.endpoint import Intake
from tool_runner.core.media_types import (
    OCTETS,
    TEXT,
    charset_problem,
    is_text,
    kind_of,
    media_type_problem,
)
from tool_runner.core.store_uris import ARTIFACTS_ROOT, uri_of
from tool_runner.core.toolbox import Block, ToolResult, failure, success, told
from tool_runner.drivers.chunks import in_pieces
from tool_runner.drivers.storage import ARTIFACT_BYTES_MAX, Artifact, ArtifactStore
from tool_runner.toolsets.arriving import MARK_CHARS, Arriving, BadDataError, PutArguments
from tool_runner.toolsets.artifact_resources import ArtifactResources
from tool_runner.toolsets.schemas import CURSOR, LIST_DEFAULT, full_or_raise, limit, obj
from tool_runner.toolsets.toolset import ReadArguments, Tell, Tool, Toolset

__all__ = ["toolset"]

KEY_CHARS_MAX = 256
INLINE_BYTES = 256 * 1024
"""Largest artifact given in a result unasked; a larger one is linked."""
RANGE_BYTES_MAX = 1024 * 1024
"""Largest range in a result: it stands there twice, once for programs and once for models."""

_KEY = {
    "type": "string",
    "minLength": 1,
    "maxLength": KEY_CHARS_MAX,
    "description": "Any text; '/' may structure it, as in reports/2026/may.md.",
}
_ABOUT = {
    "key": {"type": "string"},
    "uri": {"type": "string", "description": "Read or watch it as a resource under this URI."},
    "size": {"type": "integer", "description": "Bytes."},
    "contentType": {"type": "string"},
    "sha256": {"type": "string", "description": "Of the whole, in hexadecimal."},
    "createdMs": {"type": "integer", "description": "Unix milliseconds at which it was stored."},
}
_PUT = ToolSpec(
    name="artifacts_put",
    title="Store an artifact",
    description="Stores a file under a key and replaces what was there: content for text, data for "
    "anything else as base64; one of them. Others see it whole or not at all. Returns its "
    "description with its URI. As large as a message: 10 MiB of text, 7.5 MiB of bytes.",
    input_schema=obj(
        {
            "key": _KEY,
            "content": {"type": "string", "description": "Text; stored as UTF-8."},
            "data": {"type": "string", "description": "Bytes as base64 (RFC 4648, section 4)."},
            "contentType": {
                "type": "string",
                "description": "Media type. Left out: plain text for content, "
                "application/octet-stream for data.",
            },
        },
        "key",
    ),
    output_schema=obj(_ABOUT, *_ABOUT),
    permission="PutArtifacts",
    destructive=True,
    idempotent=True,
)
_GET = ToolSpec(
    name="artifacts_get",
    title="Read an artifact",
    description=f"Reads a file. Up to {INLINE_BYTES // 1024} KiB it is in the result: text where "
    "it is text, else data as base64. A larger one is given as a link; read that resource, or "
    f"pass offset and length (up to {RANGE_BYTES_MAX // 1024} KiB) to get a range here. found is "
    "false when there is no such artifact.",
    input_schema=obj(
        {
            "key": _KEY,
            "offset": {"type": "integer", "minimum": 0, "description": "First byte wanted."},
            "length": {
                "type": "integer",
                "minimum": 1,
                "maximum": RANGE_BYTES_MAX,
                "description": "Bytes wanted; cut at the end.",
            },
        },
        "key",
    ),
    output_schema=obj(
        {
            "found": {"type": "boolean"},
            **_ABOUT,
            "text": {"type": "string", "description": "The body, or the range, where it is text."},
            "data": {"type": "string", "description": "The same as base64 where it is not."},
            "offset": {"type": "integer", "description": "Where the range begins."},
            "length": {"type": "integer", "description": "Bytes of the range."},
        },
        "found",
        "key",
    ),
    permission="GetArtifacts",
    read_only=True,
    idempotent=True,
)
_LIST = ToolSpec(
    name="artifacts_list",
    title="List artifacts",
    description="Lists files in order of their keys' text. Pass cursor from the last answer to go "
    "on; no cursor in the answer means the end.",
    input_schema=obj(
        {
            "prefix": {"type": "string", "maxLength": KEY_CHARS_MAX, "description": "Begins with."},
            "limit": limit(),
            "cursor": CURSOR,
        }
    ),
    output_schema=obj(
        {
            "artifacts": {"type": "array", "items": obj(_ABOUT, *_ABOUT)},
            "cursor": {"type": "string"},
        },
        "artifacts",
    ),
    permission="ListArtifacts",
    read_only=True,
    idempotent=True,
)
_DELETE = ToolSpec(
    name="artifacts_delete",
    title="Delete an artifact",
    description="Deletes a file. deleted is false when there was none.",
    input_schema=obj({"key": _KEY}, "key"),
    output_schema=obj(
        {"key": {"type": "string"}, "deleted": {"type": "boolean"}}, "key", "deleted"
    ),
    permission="PutArtifacts",
    destructive=True,
    idempotent=True,
)


class _Get(msgspec.Struct, frozen=True):
    key: str
    # A whole number may be written 60.0 or 6e1: JSON Schema calls all of them integers.
    offset: float | None = None
    length: float | None = None


class _List(msgspec.Struct, frozen=True):
    prefix: str = ""
    limit: float = LIST_DEFAULT
    cursor: str = ""


class _Key(msgspec.Struct, frozen=True):
    key: str


class _Artifacts:
    """The handlers over one store."""

    def __init__(self, store: ArtifactStore, tell: Tell) -> None:
        self._store = store
        self._tell = tell
        self._put = msgspec.json.Decoder(PutArguments).decode
        self._arriving: dict[str, Arriving] = {}
        self._get = msgspec.json.Decoder(_Get).decode
        self._list = msgspec.json.Decoder(_List).decode
        self._key = msgspec.json.Decoder(_Key).decode

    async def put(self, tenant: str, arguments: msgspec.Raw) -> ToolResult:
        try:
            wanted = self._put(arguments)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:  # within a large text
            raise MeshError(ErrorKind.PARAMS, f"arguments cannot be read: {error}") from None
        arriving = self._arrived(wanted)
        if memoryview(arguments).nbytes > INLINE_BYTES:
            await asyncio.sleep(0)  # small calls go between two passes over a large body
        body = _body(wanted, arrived=arriving is not None)
        if isinstance(body, ToolResult):
            return body
        usual = TEXT if wanted.content is not None else OCTETS
        content_type = wanted.content_type or usual
        problem = media_type_problem(content_type)
        if not problem and wanted.content is not None:
            problem = charset_problem(content_type)
        if not problem and len(body) > ARTIFACT_BYTES_MAX:
            problem = f"the artifact has {len(body)} bytes; the limit is {ARTIFACT_BYTES_MAX}"
        if problem:
            return failure(f"artifacts_put: {problem}.")
        try:
            if arriving is not None:
                made = await _committed(arriving, wanted, content_type)
            else:
                made = await self._store.put(tenant, wanted.key, in_pieces(body), content_type)
        except BadDataError as error:
            return failure(_NO_BASE64.format(error))
        except MeshError as error:
            return full_or_raise(error)
        self._tell(tenant, uri_of(ARTIFACTS_ROOT, wanted.key))
        return success(encode(_about(made)))

    def arrives(self, tenant: str, read: ReadArguments) -> Intake:
        """Store what a large put brings while it comes."""
        return Arriving(self._store, self._arriving, tenant, read)

    def _arrived(self, wanted: PutArguments) -> Arriving | None:
        """Whose mark stands for the body; None = the body itself is there."""
        given = wanted.content or wanted.data or ""
        return self._arriving.get(given) if len(given) == MARK_CHARS else None

    async def get(self, tenant: str, arguments: msgspec.Raw) -> ToolResult:
        wanted = self._get(arguments)
        ranged = wanted.offset is not None or wanted.length is not None
        offset = int(wanted.offset or 0)
        length = int(wanted.length or RANGE_BYTES_MAX) if ranged else INLINE_BYTES + 1
        found = await self._store.read(tenant, wanted.key, offset, length)
        if found is None:
            return success(encode({"found": False, "key": wanted.key}))
        artifact, body = found
        about = {"found": True, **_about(artifact)}
        if not ranged and artifact.size > INLINE_BYTES:
            return _linked(artifact, about)
        if ranged:
            about |= {"offset": offset, "length": len(body)}
        return _inline(artifact, about, body, whole=len(body) == artifact.size)

    async def list(self, tenant: str, arguments: msgspec.Raw) -> ToolResult:
        wanted = self._list(arguments)
        page = await self._store.list(tenant, wanted.prefix, int(wanted.limit), wanted.cursor)
        answer: dict[str, object] = {"artifacts": [_about(one) for one in page.artifacts]}
        if page.cursor:
            answer["cursor"] = page.cursor
        return success(encode(answer))

    async def delete(self, tenant: str, arguments: msgspec.Raw) -> ToolResult:
        key = self._key(arguments).key
        deleted = await self._store.delete(tenant, key)
        if deleted:
            self._tell(tenant, uri_of(ARTIFACTS_ROOT, key))
        return success(encode({"key": key, "deleted": deleted}))


def _body(wanted: PutArguments, *, arrived: bool) -> bytes | ToolResult:
    if (wanted.content is None) == (wanted.data is None):
        return failure("artifacts_put: pass either content (text) or data (base64), one of them.")
    if arrived:
        return b""  # it is in the store by now, or almost
    if wanted.content is not None:
        return wanted.content.encode()
    try:
        return base64.b64decode(wanted.data or "", validate=True)
    except (binascii.Error, ValueError) as error:
        return failure(_NO_BASE64.format(error))


_NO_BASE64 = "artifacts_put: data is no base64 (RFC 4648, section 4): {}."


async def _committed(arriving: Arriving, wanted: PutArguments, content_type: str) -> Artifact:
    if wanted.key != arriving.key:
        raise MeshError(ErrorKind.PARAMS, "member 'key' occurs twice")
    return await arriving.commit(content_type)


def _about(artifact: Artifact) -> dict[str, object]:
    return {
        "key": artifact.key,
        "uri": uri_of(ARTIFACTS_ROOT, artifact.key),
        "size": artifact.size,
        "contentType": artifact.content_type,
        "sha256": artifact.sha256,
        "createdMs": artifact.created_ms,
    }


def _linked(artifact: Artifact, about: dict[str, object]) -> ToolResult:
    link = ResourceLink(
        uri=uri_of(ARTIFACTS_ROOT, artifact.key),
        name=artifact.key,
        mime_type=artifact.content_type,
        size=artifact.size,
    )
    text = told(
        f"{artifact.key} has {artifact.size} bytes: read the linked resource, or call "
        f"artifacts_get with offset and length (up to {RANGE_BYTES_MAX})."
    ).content
    return ToolResult(
        result_type="complete",
        content=(*text, link),
        structured_content=msgspec.Raw(encode(about)),
    )


def _inline(
    artifact: Artifact, about: dict[str, object], body: bytes, *, whole: bool
) -> ToolResult:
    text = _text(body) if is_text(artifact.content_type) else None
    content: tuple[Block, ...]
    if text is not None:
        about["text"] = text
        content = told(text).content
    else:
        about["data"] = data = base64.b64encode(body).decode()
        content = (_block(artifact, data, whole=whole),)
    return ToolResult(
        result_type="complete", content=content, structured_content=msgspec.Raw(encode(about))
    )


def _block(artifact: Artifact, data: str, *, whole: bool) -> Block:
    kind = kind_of(artifact.content_type)
    if whole and kind.startswith("image/"):
        return ImageContent(data=data, mime_type=kind)
    if whole and kind.startswith("audio/"):
        return AudioContent(data=data, mime_type=kind)
    contents = {
        "uri": uri_of(ARTIFACTS_ROOT, artifact.key),
        "mimeType": artifact.content_type if whole else OCTETS,
        "blob": data,
    }
    return EmbeddedResource(resource=msgspec.Raw(encode(contents)))


def _text(body: bytes) -> str | None:
    try:
        return body.decode()
    except UnicodeDecodeError:
        return None


def toolset(store: ArtifactStore, tell: Tell) -> Toolset:
    """The toolset ``artifacts`` over a store.

    Args:
        store: where they are.
        tell: takes the URI of each that was stored or deleted.
    """
    artifacts = _Artifacts(store, tell)
    return Toolset(
        server="artifacts",
        tools=(
            Tool(_PUT, artifacts.put, arrives=artifacts.arrives),
            Tool(_GET, artifacts.get),
            Tool(_LIST, artifacts.list),
            Tool(_DELETE, artifacts.delete),
        ),
        resources=ArtifactResources(store),
    )
