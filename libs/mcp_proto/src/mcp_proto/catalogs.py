"""Catalogues as bytes: their hash, and how one becomes keys of ``mesh_catalog`` and back.

Shared by the registry (writes), gateways (watch) and runners (hash), so that no two of them can
disagree. A catalogue is the value of ``{tenant}.{server}``. One above ``PART_BYTES_MAX`` is cut
into ``{tenant}.{server}.blob-{digest}-{n}``, written before the head, which then only names them.
The digest in the key keeps the parts of two versions apart: two writers cannot mix theirs, and a
reader of the old head finds its parts until the new head is in place.
"""

import hashlib

import msgspec

from mcp_proto import buckets
from mcp_proto.contracts.registry import Catalog
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.subjects import PLATFORM, decode_token

__all__ = [
    "CATALOG_BYTES_MAX",
    "PART_BYTES_MAX",
    "Assembler",
    "CatalogKey",
    "Change",
    "Head",
    "Stored",
    "catalog_hash",
    "catalog_key",
    "decode_head",
    "encode_catalog",
    "join_parts",
    "parse_key",
    "part_keys",
]

PART_BYTES_MAX = 400 * 1024
"""Largest value of one key: below the bucket's 512 KiB with room for the JSON around it."""

CATALOG_BYTES_MAX = 8 * 1024 * 1024
"""Largest catalogue, 2,000 tools of 4 KiB each: every gateway holds all of them in memory."""

_PART_PREFIX = "blob-"
_DIGEST_CHARS = 16


class CatalogKey(msgspec.Struct, frozen=True):
    """A parsed key: ``part`` is the third token (``blob-…``), "" for a head."""

    tenant: str
    server: str
    part: str = ""


class Head(msgspec.Struct, frozen=True, kw_only=True, tag_field="stored", tag="parts"):
    """What stands under ``{tenant}.{server}`` when the catalogue is in parts.

    Attributes:
        parts: how many.
        digest: first 16 hex digits of ``sha256``, as in the keys of the parts.
        sha256: SHA-256 hex of the joined parts.
        size: bytes of the joined parts.
    """

    parts: int
    digest: str
    sha256: str
    size: int


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """A catalogue ready to be written: every part first, then the head under ``key``."""

    key: str
    head: bytes
    parts: tuple[tuple[str, bytes], ...] = ()


class _Probe(msgspec.Struct):
    stored: str = ""


_CATALOG = msgspec.json.Decoder(Catalog)
_HEAD = msgspec.json.Decoder(Head)
_PROBE = msgspec.json.Decoder(_Probe)


def catalog_hash(catalog: Catalog) -> str:
    """SHA-256 hex over everything a server offers; tenant and the old hash do not count."""
    bare = msgspec.structs.replace(catalog, tenant="", hash="")
    return hashlib.sha256(msgspec.json.encode(bare)).hexdigest()


def catalog_key(tenant: str, server: str) -> str:
    """Key of a catalogue in ``mesh_catalog``."""
    return buckets.key(tenant, server)


def parse_key(key: str) -> CatalogKey | None:
    """Take a key of ``mesh_catalog`` apart; None for one that no registry wrote."""
    tokens = key.split(".")
    if len(tokens) not in {2, 3}:
        return None
    try:
        tenant = PLATFORM if tokens[0] == PLATFORM else decode_token(tokens[0])
        server = decode_token(tokens[1])
    except ValueError:
        return None
    part = tokens[2] if len(tokens) == 3 else ""
    if len(tokens) == 3 and not part.startswith(_PART_PREFIX):
        return None
    return CatalogKey(tenant, server, part)


