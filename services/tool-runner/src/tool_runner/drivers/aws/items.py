"""How a value stands in DynamoDB: its items, and the conditions under which they are replaced."""

from collections.abc import Mapping
from typing import Any

import msgspec

__all__ = [
    "ITEM_VALUE_BYTES",
    "Head",
    "Item",
    "Write",
    "condition",
    "expiry",
    "head_of",
    "item_of",
    "number",
    "place",
    "rest_of",
]

ITEM_VALUE_BYTES = 390_000
"""Part of a value that stands in the first item; key and the rest of the item take the others."""

Item = dict[str, dict[str, Any]]
"""An item as DynamoDB writes it: ``{"key": {"S": "a"}}``."""


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """What stands at a key; ``writer`` "" = nothing."""

    revision: int = 0
    writer: str = ""
    expires_ms: int = 0
    size: int = 0
    rest: bool = False

    def live(self, at_ms: int) -> bool:
        """Whether a reader sees it. DynamoDB deletes what expired hours later."""
        return bool(self.writer) and not 0 < self.expires_ms <= at_ms


class Write(msgspec.Struct, frozen=True, kw_only=True):
    """One set, through all its attempts. ``expected`` None = whatever stands there.

    ``size`` is what counts towards the quota: the value and its key.
    """

    tenant: str
    key: str
    value: bytes
    size: int
    writer: str
    created_ms: int
    expires_ms: int
    expected: int | None


def condition(write: Write, revision: int, *, alone: bool) -> dict[str, object]:
    """When a write may happen."""
    values: dict[str, object] = {}
    names = {"#r": "revision"}
    if write.expected is None:
        text = "attribute_not_exists(#r) OR #r < :r"
        values[":r"] = number(revision)
    else:
        names["#x"] = "expires_ms"
        values[":now"] = number(write.created_ms)
        if write.expected == 0:
            text = "attribute_not_exists(#r) OR (#x <= :now AND #r < :r)"
            values[":r"] = number(revision)
        else:
            text = "#r = :e AND (attribute_not_exists(#x) OR #x > :now)"
            values[":e"] = number(write.expected)
    if alone:
        names["#b"] = "rest"
        text = f"({text}) AND attribute_not_exists(#b)"
    return {
        "ConditionExpression": text,
        "ExpressionAttributeNames": names,
        "ExpressionAttributeValues": values,
    }


def item_of(write: Write, revision: int) -> Item:
    """The first item of a value."""
    item: Item = {
        **place(write.tenant, write.key),
        "value": {"B": write.value[:ITEM_VALUE_BYTES]},
        "revision": number(revision),
        "writer": {"S": write.writer},
        "created_ms": number(write.created_ms),
        "size": number(write.size),
        **expiry(write),
    }
    if len(write.value) > ITEM_VALUE_BYTES:
        item["rest"] = number(len(write.value) - ITEM_VALUE_BYTES)
    return item


def expiry(write: Write) -> Item:
    """The moment for our readers, and the whole second after it for DynamoDB's sweep."""
    if not write.expires_ms:
        return {}
    return {
        "expires_ms": number(write.expires_ms),
        "expires": number(-(-write.expires_ms // 1000)),
    }


def head_of(item: Item) -> Head:
    """What an item says of its value."""
    expires: Mapping[str, str] = item.get("expires_ms", {})
    return Head(
        revision=int(item["revision"]["N"]),
        writer=item["writer"]["S"],
        expires_ms=int(expires.get("N", "0")),
        size=int(item["size"]["N"]),
        rest="rest" in item,
    )


def place(partition: str, key: str) -> Item:
    """The primary key of an item."""
    return {"tenant": {"S": partition}, "key": {"S": key}}


def rest_of(tenant: str) -> str:
    """Partition of what did not fit into the first items of a tenant: no tenant has a slash."""
    return f"{tenant}/rest"


def number(value: int) -> dict[str, str]:
    """An attribute that is a number."""
    return {"N": str(value)}
