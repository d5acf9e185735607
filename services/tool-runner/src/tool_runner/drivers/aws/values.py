"""Values of the ``kv`` tools in one DynamoDB table: the tenant is the partition, the key sorts.

A key is stored as it is: DynamoDB takes any text, compares whole texts and orders them as the
contract does, and a tenant is matched exactly, so no key leads to another tenant.

A write carries a name of its own (``writer``). A put whose answer was lost is repeated, and when
the condition then fails because the put itself stands there, it is known to have succeeded.

An item holds 400 KB and a value may have 512 KiB: what does not fit is in a second item of the
partition ``{tenant}/rest``, written and deleted with the first in one transaction. No tenant id
has a slash.

Revisions are microseconds of the clock, at least one more than what they replace: they grow, and
a key that was deleted and set again never gets a number that somebody may still hold.
"""

import asyncio
import random
import secrets
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mcp_proto.ids import is_tenant_id
from mcp_proto.subjects import decode_token, encode_token
from mesh_chassis.clock import now_ms
from tool_runner.drivers.aws.faults import Effect, RefusedError, judge_code
from tool_runner.drivers.aws.items import (
    ITEM_VALUE_BYTES,
    Head,
    Item,
    Write,
    condition,
    expiry,
    head_of,
    item_of,
    number,
    place,
    rest_of,
)
from tool_runner.drivers.aws.session import Aws
from tool_runner.drivers.aws.usage import Usage
from tool_runner.drivers.storage import (
    ENCODED_KEY_CHARS_MAX,
    VALUE_BYTES_MAX,
    Page,
    Stored,
)

__all__ = ["DynamoStorage"]

RACES_MAX = 16
"""Attempts at a key that others write to at the same moment."""
LIST_REQUESTS_MAX = 32
"""Requests of one listing; each reads 1 MB of items. Above it the page is shorter."""

_CONFLICT = "ConditionalCheckFailedException"
_CANCELLED = "TransactionCanceledException"
_RETRY_S = 0.1


