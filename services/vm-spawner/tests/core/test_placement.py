"""Who makes a machine, and by which driver: every rule of the auction."""

import msgspec
import pytest

from mcp_proto.contracts.vm_spawner import (
    ISOLATIONS,
    AuctionRequest,
    Bid,
    DriverView,
    Shape,
    Wanted,
    meets,
    rank,
)
from mcp_proto.errors import ErrorKind
from vm_spawner.core.placement import Capacity, Terms, best, driver_for, offer, refusal

ROOM = Capacity(vcpu=4.0, mem_mib=4096, boots=2)


def view(
    driver: str, isolation: str, *, available: bool = True, enabled: bool = True
) -> DriverView:
    return DriverView(
        driver=driver,
        available=available,
        reason="tried",
        isolation=isolation,  # type: ignore[arg-type]
        enabled=enabled,
    )


ALL = (
    view("process", "none"),
    view("sandbox", "sandbox"),
    view("qemu", "vm-emulated"),
    view("firecracker", "vm", available=False),
)


def wanted(image: str = "", **isolation: object) -> AuctionRequest:
    return AuctionRequest(vm_id="a", tenant="acme", image=image, isolation=Wanted(**isolation))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("request_", "driver"),
    [
        (wanted(), "sandbox"),
        (wanted(min="none"), "process"),
        (wanted(min="none", driver="sandbox"), "sandbox"),
        (wanted(min="container"), None),
        (wanted("sha256:1"), "qemu"),
        (wanted("sha256:1", min="vm"), None),
        (wanted("sha256:1", own_kernel=True), "qemu"),
        (wanted(own_kernel=True), None),
        (wanted(driver="firecracker"), None),
    ],
)
def test_cheapest_driver_that_is_good_enough_is_taken(
    request_: AuctionRequest, driver: str | None
) -> None:
    found = driver_for(request_, ALL, Terms())
    assert (found.driver if found else None) == driver


def test_emulation_passes_for_hardware_only_where_the_host_says_so() -> None:
    request = wanted("sha256:1", min="vm")
    assert driver_for(request, ALL, Terms()) is None
    found = driver_for(request, ALL, Terms(allow_emulated=True))
    assert found is not None
    assert found.isolation == "vm-emulated"


def test_driver_that_is_off_or_not_the_hosts_only_one_is_not_taken() -> None:
    off = (view("sandbox", "sandbox", enabled=False),)
    assert driver_for(wanted(), off, Terms()) is None
    assert driver_for(wanted(), ALL, Terms(driver="qemu")) is None


@pytest.mark.parametrize("got", ISOLATIONS)
@pytest.mark.parametrize("least", ISOLATIONS)
def test_class_is_never_lowered_silently(got: str, least: str) -> None:
    good = meets(got, Wanted(), least=least)  # type: ignore[arg-type]
    assert good is (rank(got) >= rank(least) and (got != "vm-emulated" or least != "vm"))


def bid_of(request: AuctionRequest, capacity: Capacity = ROOM, **more: object) -> Bid:
    return offer(
        request,
        spawner="vm-1",
        bid="b1",
        drivers=ALL,
        capacity=capacity,
        terms=Terms(),
        estimates={"sandbox": 90.0},
        **more,  # type: ignore[arg-type]
    )


def test_offer_names_driver_class_and_what_was_measured() -> None:
    bid = bid_of(wanted())
    assert (bid.bid, bid.driver, bid.isolation, bid.estimate_ms) == ("b1", "sandbox", "sandbox", 90)


@pytest.mark.parametrize(
    ("capacity", "shape", "word"),
    [
        (Capacity(vcpu=0.5, mem_mib=4096, boots=1), Shape(), "capacity"),
        (Capacity(vcpu=4, mem_mib=100, boots=1), Shape(), "capacity"),
        (Capacity(vcpu=4, mem_mib=4096, boots=0), Shape(), "boots"),
    ],
)
def test_host_without_room_declines_and_says_so(
    capacity: Capacity, shape: Shape, word: str
) -> None:
    request = msgspec.structs.replace(wanted(), shape=shape)
    bid = bid_of(request, capacity)
    assert (bid.bid, bid.declined) == ("", word)


def test_order_of_choice_is_cost_warm_estimate_memory_name() -> None:
    plain = Bid(spawner="m", bid="x", cost=1, free_mib=10)
    bids = [
        msgspec.structs.replace(plain, spawner="dear", cost=4),
        msgspec.structs.replace(plain, spawner="b"),
        msgspec.structs.replace(plain, spawner="a"),
        msgspec.structs.replace(plain, spawner="roomy", free_mib=99),
        msgspec.structs.replace(plain, spawner="known", estimate_ms=50.0),
        msgspec.structs.replace(plain, spawner="warm", warm=True),
        Bid(spawner="no", declined="capacity"),
    ]
    assert [bid.spawner for bid in best(bids)] == ["warm", "known", "roomy", "a", "b", "dear"]


def test_refusal_tells_the_best_news_there_is() -> None:
    request = wanted(min="vm")
    isolation = bid_of(request)
    full = Bid(spawner="vm-2", declined="capacity", message="nothing is left")
    busy = Bid(spawner="vm-3", declined="boots", message="busy")
    assert refusal([isolation], request, Terms()).data["reason"] == "isolation"
    assert refusal([isolation, full], request, Terms()).data["reason"] == "capacity"
    told = refusal([isolation, full, busy], request, Terms())
    assert (told.kind, told.retry_after_s) == (ErrorKind.OVERLOADED, 1.0)
    assert "code" not in told.data


def test_refusal_lists_what_there_is_instead() -> None:
    told = refusal([bid_of(wanted(min="vm"))], wanted(min="vm"), Terms()).data
    assert told["min"] == "vm"
    listed = {one["driver"]: one for one in told["available"]}
    assert listed["firecracker"]["available"] is False
    assert listed["qemu"]["isolation"] == "vm-emulated"
