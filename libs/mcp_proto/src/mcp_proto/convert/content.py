"""Content blocks for revisions that do not know them: links become text, audio a blob.

``resource_link`` came with 2025-06-18, ``audio`` with 2025-03-26. Blocks of other kinds, known
or not, pass unchanged.
"""

import msgspec

from mcp_proto.codec import encode
from mcp_proto.jsonrpc import ABSENT
from mcp_proto.types.content import EmbeddedResource, TextContent
from mcp_proto.types.resources import BlobContents
from mcp_proto.versions import Feature, Revision, has

__all__ = ["older_content"]


class _Link(msgspec.Struct, frozen=True, rename="camel"):
    uri: str = ""
    name: str = ""
    title: str | None = None
    description: str | None = None
    annotations: msgspec.Raw = ABSENT


class _Audio(msgspec.Struct, frozen=True, rename="camel"):
    data: str = ""
    mime_type: str = "application/octet-stream"
    annotations: msgspec.Raw = ABSENT
    meta: msgspec.Raw = msgspec.field(name="_meta", default=ABSENT)


class _Kind(msgspec.Struct, frozen=True, gc=False):
    type: str = ""


_raws = msgspec.json.Decoder(list[msgspec.Raw])
_kind = msgspec.json.Decoder(_Kind)
_link = msgspec.json.Decoder(_Link)
_audio = msgspec.json.Decoder(_Audio)


def older_content(content: bytes | msgspec.Raw, revision: Revision) -> bytes | None:
    """Content (one block or an array of blocks) for a revision before 2025-06-18.

    Returns:
        The new bytes, or None when every block may stay as it is. Blocks that cannot be read
        stay as they are.
    """
    data = bytes(content)
    if not any(word in data for word in (b"resource_link", b"audio", b"\\u")):
        return None
    try:
        if data[:1] != b"[":
            return _older_block(data, revision, 0)
        blocks = _raws.decode(data)
    except msgspec.DecodeError:
        return None
    older = [_older_block(block, revision, index) for index, block in enumerate(blocks)]
    if all(block is None for block in older):
        return None
    kept = (bytes(old) if new is None else new for old, new in zip(blocks, older, strict=True))
    return b"[" + b",".join(kept) + b"]"


def _older_block(block: bytes | msgspec.Raw, revision: Revision, index: int) -> bytes | None:
    try:
        kind = _kind.decode(block).type
        if kind == "resource_link" and not has(revision, Feature.RESOURCE_LINK):
            return _link_as_text(_link.decode(block))
        if kind == "audio" and not has(revision, Feature.AUDIO):
            return _audio_as_blob(_audio.decode(block), index)
    except msgspec.DecodeError:
        return None
    return None


def _link_as_text(link: _Link) -> bytes:
    label = link.title or link.name
    text = f"{label}: {link.uri}" if label else link.uri
    if link.description:
        text += f"\n{link.description}"
    return encode(TextContent(text=text, annotations=link.annotations))


def _audio_as_blob(audio: _Audio, index: int) -> bytes:
    # An embedded resource needs a URI; this one only tells the blocks of a result apart.
    contents = BlobContents(
        uri=f"urn:mcp-mesh:audio:{index}", mime_type=audio.mime_type, blob=audio.data
    )
    return encode(
        EmbeddedResource(
            resource=msgspec.Raw(encode(contents)),
            annotations=audio.annotations,
            meta=audio.meta,
        )
    )
