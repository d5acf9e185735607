"""Auctions: what a host offers, and which offer is taken. Pure, so that every host agrees."""

from collections.abc import Iterable, Sequence

import msgspec

from mcp_proto.contracts.vm_spawner import AuctionRequest, Bid, DriverView, Isolation, meets
from mcp_proto.errors import ErrorKind, MeshError
from vm_spawner.core.refusals import refused

__all__ = ["COSTS", "Capacity", "Terms", "best", "driver_for", "offer", "refusal"]

COSTS = {"process": 0, "sandbox": 1, "container": 2, "firecracker": 3, "qemu": 4}
"""Cheapest first; emulation last."""
_UNKNOWN_MS = 1e12


class Capacity(msgspec.Struct, frozen=True, kw_only=True):
    """What a host has left, oversubscription counted in.

    Attributes:
        vcpu: cores.
        mem_mib: memory.
        boots: boots that may begin now.
    """

    vcpu: float
    mem_mib: int
    boots: int


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """The host's own rules.

    Attributes:
        least: class where a request names none.
        allow_emulated: an emulated machine passes for hardware.
        driver: the only driver to be used; ``auto`` = any.
    """

    least: Isolation = "sandbox"
    allow_emulated: bool = False
    driver: str = "auto"


def driver_for(
    request: AuctionRequest, drivers: Iterable[DriverView], terms: Terms
) -> DriverView | None:
    """The cheapest driver that is good enough; None = none is."""
    fitting = [
        one
        for one in drivers
        if one.available
        and one.enabled
        and request.isolation.driver in ("auto", one.driver)
        and terms.driver in ("auto", one.driver)
        and meets(
            one.isolation,
            request.isolation,
            least=terms.least,
            allow_emulated=terms.allow_emulated,
        )
        # Kernels come with images; the host's own programs run where the host's files are.
        and bool(request.image) is (one.driver not in ("sandbox", "process"))
    ]
    return min(fitting, key=lambda one: COSTS.get(one.driver, 9), default=None)


def offer(
    request: AuctionRequest,
    *,
    spawner: str,
    bid: str,
    drivers: Sequence[DriverView],
    capacity: Capacity,
    terms: Terms,
    estimates: dict[str, float],
    warm: frozenset[str] = frozenset(),
) -> Bid:
    """A host's answer to an auction.

    Args:
        request: what is wanted.
        spawner: who answers.
        bid: id of the offer, should there be one.
        drivers: of this host.
        capacity: what is left.
        terms: its own rules.
        estimates: driver → ms until ready, by what was measured.
        warm: drivers that have a machine of this image and shape parked.
    """
    chosen = driver_for(request, drivers, terms)
    declined = ""
    if chosen is None:
        declined, message = "isolation", "no driver of this host is good enough"
    elif request.shape.cpu > capacity.vcpu or request.shape.mem_mib > capacity.mem_mib:
        declined = "capacity"
        message = f"{capacity.vcpu:g} cores and {capacity.mem_mib} MiB are left"
    elif capacity.boots < 1:
        declined, message = "boots", "as many machines boot as this host has cores"
    else:
        message = ""
    answer = Bid(
        spawner=spawner,
        declined=declined,
        message=message,
        free_vcpu=capacity.vcpu,
        free_mib=capacity.mem_mib,
    )
    if chosen is None:
        return msgspec.structs.replace(answer, available=tuple(drivers))
    return msgspec.structs.replace(
        answer,
        bid="" if declined else bid,
        driver=chosen.driver,
        isolation=chosen.isolation,
        warm=chosen.driver in warm,
        estimate_ms=estimates.get(chosen.driver),
        cost=COSTS.get(chosen.driver, 9),
    )


def best(bids: Iterable[Bid]) -> list[Bid]:
    """Offers in the order in which they are tried."""
    return sorted(
        (bid for bid in bids if bid.bid and not bid.declined),
        key=lambda bid: (
            bid.cost,
            not bid.warm,
            _UNKNOWN_MS if bid.estimate_ms is None else bid.estimate_ms,
            -bid.free_mib,
            bid.spawner,
        ),
    )


def refusal(bids: Sequence[Bid], request: AuctionRequest, terms: Terms) -> MeshError:
    """Why nobody makes the machine, from what each spawner said.

    Room beats isolation: a host that could if it had room is the better news.
    """
    words = [bid.declined for bid in bids]
    if "boots" in words:
        # No hidden queue: whoever asks again in a second is served as soon as a boot is over.
        return MeshError(
            ErrorKind.OVERLOADED, "every host boots as many machines as it can", retry_after_s=1.0
        )
    if "capacity" in words or "draining" in words:
        told = next(bid.message for bid in bids if bid.declined in ("capacity", "draining"))
        return refused("capacity", f"no host has room: {told}", retry_after_s=5.0)
    for bid in bids:
        if bid.declined in ("image", "program"):
            return refused(bid.declined, bid.message)
    available: dict[str, DriverView] = {}
    for bid in bids:
        for one in bid.available:
            known = available.get(one.driver)
            if known is None or (one.available and not known.available):
                available[one.driver] = one
    wanted = request.isolation
    needs = "a kernel of its own" if wanted.own_kernel else f"class {wanted.min or terms.least}"
    if wanted.driver != "auto":
        needs += f" by driver {wanted.driver}"
    return refused(
        "isolation",
        f"no driver can give {needs}",
        available=available.values(),
        min=wanted.min or terms.least,
    )
