"""Bodies by key: ``ArtifactStore``."""

import asyncio
import hashlib
from collections.abc import AsyncIterator

import pytest
from tests.storage_contract.bench import (
    KB,
    MB,
    ODD_TEXTS,
    Bench,
    Check,
    fresh_tenant,
    pieces,
    random_body,
    refused,
    refused_for_quota,
)

from mcp_proto.errors import ErrorKind, MeshError
from tool_runner.drivers.storage import ArtifactStore

__all__ = ["ARTIFACTS"]

SIZES = (0, 1, 128 * KB - 1, 128 * KB, 128 * KB + 1, 3 * 128 * KB + 5)


async def whole(store: ArtifactStore, tenant: str, key: str) -> bytes | None:
    found = await store.read(tenant, key, 0, 64 * MB)
    if found is None:
        return None
    artifact, body = found
    assert len(body) == artifact.size
    assert hashlib.sha256(body).hexdigest() == artifact.sha256
    return body


async def artifact_comes_back_whole_and_described(bench: Bench) -> None:
    artifacts, tenant = (await bench.stores()).artifacts, fresh_tenant()
    for size in SIZES:
        body = random_body(size)
        made = await artifacts.put(tenant, f"s{size}", pieces(body), "application/x; a=b")
        assert (made.key, made.size) == (f"s{size}", size)
        assert made.content_type == "application/x; a=b"
        assert made.sha256 == hashlib.sha256(body).hexdigest()
        assert made.created_ms > 1_600_000_000_000
        assert await artifacts.head(tenant, f"s{size}") == made
        found = await artifacts.read(tenant, f"s{size}", 0, size + 10)
        assert found == (made, body)


async def artifact_of_ten_megabytes_is_seen_by_another_runner(bench: Bench) -> None:
    here, there = (await bench.stores()).artifacts, (await bench.stores()).artifacts
    tenant, body = fresh_tenant(), random_body(10_000_000)
    await here.put(tenant, "big", pieces(body, 3_000_000), "application/octet-stream")
    assert await whole(there, tenant, "big") == body


async def ranges_are_cut_at_the_end(bench: Bench) -> None:
    artifacts, tenant = (await bench.stores()).artifacts, fresh_tenant()
    body = random_body(300 * KB)
    await artifacts.put(tenant, "a", pieces(body), "text/plain")
    for offset, length in (
        (0, 1),
        (5, 10),
        (128 * KB - 1, 2),
        (128 * KB, 128 * KB),
        (100, 299 * KB),
        (300 * KB - 1, 100),
        (300 * KB, 1),
        (10_000_000, 5),
        (7, 0),
    ):
        found = await artifacts.read(tenant, "a", offset, length)
        assert found is not None
        assert found[1] == body[offset : offset + length], (offset, length)


async def missing_artifact_is_none_and_delete_says_so(bench: Bench) -> None:
    artifacts, tenant = (await bench.stores()).artifacts, fresh_tenant()
    assert await artifacts.head(tenant, "a") is None
    assert await artifacts.read(tenant, "a", 0, 10) is None
    assert await artifacts.delete(tenant, "a") is False
    await artifacts.put(tenant, "a", pieces(b"1"), "text/plain")
    assert await artifacts.delete(tenant, "a") is True
    assert await artifacts.head(tenant, "a") is None
    assert await artifacts.read(tenant, "a", 0, 10) is None
    assert await artifacts.delete(tenant, "a") is False
    await artifacts.put(tenant, "a", pieces(b"22"), "text/plain")
    assert await whole(artifacts, tenant, "a") == b"22"
    assert await bench.leftovers(tenant) == 0


async def later_put_replaces_body_type_and_size(bench: Bench) -> None:
    artifacts, tenant = (await bench.stores()).artifacts, fresh_tenant()
    await artifacts.put(tenant, "a", pieces(random_body(300 * KB)), "text/plain")
    made = await artifacts.put(tenant, "a", pieces(b"new"), "text/html")
    assert await artifacts.head(tenant, "a") == made
    assert await whole(artifacts, tenant, "a") == b"new"
    assert (await artifacts.list(tenant, "", 10, "")).artifacts == (made,)
    assert await bench.leftovers(tenant) == 0


