"""The contract of the storage drivers on AWS, against moto's server, and hostile keys on it."""

import random
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib import import_module

import msgspec
import pytest
from tests.aws_bench import AwsBench
from tests.storage_contract.bench import KB, MB, ODD_TEXTS, fresh_tenant, pieces, random_body

from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.bus.connection import Bus
from mesh_chassis.config import ConfigError
from mesh_chassis.testing.conditions import eventually
from tool_runner.config import AwsConfig, LimitsConfig, StorageConfig
from tool_runner.drivers.aws import usage as aws_usage
from tool_runner.drivers.aws.faults import Effect
from tool_runner.drivers.aws.items import ITEM_VALUE_BYTES
from tool_runner.drivers.aws.names import decoded, encoded
from tool_runner.drivers.opening import open_jetstream, open_stores
from tool_runner.drivers.storage import VALUE_BYTES_MAX

contract = import_module("services.tool-runner.tests.drivers.contract")

ConnectBus = Callable[..., Awaitable[Bus]]


@pytest.fixture
def bench(aws: AwsBench) -> AwsBench:
    return aws


@pytest.fixture
async def bridged(
    provision: None, aws: AwsBench, connect_bus: ConnectBus
) -> AsyncIterator[AwsBench]:
    """The bench, its events kept on a broker."""
    bus = await connect_bus("tool-runner", "runner-1")
    kept = open_jetstream(bus, StorageConfig(), LimitsConfig())
    aws.kept = kept.events
    yield aws
    await kept.close()


@pytest.mark.parametrize("check", contract.VALUES, ids=contract.title)
async def test_values(bench, check):
    await check(bench)


@pytest.mark.parametrize("check", contract.ARTIFACTS, ids=contract.title)
async def test_artifacts(bench, check):
    await check(bench)


@pytest.mark.parametrize(
    "check",
    [
        check
        for check in contract.ARTIFACTS
        if check.__name__.startswith(
            (
                "artifact_comes",
                "ranges",
                "later_put",
                "broken",
                "upload",
                "of_two",
                "artifacts_over",
            )
        )
    ],
    ids=contract.title,
)
async def test_artifacts_in_parts(bench, check):
    bench.part_bytes = 64 * KB
    await check(bench)


@pytest.mark.parametrize("check", contract.EVENTS, ids=contract.title)
async def test_events(bridged, check):
    await check(bridged)


# Names


def test_encoded_names_are_reversible_ordered_and_keep_prefixes():
    letters = "aZ09-_./=~%:@[^`{é日😀\x00\x7f \\"
    rng = random.Random(7)
    texts = sorted(
        {"".join(rng.choices(letters, k=rng.randint(1, 6))) for _ in range(3000)} | set(ODD_TEXTS)
    )
    names = [encoded(text) for text in texts]
    assert [decoded(name) for name in names] == texts
    assert sorted(names) == names
    assert len(set(names)) == len(texts)
    for text in texts[:500]:
        for end in range(len(text)):
            assert encoded(text).startswith(encoded(text[:end]))
    assert not set("".join(names)) & set("/.%\\ ")


@pytest.mark.parametrize("name", ["a.b", "-2", "-zz", "-2E", "=2e", "%41", "é", "-61", "~80"])
def test_name_that_no_runner_writes_is_none(name):
    with pytest.raises(ValueError, match=r"encoded|decode"):
        decoded(name)


# Isolation


HOSTILE = (
    *ODD_TEXTS,
    "../{other}/secret",
    "{other}/secret",
    "/{other}/secret",
    "..%2f{other}%2fsecret",
    "{other}",
    "secret",
    "{other}/rest",
    "{other}/used",
    "-2e-2e-2f{other}-2fsecret",
    "\x00",
    "secret\x00",
    ".uploads/{other}/x",
)