def encode_catalog(catalog: Catalog) -> Stored:
    """The keys and values of a catalogue.

    Raises:
        MeshError: ``too_large`` above ``CATALOG_BYTES_MAX``.
    """
    key = catalog_key(catalog.tenant, catalog.server)
    body = msgspec.json.encode(catalog)
    if len(body) > CATALOG_BYTES_MAX:
        raise MeshError(
            ErrorKind.TOO_LARGE,
            f"the catalogue of server {catalog.server} exceeds {CATALOG_BYTES_MAX} bytes",
        )
    if len(body) <= PART_BYTES_MAX:
        return Stored(key=key, head=body)
    sha256 = hashlib.sha256(body).hexdigest()
    head = Head(
        parts=-(-len(body) // PART_BYTES_MAX),
        digest=sha256[:_DIGEST_CHARS],
        sha256=sha256,
        size=len(body),
    )
    pieces = (body[at : at + PART_BYTES_MAX] for at in range(0, len(body), PART_BYTES_MAX))
    return Stored(
        key=key,
        head=msgspec.json.encode(head),
        parts=tuple(zip(part_keys(key, head), pieces, strict=True)),
    )


def part_keys(key: str, head: Head) -> tuple[str, ...]:
    """Keys of the parts that ``head``, the value of ``key``, names; in order."""
    return tuple(f"{key}.{_PART_PREFIX}{head.digest}-{n}" for n in range(head.parts))


def decode_head(value: bytes) -> Catalog | Head:
    """Read the value of a head key.

    Raises:
        ValueError: neither a catalogue nor a head.
    """
    try:
        if _PROBE.decode(value).stored:
            head = _HEAD.decode(value)
            if not 1 <= head.parts <= -(-CATALOG_BYTES_MAX // PART_BYTES_MAX):
                raise ValueError("head of a catalogue names too many parts")
            return head
        return _CATALOG.decode(value)
    except msgspec.DecodeError as error:
        raise ValueError(f"not a catalogue: {error}") from error


def join_parts(head: Head, parts: list[bytes]) -> Catalog:
    """Put a catalogue together again.

    Raises:
        ValueError: the parts are not those the head names.
    """
    body = b"".join(parts)
    if len(body) != head.size or hashlib.sha256(body).hexdigest() != head.sha256:
        raise ValueError("parts of a catalogue do not match its head")
    try:
        return _CATALOG.decode(body)
    except msgspec.DecodeError as error:
        raise ValueError(f"not a catalogue: {error}") from error


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What an entry of the bucket did to a view: ``catalog`` None = the server is gone."""

    tenant: str
    server: str
    catalog: Catalog | None


class Assembler:
    """Turns watched entries of ``mesh_catalog`` into whole catalogues, in whatever order they come.

    Feed every entry; each answer is one change of one server. While the parts of a new version
    are still on their way, the old catalogue stays in force. A value that cannot be read leaves
    the old one in force too and is counted in ``unreadable``.
    """

    def __init__(self) -> None:
        self.unreadable = 0
        self._parts: dict[str, bytes] = {}
        self._waiting: dict[str, Head] = {}

    def reset(self) -> None:
        """Forget everything: the watch starts over with a fresh snapshot."""
        self._parts.clear()
        self._waiting.clear()

    def feed(self, key: str, value: bytes | None) -> Change | None:
        """Take one entry (None = deleted or expired).

        Returns:
            The change it completes, or None.
        """
        parsed = parse_key(key)
        if parsed is None:
            return None
        if parsed.part:
            return self._feed_part(parsed, key, value)
        self._waiting.pop(key, None)
        if value is None:
            return Change(tenant=parsed.tenant, server=parsed.server, catalog=None)
        try:
            head = decode_head(value)
        except ValueError:
            self.unreadable += 1
            return None
        if isinstance(head, Catalog):
            return self._change(parsed, head)
        self._waiting[key] = head
        return self._try(parsed, key)

    def _feed_part(self, parsed: CatalogKey, key: str, value: bytes | None) -> Change | None:
        if value is None:
            self._parts.pop(key, None)
            return None
        self._parts[key] = value
        head_key = catalog_key(parsed.tenant, parsed.server)
        return self._try(parsed, head_key) if head_key in self._waiting else None

    def _try(self, parsed: CatalogKey, head_key: str) -> Change | None:
        head = self._waiting[head_key]
        keys = part_keys(head_key, head)
        if not all(key in self._parts for key in keys):
            return None
        del self._waiting[head_key]
        # The bytes are dropped once read: a gateway would hold every large catalogue twice.
        parts = [self._parts.pop(key) for key in keys]
        try:
            return self._change(parsed, join_parts(head, parts))
        except ValueError:
            self.unreadable += 1
            return None

    def _change(self, parsed: CatalogKey, catalog: Catalog) -> Change | None:
        if (catalog.tenant, catalog.server) != (parsed.tenant, parsed.server):
            self.unreadable += 1
            return None
        return Change(tenant=parsed.tenant, server=parsed.server, catalog=catalog)