async def broken_upload_leaves_nothing_and_the_old_one_stands(bench: Bench) -> None:
    artifacts, tenant = (await bench.stores()).artifacts, fresh_tenant()

    async def breaking() -> AsyncIterator[bytes]:
        yield random_body(300 * KB)
        yield random_body(300 * KB)
        raise ConnectionError("the sender is gone")

    await artifacts.put(tenant, "old", pieces(b"old"), "text/plain")
    for key in ("new", "old"):
        with pytest.raises(ConnectionError):
            await artifacts.put(tenant, key, breaking(), "text/plain")
    assert await artifacts.head(tenant, "new") is None
    assert await whole(artifacts, tenant, "old") == b"old"
    assert len((await artifacts.list(tenant, "", 10, "")).artifacts) == 1
    assert await bench.leftovers(tenant) == 0


async def upload_is_invisible_until_it_is_whole_and_gone_when_cancelled(bench: Bench) -> None:
    artifacts, tenant = (await bench.stores()).artifacts, fresh_tenant()
    begun = asyncio.Event()

    async def stalling() -> AsyncIterator[bytes]:
        yield random_body(300 * KB)
        begun.set()
        await asyncio.Event().wait()

    upload = asyncio.ensure_future(artifacts.put(tenant, "a", stalling(), "text/plain"))
    await asyncio.wait_for(begun.wait(), 10)
    assert await artifacts.head(tenant, "a") is None
    assert await artifacts.read(tenant, "a", 0, 10) is None
    assert (await artifacts.list(tenant, "", 10, "")).artifacts == ()
    upload.cancel()
    await asyncio.wait([upload], timeout=10)
    assert upload.cancelled()
    assert await artifacts.head(tenant, "a") is None
    assert await bench.leftovers(tenant) == 0


async def of_two_writers_one_stands_whole(bench: Bench) -> None:
    stores = [(await bench.stores()).artifacts for _ in range(2)]
    tenant = fresh_tenant()
    bodies = [bytes([n]) * (200 * KB + n) for n in range(6)]
    for _ in range(3):
        await asyncio.gather(
            *(
                stores[n % 2].put(tenant, "a", pieces(body), f"text/{n}")
                for n, body in enumerate(bodies)
            )
        )
        found = await stores[0].read(tenant, "a", 0, MB)
        assert found is not None
        artifact, body = found
        assert body in bodies
        assert artifact.content_type == f"text/{body[0]}"
        assert artifact.sha256 == hashlib.sha256(body).hexdigest()
    assert len((await stores[1].list(tenant, "", 10, "")).artifacts) == 1
    assert await bench.leftovers(tenant) == 0


async def reader_never_sees_a_mixture(bench: Bench) -> None:
    artifacts, tenant = (await bench.stores()).artifacts, fresh_tenant()
    bodies = [bytes([n]) * (400 * KB + n) for n in range(4)]
    await artifacts.put(tenant, "a", pieces(bodies[0]), "text/plain")
    done = asyncio.Event()

    async def read() -> int:
        seen = 0
        while not done.is_set():
            body = await whole(artifacts, tenant, "a")
            assert body is None or body in bodies
            seen += 1
        return seen

    async def write() -> None:
        try:
            for n in range(8):
                if n % 3 == 2:
                    await artifacts.delete(tenant, "a")
                await artifacts.put(tenant, "a", pieces(bodies[n % 4]), "text/plain")
        finally:
            done.set()

    reads, other, _ = await asyncio.gather(read(), read(), write())
    assert reads
    assert other


async def odd_keys_name_one_artifact_each_in_one_tenant(bench: Bench) -> None:
    artifacts, mine, other = (await bench.stores()).artifacts, fresh_tenant(), fresh_tenant()
    for n, key in enumerate(ODD_TEXTS):
        await artifacts.put(mine, key, pieces(b"%d" % n), "text/plain")
    for n, key in enumerate(ODD_TEXTS):
        assert await whole(artifacts, mine, key) == b"%d" % n, key
        assert await artifacts.head(other, key) is None
        assert await artifacts.delete(other, key) is False
    listed = (await artifacts.list(mine, "", 1000, "")).artifacts
    assert [one.key for one in listed] == sorted(ODD_TEXTS)
    assert (await artifacts.list(other, "", 1000, "")).artifacts == ()


