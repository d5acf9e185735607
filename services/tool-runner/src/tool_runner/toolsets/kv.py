"""``kv_*``: a key-value store of the tenant, with expiry. Nothing crosses tenants.

Values are any JSON and travel as bytes; keys are any text. How they are stored is the driver's.
"""

import msgspec

from mcp_proto.codec import encode
from mcp_proto.errors import MeshError
from mcp_proto.tool_spec import ToolSpec
from tool_runner.core.toolbox import ToolResult, failure, success
from tool_runner.drivers.storage import VALUE_BYTES_MAX, Storage
from tool_runner.toolsets.schemas import CURSOR, LIST_DEFAULT, full_or_raise, limit, obj
from tool_runner.toolsets.toolset import Tool, Toolset

__all__ = ["toolset"]

KEY_CHARS_MAX = 256
TTL_MAX_S = 10 * 365 * 86_400

_KEY = {
    "type": "string",
    "minLength": 1,
    "maxLength": KEY_CHARS_MAX,
    "description": "Any text; '/' or '.' may structure it.",
}


_TTL = {
    "type": "integer",
    "minimum": 1,
    "maximum": TTL_MAX_S,
    "description": "Seconds after which the value expires; left out = never.",
}
_VALUE = {"description": "Any JSON value."}

_GET = ToolSpec(
    name="kv_get",
    title="Get a value",
    description="Reads a value of this tenant's key-value store. found is false, and value null, "
    "when the key was never set, was deleted or has expired.",
    input_schema=obj({"key": _KEY}, "key"),
    output_schema=obj(
        {
            "key": {"type": "string"},
            "found": {"type": "boolean"},
            "value": {"description": "The stored JSON value."},
            "revision": {"type": "integer"},
            "createdMs": {"type": "integer", "description": "Unix milliseconds of the write."},
        },
        "key",
        "found",
        "value",
    ),
    permission="ReadKV",
    read_only=True,
    idempotent=True,
)
_SET = ToolSpec(
    name="kv_set",
    title="Set a value",
    description="Stores any JSON value under a key of this tenant's key-value store and replaces "
    f"what was there. At most {VALUE_BYTES_MAX // 1024} KiB. It is on disk when this returns.",
    input_schema=obj(
        {
            "key": _KEY,
            "value": _VALUE,
            "ttl": _TTL,
        },
        "key",
        "value",
    ),
    output_schema=obj(
        {"key": {"type": "string"}, "revision": {"type": "integer"}}, "key", "revision"
    ),
    permission="WriteKV",
    destructive=True,
    idempotent=True,
)
_COMPARE_AND_SET = ToolSpec(
    name="kv_compare_and_set",
    title="Set a value unless it has changed",
    description="Stores any JSON value under a key only if its revision is still the expected one, "
    "as kv_get or a write gave it; 0 = only if there is no value. stored is false when somebody "
    "else was faster: nothing was changed, revision is the one that stands there now (0 = no "
    "value). Read again, and decide again.",
    input_schema=obj(
        {
            "key": _KEY,
            "value": _VALUE,
            "expectedRevision": {
                "type": "integer",
                "minimum": 0,
                "maximum": 2**53,
                "description": "Revision that is to be replaced; 0 = there is no value.",
            },
            "ttl": _TTL,
        },
        "key",
        "value",
        "expectedRevision",
    ),
    output_schema=obj(
        {
            "key": {"type": "string"},
            "stored": {"type": "boolean"},
            "revision": {"type": "integer"},
        },
        "key",
        "stored",
        "revision",
    ),
    permission="WriteKV",
    destructive=True,
)
_DELETE = ToolSpec(
    name="kv_delete",
    title="Delete a value",
    description="Deletes a key of this tenant's key-value store. deleted is false when there was "
    "no value.",
    input_schema=obj({"key": _KEY}, "key"),
    output_schema=obj(
        {"key": {"type": "string"}, "deleted": {"type": "boolean"}}, "key", "deleted"
    ),
    permission="WriteKV",
    destructive=True,
    idempotent=True,
)
_LIST = ToolSpec(
    name="kv_list",
    title="List keys",
    description="Lists keys of this tenant's key-value store in order of their text. Pass cursor "
    "from the last answer to go on; no cursor in the answer means the end.",
    input_schema=obj(
        {
            "prefix": {"type": "string", "maxLength": KEY_CHARS_MAX, "description": "Begins with."},
            "limit": limit(),
            "cursor": CURSOR,
        }
    ),
    output_schema=obj(
        {
            "keys": {"type": "array", "items": {"type": "string"}},
            "cursor": {"type": "string"},
        },
        "keys",
    ),
    permission="ReadKV",
    read_only=True,
    idempotent=True,
)