@pytest.mark.slow
@pytest.mark.slow
async def test_hostile_keys_of_one_tenant_touch_nothing_of_another(bench):
    stores = await bench.stores()
    mine, other = fresh_tenant(), fresh_tenant()
    large = b'"' + b"x" * ITEM_VALUE_BYTES + b'"'
    await stores.values.set(other, "secret", large)
    await stores.artifacts.put(other, "secret", pieces(b"secret"), "text/plain")
    values, bodies = await bench.items(other), await bench.objects()
    beside = await bench.items(f"{other}/rest")
    assert len(beside) == 1
    for text in HOSTILE:
        key = text.format(other=other) if "{" in text else text
        assert await stores.values.get(mine, key) is None
        assert await stores.artifacts.read(mine, key, 0, 99) is None
        assert await stores.values.delete(mine, key) is False
        assert await stores.artifacts.delete(mine, key) is False
        assert (await stores.values.keys(mine, key, 100, "")).keys == ()
        assert (await stores.artifacts.list(mine, key, 100, "")).artifacts == ()
        await stores.values.set(mine, key, b"1")
        await stores.artifacts.put(mine, key, pieces(b"1"), "text/plain")
        assert (await stores.values.keys(other, "", 100, "")).keys == ("secret",)
        listed = (await stores.artifacts.list(other, "", 100, "")).artifacts
        assert [one.key for one in listed] == ["secret"]
        assert await stores.values.delete(mine, key) is True
        assert await stores.artifacts.delete(mine, key) is True
    assert await bench.items(other) == values
    assert await bench.items(f"{other}/rest") == beside
    assert await bench.objects() == bodies


@pytest.mark.parametrize("tenant", ["", "_", "a/b", "..", "a/rest", "A", ".uploads", "x" * 41, "é"])
async def test_what_is_no_tenant_has_no_stores(bench, tenant):
    bench.kept = object()
    stores = await bench.stores()
    for doing in (
        stores.values.get(tenant, "a"),
        stores.values.set(tenant, "a", b"1"),
        stores.values.keys(tenant, "", 9, ""),
        stores.artifacts.head(tenant, "a"),
        stores.artifacts.put(tenant, "a", pieces(b"1"), "text/plain"),
        stores.artifacts.list(tenant, "", 9, ""),
        stores.events.send(tenant, "a", b"1", ""),
    ):
        with pytest.raises(MeshError) as caught:
            await doing
        assert caught.value.kind is ErrorKind.PARAMS


# Values


