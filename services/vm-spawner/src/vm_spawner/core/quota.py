"""Who may have how much: shares of a tenant, named by machine and therefore given back once.

A counter would drift with every crash between counting and acting. A list of the machines that
hold a share cannot: taking and giving back are idempotent, and what no record stands for is found.
"""

from collections.abc import Mapping

import msgspec

from mcp_proto.contracts.vm_spawner import QuotaRecord, QuotaShare, Shape
from vm_spawner.core.refusals import refused

__all__ = ["GRACE_MS", "QuotaLimits", "admit", "recount", "release"]

MINUTE_MS = 60_000
GRACE_MS = 10_000
"""A share without a record is believed for so long: the record may be on its way."""


class QuotaLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a tenant may have at once.

    Attributes:
        machines: machines.
        vcpu: processors, over all of them.
        mem_mib: memory, over all of them.
        spawns_per_minute: machines that begin within a minute.
        ttl_max_s: longest life that may be asked for; 0 = any.
        drivers: drivers it may use; () = those of the host.
    """

    machines: int = 20
    vcpu: int = 40
    mem_mib: int = 20 * 1024
    spawns_per_minute: int = 60
    ttl_max_s: int = 0
    drivers: tuple[str, ...] = ()


def admit(
    record: QuotaRecord, vm: str, shape: Shape, limits: QuotaLimits, now_ms: int
) -> QuotaRecord:
    """Take a share for one machine; the same machine again takes nothing more.

    Raises:
        MeshError: ``limit`` with the limit, what it is and what is taken.
    """
    if vm in record.held:
        return record
    recent = tuple(at for at in record.spawns_ms if now_ms - MINUTE_MS < at <= now_ms)
    share = QuotaShare(vcpu=shape.vcpu, mem_mib=shape.mem_mib, at_ms=now_ms)
    for name, allowed, taken, more in (
        ("machines", limits.machines, len(record.held), 1),
        ("vcpu", limits.vcpu, sum(one.vcpu for one in record.held.values()), share.vcpu),
        ("memMiB", limits.mem_mib, sum(one.mem_mib for one in record.held.values()), share.mem_mib),
    ):
        if taken + more > allowed:
            raise refused(
                "limit",
                f"the tenant's limit of {allowed} {name} is reached: {taken} taken, {more} wanted",
                limit=allowed,
                current=taken,
                resource=name,
            )
    if len(recent) >= limits.spawns_per_minute:
        wait_s = max(0.1, (recent[0] + MINUTE_MS - now_ms) / 1000)
        raise refused(
            "limit",
            f"at most {limits.spawns_per_minute} machines begin within a minute",
            retry_after_s=wait_s,
            limit=limits.spawns_per_minute,
            current=len(recent),
            resource="spawnsPerMinute",
        )
    return QuotaRecord(held={**record.held, vm: share}, spawns_ms=(*recent, now_ms))


def release(record: QuotaRecord, vm: str) -> QuotaRecord:
    """Give a share back; one that is not held is given back already."""
    if vm not in record.held:
        return record
    held = {name: share for name, share in record.held.items() if name != vm}
    return msgspec.structs.replace(record, held=held)


def recount(record: QuotaRecord, living: Mapping[str, Shape], now_ms: int) -> QuotaRecord:
    """The shares as they should be, by the machines that live.

    Args:
        record: as it is.
        living: vmId → shape of every living machine of the tenant.
        now_ms: Unix ms.
    """
    held = {
        vm: share
        for vm, share in record.held.items()
        if vm in living or now_ms - share.at_ms < GRACE_MS
    }
    for vm, shape in living.items():
        if vm not in held:
            held[vm] = QuotaShare(vcpu=shape.vcpu, mem_mib=shape.mem_mib, at_ms=now_ms)
    return record if held == record.held else msgspec.structs.replace(record, held=held)