class _Key(msgspec.Struct, frozen=True):
    key: str


class _Set(msgspec.Struct, frozen=True):
    key: str
    value: msgspec.Raw
    # A whole number may be written 60.0 or 6e1: JSON Schema calls all of them integers.
    ttl: float = 0


class _CompareAndSet(msgspec.Struct, frozen=True, rename="camel"):
    key: str
    value: msgspec.Raw
    expected_revision: float
    ttl: float = 0


class _List(msgspec.Struct, frozen=True):
    prefix: str = ""
    limit: float = LIST_DEFAULT
    cursor: str = ""


class _Kv:
    """The handlers over one store."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._key = msgspec.json.Decoder(_Key).decode
        self._set = msgspec.json.Decoder(_Set).decode
        self._compare_and_set = msgspec.json.Decoder(_CompareAndSet).decode
        self._list = msgspec.json.Decoder(_List).decode

    async def get(self, tenant: str, arguments: msgspec.Raw) -> ToolResult:
        key = self._key(arguments).key
        stored = await self._storage.get(tenant, key)
        if stored is None:
            return success(encode({"key": key, "found": False, "value": None}))
        return success(
            b'{"key":%b,"found":true,"value":%b,"revision":%d,"createdMs":%d}'
            % (encode(key), bytes(stored.value), stored.revision, stored.created_ms)
        )

    async def set(self, tenant: str, arguments: msgspec.Raw) -> ToolResult:
        wanted = self._set(arguments)
        value = bytes(wanted.value)
        if len(value) > VALUE_BYTES_MAX:
            return _too_large(value)
        try:
            revision = await self._storage.set(tenant, wanted.key, value, int(wanted.ttl))
        except MeshError as error:
            return full_or_raise(error)
        return success(encode({"key": wanted.key, "revision": revision}))

    async def compare_and_set(self, tenant: str, arguments: msgspec.Raw) -> ToolResult:
        wanted = self._compare_and_set(arguments)
        value, key = bytes(wanted.value), wanted.key
        if len(value) > VALUE_BYTES_MAX:
            return _too_large(value)
        expected = int(wanted.expected_revision)
        try:
            revision = await self._storage.compare_and_set(
                tenant, key, value, expected, int(wanted.ttl)
            )
        except MeshError as error:
            return full_or_raise(error)
        if revision is not None:
            return success(encode({"key": key, "stored": True, "revision": revision}))
        now = await self._storage.get(tenant, key)
        stands = 0 if now is None else now.revision
        return success(encode({"key": key, "stored": False, "revision": stands}))

    async def delete(self, tenant: str, arguments: msgspec.Raw) -> ToolResult:
        key = self._key(arguments).key
        return success(encode({"key": key, "deleted": await self._storage.delete(tenant, key)}))

    async def list(self, tenant: str, arguments: msgspec.Raw) -> ToolResult:
        wanted = self._list(arguments)
        page = await self._storage.keys(tenant, wanted.prefix, int(wanted.limit), wanted.cursor)
        answer: dict[str, object] = {"keys": page.keys}
        if page.cursor:
            answer["cursor"] = page.cursor
        return success(encode(answer))


def _too_large(value: bytes) -> ToolResult:
    return failure(f"The value has {len(value)} bytes as JSON; the limit is {VALUE_BYTES_MAX}.")


def toolset(storage: Storage) -> Toolset:
    """The toolset ``kv`` over a store."""
    kv = _Kv(storage)
    return Toolset(
        server="kv",
        tools=(
            Tool(_GET, kv.get),
            Tool(_SET, kv.set),
            Tool(_COMPARE_AND_SET, kv.compare_and_set),
            Tool(_DELETE, kv.delete),
            Tool(_LIST, kv.list),
        ),
    )
