"""Values by key: ``Storage``."""

import asyncio
import secrets

from tests.storage_contract.bench import (
    KB,
    ODD_TEXTS,
    Bench,
    Check,
    fresh_tenant,
    refused,
    refused_for_quota,
)

from mcp_proto.errors import ErrorKind
from mesh_chassis.testing.conditions import eventually

__all__ = ["VALUES"]


async def value_comes_back_byte_for_byte(bench: Bench) -> None:
    values, tenant = (await bench.stores()).values, fresh_tenant()
    revision = await values.set(tenant, "a", b'{"z":1.50, "a":[ ]}')
    stored = await values.get(tenant, "a")
    assert stored is not None
    assert bytes(stored.value) == b'{"z":1.50, "a":[ ]}'
    assert stored.revision == revision > 0
    assert stored.created_ms > 1_600_000_000_000


async def value_of_another_runner_is_seen(bench: Bench) -> None:
    here, there = (await bench.stores()).values, (await bench.stores()).values
    tenant = fresh_tenant()
    await here.set(tenant, "a", b"1")
    stored = await there.get(tenant, "a")
    assert stored is not None
    assert bytes(stored.value) == b"1"


async def missing_value_is_none_and_delete_says_so(bench: Bench) -> None:
    values, tenant = (await bench.stores()).values, fresh_tenant()
    assert await values.get(tenant, "a") is None
    assert await values.delete(tenant, "a") is False
    await values.set(tenant, "a", b"1")
    assert await values.delete(tenant, "a") is True
    assert await values.get(tenant, "a") is None
    assert await values.delete(tenant, "a") is False


async def revision_of_a_key_grows_with_every_write(bench: Bench) -> None:
    values, tenant = (await bench.stores()).values, fresh_tenant()
    seen = [await values.set(tenant, "a", b"%d" % n) for n in range(4)]
    await values.delete(tenant, "a")
    seen.append(await values.set(tenant, "a", b"1"))
    assert seen == sorted(set(seen))


async def odd_keys_name_one_value_each_in_one_tenant(bench: Bench) -> None:
    values, mine, other = (await bench.stores()).values, fresh_tenant(), fresh_tenant()
    for n, key in enumerate(ODD_TEXTS):
        await values.set(mine, key, b"%d" % n)
    for n, key in enumerate(ODD_TEXTS):
        stored = await values.get(mine, key)
        assert stored is not None, key
        assert bytes(stored.value) == b"%d" % n
        assert await values.get(other, key) is None
        assert await values.delete(other, key) is False
    assert (await values.keys(mine, "", 1000, "")).keys == tuple(sorted(ODD_TEXTS))
    assert (await values.keys(other, "", 1000, "")).keys == ()


async def prefix_is_text_and_no_pattern(bench: Bench) -> None:
    values, tenant = (await bench.stores()).values, fresh_tenant()
    for key in ("p/1", "p/2", "p", "q/1", "*", "*x", "%70"):
        await values.set(tenant, key, b"1")
    assert (await values.keys(tenant, "p/", 10, "")).keys == ("p/1", "p/2")
    assert (await values.keys(tenant, "*", 10, "")).keys == ("*", "*x")
    assert (await values.keys(tenant, ">", 10, "")).keys == ()
    assert (await values.keys(tenant, "..", 10, "")).keys == ()


async def list_of_keys_goes_on_from_its_cursor(bench: Bench) -> None:
    values, tenant = (await bench.stores()).values, fresh_tenant()
    for n in range(7):
        await values.set(tenant, f"k{n}", b"1")
    await values.set(tenant, "z", b"1")
    found: list[str] = []
    cursor = ""
    for _ in range(3):
        page = await values.keys(tenant, "k", 3, cursor)
        found += page.keys
        cursor = page.cursor
        if not cursor:
            break
    assert found == [f"k{n}" for n in range(7)]
    assert cursor == ""


async def value_with_ttl_expires_unless_it_is_set_again(bench: Bench) -> None:
    values, tenant = (await bench.stores()).values, fresh_tenant()
    await values.set(tenant, "short", b"1", 1)
    await values.set(tenant, "kept", b"1", 1)
    await values.set(tenant, "kept", b"2")

    async def expired() -> bool:
        return await values.get(tenant, "short") is None

    await eventually(expired, timeout_s=5.0)
    assert (await values.keys(tenant, "", 10, "")).keys == ("kept",)
    stored = await values.get(tenant, "kept")
    assert stored is not None
    assert bytes(stored.value) == b"2"


async def compare_and_set_creates_only_where_there_is_nothing(bench: Bench) -> None:
    values, tenant = (await bench.stores()).values, fresh_tenant()
    first = await values.compare_and_set(tenant, "a", b"1", 0)
    assert first is not None
    assert await values.compare_and_set(tenant, "a", b"2", 0) is None
    stored = await values.get(tenant, "a")
    assert stored is not None
    assert (bytes(stored.value), stored.revision) == (b"1", first)