class DynamoStorage:
    """``Storage`` in a table.

    Args:
        aws: the connection.
        table: its name.
        usage: of the tenants, counted here.
        clock_ms: wall time in Unix ms.
    """

    def __init__(
        self, aws: Aws, table: str, usage: Usage, *, clock_ms: Callable[[], int] = now_ms
    ) -> None:
        self._aws = aws
        self._table = table
        self._usage = usage
        self._clock_ms = clock_ms
        self._revision = 0

    async def get(self, tenant: str, key: str) -> Stored | None:
        """See ``Storage``."""
        _check(tenant, key)
        for _ in range(RACES_MAX):
            item = await self._item(tenant, key)
            if item is None or not head_of(item).live(self._clock_ms()):
                return None
            value: bytes = item["value"]["B"]
            if "rest" in item:
                rest = await self._item(rest_of(tenant), key)
                if rest is None or rest["writer"] != item["writer"]:
                    continue  # replaced between the two reads
                value += rest["value"]["B"]
            return Stored(
                value=msgspec.Raw(value),
                revision=int(item["revision"]["N"]),
                created_ms=int(item["created_ms"]["N"]),
            )
        raise _contended()

    async def set(self, tenant: str, key: str, value: bytes, ttl_s: int = 0) -> int:
        """See ``Storage``."""
        revision = await self._write(tenant, key, value, ttl_s, None)
        if revision is None:
            raise _contended()
        return revision

    async def compare_and_set(
        self, tenant: str, key: str, value: bytes, expected: int, ttl_s: int = 0
    ) -> int | None:
        """See ``Storage``."""
        return await self._write(tenant, key, value, ttl_s, expected)

    async def delete(self, tenant: str, key: str) -> bool:
        """See ``Storage``."""
        _check(tenant, key)
        repeated = False
        for _ in range(RACES_MAX):
            seen = await self._read_head(tenant, key)
            if not seen.live(self._clock_ms()):
                # After a delete whose answer was lost, it is that one which found the value.
                return repeated
            gone, again = await self._remove(tenant, key, seen)
            if gone:
                self._usage.note(tenant, -seen.size)
                return True
            repeated = repeated or again
        raise _contended()

    async def keys(self, tenant: str, prefix: str, limit: int, cursor: str) -> Page:
        """See ``Storage``."""
        _check(tenant, "-")
        after = _decoded(cursor) if cursor else ""
        if not _is_key_text(prefix) or (after > prefix and not after.startswith(prefix)):
            return Page(keys=())
        query = self._query(tenant, prefix, after if after.startswith(prefix) else "")
        found: list[str] = []
        for _ in range(LIST_REQUESTS_MAX):
            query["Limit"] = limit + 1 - len(found)
            page = await self._aws.call("dynamodb", "query", query, effect=Effect.READ)
            found += [item["key"]["S"] for item in page.get("Items", ())]
            last = page.get("LastEvaluatedKey")
            if len(found) > limit:
                return Page(keys=tuple(found[:limit]), cursor=encode_token(found[limit - 1]))
            if not last:
                return Page(keys=tuple(found))
            query["ExclusiveStartKey"] = last
        return Page(keys=tuple(found), cursor=encode_token(query["ExclusiveStartKey"]["key"]["S"]))

    def _query(self, tenant: str, prefix: str, after: str) -> dict[str, Any]:
        condition = "#t = :t"
        values = {":t": {"S": tenant}, ":now": number(self._clock_ms())}
        if prefix:
            condition += " AND begins_with(#k, :p)"
            values[":p"] = {"S": prefix}
        query: dict[str, Any] = {
            "TableName": self._table,
            "KeyConditionExpression": condition,
            "FilterExpression": "attribute_not_exists(#x) OR #x > :now",
            "ProjectionExpression": "#k",
            "ExpressionAttributeNames": {"#t": "tenant", "#k": "key", "#x": "expires_ms"},
            "ExpressionAttributeValues": values,
            "ConsistentRead": True,
        }
        if after:
            query["ExclusiveStartKey"] = place(tenant, after)
        return query

    async def used(self, tenant: str) -> int:
        """Bytes of a tenant's values that have not expired; reads all of them."""
        query = self._query(tenant, "", "")
        query["ProjectionExpression"] = "#s"
        query["ExpressionAttributeNames"] = {"#t": "tenant", "#s": "size", "#x": "expires_ms"}
        query["ConsistentRead"] = False  # half the price; what is just written is counted already
        total = 0
        while True:
            page = await self._aws.call("dynamodb", "query", query, effect=Effect.READ)
            total += sum(int(item["size"]["N"]) for item in page.get("Items", ()) if item)
            if not page.get("LastEvaluatedKey"):
                return total
            query["ExclusiveStartKey"] = page["LastEvaluatedKey"]

    async def _write(
        self, tenant: str, key: str, value: bytes, ttl_s: int, expected: int | None
    ) -> int | None:
        write = await self._begin(tenant, key, value, ttl_s, expected)
        revision = self._revision = max(self._revision + 1, write.created_ms * 1000)
        two = len(value) > ITEM_VALUE_BYTES
        repeated = False
        for _ in range(RACES_MAX):
            try:
                replaced = await (self._put_two if two else self._put)(write, revision)
            except RefusedError as refused:
                repeated = repeated or refused.repeated
                seen = await self._standing(write, refused)
            else:
                self._usage.note(tenant, write.size - replaced)
                return revision
            if seen.writer == write.writer:  # by an attempt whose answer was lost
                self._usage.note(tenant, write.size)
                return seen.revision
            standing = seen.revision if seen.live(write.created_ms) else 0
            if expected is not None and expected != standing:
                if repeated:
                    raise _lost()
                return None
            revision = max(revision, seen.revision + 1)
            two = two or seen.rest
        raise _contended()

    async def _begin(
        self, tenant: str, key: str, value: bytes, ttl_s: int, expected: int | None
    ) -> Write:
        """What is to be written, once there is room for it."""
        _check(tenant, key)
        if len(value) > VALUE_BYTES_MAX:
            raise MeshError(
                ErrorKind.TOO_LARGE,
                f"the value has {len(value)} bytes; the limit is {VALUE_BYTES_MAX}",
            )
        size = len(value) + len(key.encode())
        if not await self._usage.fits(tenant, size):
            seen = await self._read_head(tenant, key)
            await self._usage.require(tenant, size - self._freed(seen))
        now = self._clock_ms()
        return Write(
            tenant=tenant,
            key=key,
            value=value,
            size=size,
            writer=secrets.token_hex(8),
            created_ms=now,
            expires_ms=now + ttl_s * 1000 if ttl_s else 0,
            expected=expected,
        )

    def _freed(self, replaced: Head) -> int:
        """What replacing it gives back; what has expired may be counted no longer."""
        return replaced.size if replaced.live(self._clock_ms()) else 0

    async def _put(self, write: Write, revision: int) -> int:
        """One item, where no second one would be left behind; the size of what it replaced."""
        limited = self._usage.limited(write.tenant)
        answer = await self._aws.call(
            "dynamodb",
            "put_item",
            {
                "TableName": self._table,
                "Item": item_of(write, revision),
                "ReturnValues": "ALL_OLD" if limited else "NONE",
                "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
                **condition(write, revision, alone=True),
            },
            effect=Effect.SAFE,
            expected=(_CONFLICT,),
        )
        old: Item | None = answer.get("Attributes")
        return self._freed(head_of(old)) if old else 0

    async def _put_two(self, write: Write, revision: int) -> int:
        """Both items, or the first one and nothing beside it; the size of what they replace."""
        replaced = await self._read_head(write.tenant, write.key)
        beside = place(rest_of(write.tenant), write.key)
        rest = write.value[ITEM_VALUE_BYTES:]
        item = {**beside, "value": {"B": rest}, "writer": {"S": write.writer}, **expiry(write)}
        second: dict[str, object] = (
            {"Put": {"TableName": self._table, "Item": item}}
            if rest
            else {"Delete": {"TableName": self._table, "Key": beside}}
        )
        first = {
            "TableName": self._table,
            "Item": item_of(write, revision),
            **condition(write, revision, alone=False),
        }
        await self._transact({"Put": first}, second)
        return self._freed(replaced)

    async def _remove(self, tenant: str, key: str, seen: Head) -> tuple[bool, bool]:
        """Delete what was seen: whether it is gone, else whether it was tried more than once."""
        condition = {
            "TableName": self._table,
            "Key": place(tenant, key),
            "ConditionExpression": "#w = :w",
            "ExpressionAttributeNames": {"#w": "writer"},
            "ExpressionAttributeValues": {":w": {"S": seen.writer}},
        }
        try:
            if seen.rest:
                beside = {"TableName": self._table, "Key": place(rest_of(tenant), key)}
                await self._transact({"Delete": condition}, {"Delete": beside})
            else:
                await self._aws.call(
                    "dynamodb",
                    "delete_item",
                    condition,
                    effect=Effect.SAFE,
                    expected=(_CONFLICT,),
                )
        except RefusedError as refused:
            return False, refused.repeated
        return True, False

    async def _transact(self, *items: Mapping[str, object]) -> None:
        """Do all or nothing. Raises ``RefusedError`` when a condition fails."""
        arguments = {"TransactItems": items, "ClientRequestToken": secrets.token_hex(16)}
        for _ in range(RACES_MAX):
            try:
                await self._aws.call(
                    "dynamodb",
                    "transact_write_items",
                    arguments,
                    effect=Effect.SAFE,
                    expected=(_CANCELLED,),
                )
            except RefusedError as refused:
                reasons = {str(one.get("Code")) for one in refused.response["CancellationReasons"]}
                if "ConditionalCheckFailed" in reasons:
                    raise
                for code in reasons - {"None", "TransactionConflict"}:
                    fault = judge_code(code)
                    raise fault.error("dynamodb", Effect.SAFE, done=refused.repeated) from None
                await asyncio.sleep(_RETRY_S * random.random())  # noqa: S311 - no secret
                # A token stands for its answer, too: another attempt needs another one.
                arguments = {**arguments, "ClientRequestToken": secrets.token_hex(16)}
            else:
                return
        raise _contended()

    async def _standing(self, write: Write, refused: RefusedError) -> Head:
        """What stood in the way of a write."""
        item: Item | None = refused.response.get("Item")
        return head_of(item) if item else await self._read_head(write.tenant, write.key)

    async def _read_head(self, tenant: str, key: str) -> Head:
        item = await self._item(
            tenant,
            key,
            ProjectionExpression="#r, #w, #x, #s, #b",
            ExpressionAttributeNames={
                "#r": "revision",
                "#w": "writer",
                "#x": "expires_ms",
                "#s": "size",
                "#b": "rest",
            },
        )
        return head_of(item) if item else Head()

    async def _item(self, tenant: str, key: str, **more: object) -> Item | None:
        arguments = {
            "TableName": self._table,
            "Key": place(tenant, key),
            "ConsistentRead": True,
            **more,
        }
        answer = await self._aws.call("dynamodb", "get_item", arguments, effect=Effect.READ)
        return answer.get("Item")