async def artifacts_are_listed_by_prefix_and_page(bench: Bench) -> None:
    artifacts, tenant = (await bench.stores()).artifacts, fresh_tenant()
    made = {
        key: await artifacts.put(tenant, key, pieces(key.encode()), "text/plain")
        for key in ("p/1", "p/2", "p/3", "p", "q/1", "*")
    }
    first = await artifacts.list(tenant, "p/", 2, "")
    assert first.artifacts == (made["p/1"], made["p/2"])
    rest = await artifacts.list(tenant, "p/", 2, first.cursor)
    assert rest.artifacts == (made["p/3"],)
    assert rest.cursor == ""
    assert [one.key for one in (await artifacts.list(tenant, "*", 9, "")).artifacts] == ["*"]


async def artifact_keys_that_cannot_be_are_refused(bench: Bench) -> None:
    artifacts, tenant = (await bench.stores()).artifacts, fresh_tenant()
    for key in ("", "\ud800"):
        await refused(ErrorKind.PARAMS, artifacts.head(tenant, key))
        await refused(ErrorKind.PARAMS, artifacts.read(tenant, key, 0, 1))
        await refused(ErrorKind.PARAMS, artifacts.put(tenant, key, pieces(b"1"), "text/plain"))
        await refused(ErrorKind.PARAMS, artifacts.delete(tenant, key))
    error = ErrorKind.TOO_LARGE
    await refused(error, artifacts.put(tenant, "x" * 5000, pieces(b"1"), "text/plain"))


async def artifacts_over_the_quota_are_refused_with_both_figures(bench: Bench) -> None:
    quota = 2 * MB
    artifacts, tenant = (await bench.stores(quota)).artifacts, fresh_tenant()
    await artifacts.put(tenant, "a", pieces(random_body(MB)), "text/plain")
    await refused_for_quota(
        artifacts.put(tenant, "b", pieces(random_body(MB + MB // 2)), "text/plain"), quota
    )
    assert await artifacts.head(tenant, "b") is None
    assert await bench.leftovers(tenant) == 0
    await artifacts.delete(tenant, "a")
    body = random_body(MB + MB // 2)
    await artifacts.put(tenant, "b", pieces(body), "text/plain")
    assert await whole(artifacts, tenant, "b") == body


async def quota_covers_values_and_artifacts_together(bench: Bench) -> None:
    quota = MB
    stores, tenant = await bench.stores(quota), fresh_tenant()
    await stores.artifacts.put(tenant, "a", pieces(random_body(900 * KB)), "text/plain")
    value = b'"' + b"x" * (300 * KB) + b'"'
    await refused_for_quota(stores.values.set(tenant, "v", value), quota)


async def cursor_nobody_gave_is_refused_or_leads_nowhere_else(bench: Bench) -> None:
    stores, mine, other = await bench.stores(), fresh_tenant(), fresh_tenant()
    await stores.values.set(other, "secret", b"1")
    await stores.artifacts.put(other, "secret", pieces(b"1"), "text/plain")
    for cursor in ("!", "=ZZ", "..", f"{other}", "x" * 5000):
        for listing in (stores.values.keys, stores.artifacts.list):
            try:
                found = str(await listing(mine, "", 10, cursor))
            except MeshError as error:
                found = f"{error.kind.value}: {error}"
            assert "secret" not in found
            assert found.startswith(("params: ", "Page", "ArtifactPage")), found


ARTIFACTS: tuple[Check, ...] = (
    artifact_comes_back_whole_and_described,
    artifact_of_ten_megabytes_is_seen_by_another_runner,
    ranges_are_cut_at_the_end,
    missing_artifact_is_none_and_delete_says_so,
    later_put_replaces_body_type_and_size,
    broken_upload_leaves_nothing_and_the_old_one_stands,
    upload_is_invisible_until_it_is_whole_and_gone_when_cancelled,
    of_two_writers_one_stands_whole,
    reader_never_sees_a_mixture,
    odd_keys_name_one_artifact_each_in_one_tenant,
    artifacts_are_listed_by_prefix_and_page,
    artifact_keys_that_cannot_be_are_refused,
    artifacts_over_the_quota_are_refused_with_both_figures,
    quota_covers_values_and_artifacts_together,
    cursor_nobody_gave_is_refused_or_leads_nowhere_else,
)