async def compare_and_set_replaces_the_expected_revision_only(bench: Bench) -> None:
    values, tenant = (await bench.stores()).values, fresh_tenant()
    first = await values.set(tenant, "a", b"1")
    second = await values.compare_and_set(tenant, "a", b"2", first)
    assert second is not None
    assert second > first
    for stale in (first, second + 1000):
        assert await values.compare_and_set(tenant, "a", b"3", stale) is None
    assert await values.compare_and_set(tenant, "b", b"3", first) is None
    stored = await values.get(tenant, "a")
    assert stored is not None
    assert bytes(stored.value) == b"2"
    assert await values.get(tenant, "b") is None


async def compare_and_set_knows_deleted_and_expired_values(bench: Bench) -> None:
    values, tenant = (await bench.stores()).values, fresh_tenant()
    old = await values.set(tenant, "a", b"1")
    await values.delete(tenant, "a")
    assert await values.compare_and_set(tenant, "a", b"2", old) is None
    assert await values.compare_and_set(tenant, "a", b"2", 0, 1) is not None

    async def expired() -> bool:
        return await values.get(tenant, "a") is None

    await eventually(expired, timeout_s=5.0)
    assert await values.compare_and_set(tenant, "a", b"3", 0) is not None


async def of_racing_writers_one_wins(bench: Bench) -> None:
    stores = [(await bench.stores()).values for _ in range(2)]
    tenant = fresh_tenant()
    base = await stores[0].set(tenant, "a", b"0")
    answers = await asyncio.gather(
        *(stores[n % 2].compare_and_set(tenant, "a", b"%d" % n, base) for n in range(10))
    )
    assert sum(answer is not None for answer in answers) == 1
    stored = await stores[0].get(tenant, "a")
    assert stored is not None
    assert answers[int(bytes(stored.value))] == stored.revision


async def counters_of_racing_writers_lose_nothing(bench: Bench) -> None:
    values, tenant = (await bench.stores()).values, fresh_tenant()
    await values.set(tenant, "n", b"0")

    async def add(times: int) -> None:
        for _ in range(times):
            while True:
                stored = await values.get(tenant, "n")
                assert stored is not None
                more = b"%d" % (int(bytes(stored.value)) + 1)
                if await values.compare_and_set(tenant, "n", more, stored.revision) is not None:
                    break

    async with asyncio.timeout(30):
        await asyncio.gather(*(add(5) for _ in range(4)))
    stored = await values.get(tenant, "n")
    assert stored is not None
    assert bytes(stored.value) == b"20"


async def keys_that_cannot_be_are_refused(bench: Bench) -> None:
    values, tenant = (await bench.stores()).values, fresh_tenant()
    for key in ("", "\ud800"):
        await refused(ErrorKind.PARAMS, values.get(tenant, key))
        await refused(ErrorKind.PARAMS, values.set(tenant, key, b"1"))
        await refused(ErrorKind.PARAMS, values.compare_and_set(tenant, key, b"1", 0))
        await refused(ErrorKind.PARAMS, values.delete(tenant, key))
    await refused(ErrorKind.TOO_LARGE, values.set(tenant, "x" * 5000, b"1"))


async def value_of_350_kib_is_kept(bench: Bench) -> None:
    values, tenant = (await bench.stores()).values, fresh_tenant()
    value = b'"' + secrets.token_hex(175 * KB).encode() + b'"'
    await values.set(tenant, "a", value)
    stored = await values.get(tenant, "a")
    assert stored is not None
    assert bytes(stored.value) == value


async def values_over_the_quota_are_refused_with_both_figures(bench: Bench) -> None:
    quota = 100 * KB
    values, tenant, other = (await bench.stores(quota)).values, fresh_tenant(), fresh_tenant()
    value = b'"' + b"x" * (40 * KB) + b'"'
    await values.set(tenant, "a", value)
    await values.set(tenant, "b", value)
    await refused_for_quota(values.set(tenant, "c", value), quota)
    await refused_for_quota(values.compare_and_set(tenant, "c", value, 0), quota)
    assert (await values.keys(tenant, "", 10, "")).keys == ("a", "b")
    await values.set(other, "c", value)
    await values.delete(tenant, "a")
    await values.set(tenant, "c", value)


VALUES: tuple[Check, ...] = (
    value_comes_back_byte_for_byte,
    value_of_another_runner_is_seen,
    missing_value_is_none_and_delete_says_so,
    revision_of_a_key_grows_with_every_write,
    odd_keys_name_one_value_each_in_one_tenant,
    prefix_is_text_and_no_pattern,
    list_of_keys_goes_on_from_its_cursor,
    value_with_ttl_expires_unless_it_is_set_again,
    compare_and_set_creates_only_where_there_is_nothing,
    compare_and_set_replaces_the_expected_revision_only,
    compare_and_set_knows_deleted_and_expired_values,
    of_racing_writers_one_wins,
    counters_of_racing_writers_lose_nothing,
    keys_that_cannot_be_are_refused,
    value_of_350_kib_is_kept,
    values_over_the_quota_are_refused_with_both_figures,
)