def _check(tenant: str, key: str) -> None:
    """The same limits as on JetStream, so that a key that works here works there."""
    if not is_tenant_id(tenant):
        raise MeshError(ErrorKind.PARAMS, "this tenant has no key-value store")
    try:
        token = encode_token(key)
    except (ValueError, UnicodeEncodeError):
        raise MeshError(ErrorKind.PARAMS, "the key must be non-empty Unicode text") from None
    if len(token) > ENCODED_KEY_CHARS_MAX:
        raise MeshError(
            ErrorKind.TOO_LARGE,
            f"the key has {len(token)} characters once encoded; the limit is "
            f"{ENCODED_KEY_CHARS_MAX}",
        )


def _is_key_text(prefix: str) -> bool:
    """Whether any key can begin with it."""
    try:
        return len(prefix.encode()) <= ENCODED_KEY_CHARS_MAX
    except UnicodeEncodeError:
        return False


def _decoded(cursor: str) -> str:
    try:
        key = decode_token(cursor)
    except ValueError:
        key = ""
    if not key or not _is_key_text(key):
        raise MeshError(ErrorKind.PARAMS, "unknown cursor")
    return key


def _contended() -> MeshError:
    return MeshError(
        ErrorKind.OVERLOADED,
        f"others write to this key at the same moment ({RACES_MAX} attempts)",
        retry_after_s=_RETRY_S,
    )


def _lost() -> MeshError:
    return MeshError(
        ErrorKind.UPSTREAM,
        "AWS DynamoDB broke off its answer, and another write followed: whether this one was "
        "done is not known",
        data={"upstream": "aws-dynamodb"},
        outcome=Outcome.UNKNOWN,
    )
