"""Which runner holds a server: the record in ``mesh_lease``, and what a contender does about it.

A server that may run only once is held by the runner named in its record. The record expires
unless renewed; every change is a compare-and-set, so two runners cannot both win. A holder that
leaves says so and goes on serving; a successor marks itself, starts its own child, takes calls,
and only then takes the record over. So a planned move has no gap.
"""

from enum import StrEnum

import msgspec

from mcp_proto import buckets

__all__ = ["Move", "Placement", "decide", "placement_key"]

ABSENT_PROBES = 2
"""No-responders in a row from a holder's own subject after which it counts as dead."""


class Placement(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Value of ``server.{tenant}.{name}`` in ``mesh_lease``.

    Attributes:
        holder: instance id of the runner whose child serves.
        nonce: ``{process}:{contender}``; a restarted runner has the same id and no children.
        leaving: the holder would rather have another runner take over.
        successor: nonce of the contender that is preparing to.
    """

    holder: str
    nonce: str
    leaving: bool = False
    successor: str = ""


class Move(StrEnum):
    """What a contender does next."""

    WAIT = "wait"
    CREATE = "create"
    SEIZE = "seize"
    SUCCEED = "succeed"


def placement_key(tenant: str, name: str) -> str:
    """Key of the record of one server."""
    return buckets.key("server", tenant, name)


def decide(record: Placement | None, *, me: str, nonce: str, absent: int) -> Move:
    """Decide.

    Args:
        record: what stands there; None = nothing.
        me: own instance id.
        nonce: own nonce.
        absent: probes of the holder in a row that found nobody.
    """
    if record is None:
        return Move.CREATE
    if record.holder == me:
        # An earlier life of ours, dead with its children, or a write whose receipt got lost;
        # asking whether the holder lives would say yes for ever. But another contender of this
        # very process has a child that is still ending.
        mine = record.nonce == nonce or _process(record.nonce) != _process(nonce)
        return Move.SEIZE if mine else Move.WAIT
    # Children die with their runner, so a runner that nobody finds has none.
    if absent >= ABSENT_PROBES:
        return Move.SEIZE
    if record.leaving and record.successor in {"", nonce}:
        return Move.SUCCEED
    return Move.WAIT


def _process(nonce: str) -> str:
    return nonce.partition(":")[0]