@pytest.mark.parametrize(
    "size", [ITEM_VALUE_BYTES, ITEM_VALUE_BYTES + 1, VALUE_BYTES_MAX, VALUE_BYTES_MAX + 1]
)
async def test_value_larger_than_an_item_is_kept_up_to_the_limit_of_values(bench, size):
    values, tenant = (await bench.stores()).values, fresh_tenant()
    key = "k" * 440
    value = b'"' + secrets.token_hex(size // 2 + 1).encode()[: size - 2] + b'"'
    if size > VALUE_BYTES_MAX:
        with pytest.raises(MeshError) as caught:
            await values.set(tenant, key, value)
        assert caught.value.kind is ErrorKind.TOO_LARGE
        return
    revision = await values.set(tenant, key, value)
    stored = await values.get(tenant, key)
    assert bytes(stored.value) == value
    assert stored.revision == revision
    assert (await values.keys(tenant, "", 9, "")).keys == (key,)


async def test_second_item_comes_and_goes_with_its_value(bench):
    values, tenant = (await bench.stores()).values, fresh_tenant()
    large, larger = b'"' + b"x" * 400_000 + b'"', b'"' + b"y" * 450_000 + b'"'
    revision = await values.set(tenant, "a", large)
    assert len(await bench.items(f"{tenant}/rest")) == 1
    for value, more in ((larger, 1), (b"1", 0), (large, 1)):
        revision = await values.compare_and_set(tenant, "a", value, revision)
        assert revision
        assert bytes((await values.get(tenant, "a")).value) == value
        assert len(await bench.items(f"{tenant}/rest")) == more
    assert await values.compare_and_set(tenant, "a", b"2", revision - 1) is None
    assert await values.set(tenant, "a", b"3") > revision
    assert await bench.items(f"{tenant}/rest") == []
    await values.set(tenant, "a", large)
    assert await values.delete(tenant, "a") is True
    assert await bench.items(tenant) == await bench.items(f"{tenant}/rest") == []


async def test_item_tells_dynamodb_when_to_sweep_it(bench):
    values, tenant = (await bench.stores()).values, fresh_tenant()
    await values.set(tenant, "a", b"1", 60)
    (item,) = await bench.items(tenant)
    left = int(item["expires"]["N"]) * 1000 - int(item["expires_ms"]["N"])
    assert 0 <= left < 1000
    assert int(item["expires_ms"]["N"]) - int(item["created_ms"]["N"]) == 60_000
    await values.set(tenant, "a", b"2")
    (item,) = await bench.items(tenant)
    assert "expires" not in item


async def test_listing_of_much_goes_on_over_the_pages_of_dynamodb(bench):
    values, tenant = (await bench.stores()).values, fresh_tenant()
    for n in range(8):
        await values.set(tenant, f"k{n}", b'"' + b"x" * 300_000 + b'"')
    assert (await values.keys(tenant, "", 100, "")).keys == tuple(f"k{n}" for n in range(8))
    page = await values.keys(tenant, "k", 5, "")
    assert page.keys == tuple(f"k{n}" for n in range(5))
    assert (await values.keys(tenant, "k", 5, page.cursor)).keys == ("k5", "k6", "k7")
    assert (await values.keys(tenant, "j", 5, page.cursor)).keys == ()
    assert len((await values.keys(tenant, "", 9, "a")).keys) == 8


async def test_prefix_and_cursor_that_no_key_can_have_find_nothing(bench):
    stores, tenant = await bench.stores(), fresh_tenant()
    await stores.values.set(tenant, "a", b"1")
    await stores.artifacts.put(tenant, "a", pieces(b"1"), "text/plain")
    for prefix in ("\ud800", "a" * 5000):
        assert (await stores.values.keys(tenant, prefix, 9, "")).keys == ()
        assert (await stores.artifacts.list(tenant, prefix, 9, "")).artifacts == ()
    for listing in (stores.values.keys, stores.artifacts.list):
        for cursor in ("a" * 5000, "=", "%"):
            with pytest.raises(MeshError, match="unknown cursor") as caught:
                await listing(tenant, "", 9, cursor)
            assert caught.value.kind is ErrorKind.PARAMS


# Quota


async def test_quota_is_seen_by_another_runner_and_freed_by_expiry(bench, monkeypatch):
    monkeypatch.setattr(aws_usage, "FLUSH_S", 0.01)
    here, there = await bench.stores(100 * KB), await bench.stores(100 * KB)
    tenant, value = fresh_tenant(), b'"' + b"x" * (60 * KB) + b'"'
    await here.values.set(tenant, "a", value, 1)

    async def counted() -> bool:
        return bool(await bench.items(f"{tenant}/used"))

    async def expired() -> bool:
        return await there.values.get(tenant, "a") is None

    await eventually(counted, timeout_s=5.0)
    with pytest.raises(MeshError) as caught:
        await there.artifacts.put(tenant, "b", pieces(random_body(60 * KB)), "text/plain")
    assert caught.value.data["quotaBytes"] == 100 * KB
    monkeypatch.setattr(aws_usage, "RECOUNT_S", 0.0)
    await eventually(expired, timeout_s=5.0)
    await there.artifacts.put(tenant, "b", pieces(random_body(60 * KB)), "text/plain")


async def test_replacing_within_a_full_quota_is_allowed(bench):
    stores, tenant = await bench.stores(MB), fresh_tenant()
    value = b'"' + b"x" * (400 * KB) + b'"'
    await stores.values.set(tenant, "a", value)
    await stores.artifacts.put(tenant, "b", pieces(random_body(500 * KB)), "text/plain")
    await stores.values.set(tenant, "a", value)
    await stores.artifacts.put(tenant, "b", pieces(random_body(600 * KB)), "text/plain")
    with pytest.raises(MeshError):
        await stores.artifacts.put(tenant, "b", pieces(random_body(700 * KB)), "text/plain")
    assert (await stores.artifacts.head(tenant, "b")).size == 600 * KB


# Artifacts and events


async def test_object_of_another_tool_is_an_artifact_without_digest(bench):
    artifacts, tenant = (await bench.stores()).artifacts, fresh_tenant()
    for name in (encoded("report.txt"), "not-encoded.txt"):
        await bench.aws.call(
            "s3",
            "put_object",
            {
                "Bucket": bench.config.artifacts_bucket,
                "Key": f"{tenant}/{name}",
                "Body": b"hello",
                "ContentType": "text/plain",
            },
            effect=Effect.SAFE,
        )
    (listed,) = (await artifacts.list(tenant, "", 9, "")).artifacts
    assert (listed.key, listed.size, listed.content_type) == ("report.txt", 5, "text/plain")
    assert listed.sha256 == ""
    assert await artifacts.read(tenant, "report.txt", 1, 3) == (listed, b"ell")


@pytest.mark.parametrize("content_type", ["", "text/plain\r\nX-Evil: 1", "té/x", "x" * 256])
async def test_content_type_that_cannot_be_a_header_is_refused(bench, content_type):
    artifacts, tenant = (await bench.stores()).artifacts, fresh_tenant()
    with pytest.raises(MeshError) as caught:
        await artifacts.put(tenant, "a", pieces(b"1"), content_type)
    assert caught.value.kind is ErrorKind.PARAMS
    assert await bench.objects() == []


async def test_rule_on_eventbridge_gets_every_event_with_its_tenant_as_source(bridged):
    aws, mine, other = bridged.aws, fresh_tenant(), fresh_tenant()
    queue = await aws.call("sqs", "create_queue", {"QueueName": mine}, effect=Effect.SAFE)
    url = {"QueueUrl": queue["QueueUrl"]}
    asked = {**url, "AttributeNames": ["QueueArn"]}
    arn = (await aws.call("sqs", "get_queue_attributes", asked, effect=Effect.READ))["Attributes"]
    rule = {"Name": mine, "EventBusName": bridged.config.event_bus}
    pattern = msgspec.json.encode({"source": [f"mesh.{mine}"]}).decode()
    await aws.call("events", "put_rule", {**rule, "EventPattern": pattern}, effect=Effect.SAFE)
    target = {"Id": "q", "Arn": arn["QueueArn"]}
    await aws.call(
        "events",
        "put_targets",
        {"Rule": mine, "EventBusName": rule["EventBusName"], "Targets": [target]},
        effect=Effect.SAFE,
    )
    events = (await bridged.stores()).events
    await events.send(other, "tasks:done", b'"not mine"', "eve")
    await events.send(mine, "tasks:done", b'{"n":1.50}', "ann")
    await events.send(mine, "t\n" + "t" * 200, b"[]", "ann")
    answer = await aws.call(
        "sqs", "receive_message", {**url, "MaxNumberOfMessages": 10}, effect=Effect.READ
    )
    got = [msgspec.json.decode(one["Body"]) for one in answer["Messages"]]
    assert {one["source"] for one in got} == {f"mesh.{mine}"}
    first, second = sorted(got, key=lambda one: len(one["detail-type"]))
    assert first["detail-type"] == "tasks:done"
    assert first["detail"]["data"] == {"n": 1.5}
    assert (first["detail"]["tenant"], first["detail"]["source"]) == (mine, "ann")
    assert second["detail-type"] == "t_" + "t" * 126
    assert second["detail"]["topic"] == "t\n" + "t" * 200


# Configuration


def stores_of(bus: Bus, **fields: str):
    aws = AwsConfig(**{"kv_table": "t", "artifacts_bucket": "b", **fields})
    return open_stores(bus, StorageConfig(backend="aws", aws=aws), LimitsConfig())


async def test_runner_without_region_table_or_bucket_does_not_start(connect_bus, monkeypatch):
    bus = await connect_bus("tool-runner", "runner-1")
    for fields, key in (
        ({}, "storage.aws.region"),
        ({"region": "eu-west-1", "kv_table": ""}, "storage.aws.kv_table"),
        ({"region": "eu-west-1", "artifacts_bucket": ""}, "storage.aws.artifacts_bucket"),
    ):
        with pytest.raises(ConfigError) as caught:
            stores_of(bus, **fields)
        assert caught.value.key == key
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    stores = stores_of(bus)
    await stores.close()
