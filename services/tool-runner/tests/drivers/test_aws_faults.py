"""What the AWS drivers do when AWS, the network or another writer does not do as expected."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
from tests.aws_bench import AwsBench
from tests.aws_peer import FaultyLine, Lost, error_body, faulty_line
from tests.storage_contract.bench import KB, Stores, fresh_tenant, pieces, random_body

from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mesh_chassis.testing.conditions import eventually
from tool_runner.drivers.aws import session
from tool_runner.drivers.aws.faults import Effect
from tool_runner.drivers.aws.session import ATTEMPTS_MAX, Aws

slow = pytest.mark.slow
"""On all but one of each kind of fault: those run with every ``make test``."""

GET, PUT, DELETE, TRANSACT = ".GetItem", ".PutItem", ".DeleteItem", ".TransactWriteItems"
LARGE = b'"' + b"x" * 400_000 + b'"'


class Rig:
    """Stores behind a line that fails, and others that see moto as it is."""

    def __init__(self, bench: AwsBench, line: FaultyLine, stores: Stores, plain: Stores) -> None:
        self.bench = bench
        self.line = line
        self.stores = stores
        self.plain = plain
        self.tenant = fresh_tenant()

    async def value(self, key: str = "a") -> bytes | None:
        stored = await self.plain.values.get(self.tenant, key)
        return stored and bytes(stored.value)

    def sent(self, target: str) -> int:
        return sum(target in one for one in self.line.seen)


class Kept:
    """An ``EventStore`` that counts what reaches it."""

    def __init__(self) -> None:
        self.topics: list[str] = []

    async def send(self, tenant: str, topic: str, data: bytes, source: str) -> int:
        self.topics.append(topic)
        return len(self.topics)


@pytest.fixture
async def rig(aws: AwsBench, aws_url: str, monkeypatch) -> AsyncIterator[Rig]:
    monkeypatch.setattr(session, "PAUSE_S", 0.001)
    aws.kept = Kept()
    aws.part_bytes = 64 * KB
    async with faulty_line(aws_url) as line:
        yield Rig(aws, line, await aws.stores(-1, url=line.url), await aws.stores(-1))


async def failure(doing) -> MeshError:
    with pytest.raises(MeshError) as caught:
        await doing
    return caught.value


# Throttling


async def test_throttled_request_is_repeated_and_succeeds(rig):
    rig.line.throttle(PUT, "ProvisionedThroughputExceededException", ATTEMPTS_MAX - 1)
    await rig.stores.values.set(rig.tenant, "a", b"1")
    assert await rig.value() == b"1"


@slow
@pytest.mark.parametrize("code", ["ThrottlingException", "RequestLimitExceeded"])
async def test_lasting_throttling_is_overload_with_a_time_to_wait(rig, code):
    rig.line.throttle(PUT, code, ATTEMPTS_MAX)
    error = await failure(rig.stores.values.set(rig.tenant, "a", b"1"))
    assert error.kind is ErrorKind.OVERLOADED
    assert error.outcome is Outcome.NOT_EXECUTED
    assert error.retry_after_s == 1.0
    assert "DynamoDB" in error.message
    assert await rig.value() is None


@slow
async def test_throttled_s3_is_overload_too(rig):
    slow = b"<Error><Code>SlowDown</Code><Message>please</Message></Error>"
    rig.line.fail(f"PUT /{rig.bench.config.artifacts_bucket}", *[(503, slow)] * ATTEMPTS_MAX)
    error = await failure(rig.stores.artifacts.put(rig.tenant, "a", pieces(b"1"), "text/plain"))
    assert error.kind is ErrorKind.OVERLOADED
    assert error.retry_after_s == 1.0
    assert await rig.bench.objects() == []


# Credentials and rights


@slow
@pytest.mark.parametrize(
    "code", ["UnrecognizedClientException", "ExpiredTokenException", "InvalidSignatureException"]
)
async def test_refused_credential_is_one_clear_error_and_nothing_is_repeated(rig, code):
    for target, doing in (
        (GET, rig.stores.values.get(rig.tenant, "a")),
        (PUT, rig.stores.values.set(rig.tenant, "a", b"1")),
    ):
        rig.line.fail(target, (400, error_body(code, "The token of arn:aws:iam::1234 is bad")))
        error = await failure(doing)
        assert error.kind is ErrorKind.UPSTREAM
        assert error.outcome is Outcome.NOT_EXECUTED
        assert error.message == f"AWS DynamoDB refuses the runner's credential ({code})"
        assert rig.sent(target) == 1


async def test_missing_rights_are_named_and_say_nothing_of_the_account(rig):
    told = "User: arn:aws:iam::123456789012:role/x is not authorized"
    rig.line.fail(PUT, (400, error_body("AccessDeniedException", told)))
    error = await failure(rig.stores.values.set(rig.tenant, "a", b"1"))
    assert (error.kind, error.outcome) == (ErrorKind.UPSTREAM, Outcome.NOT_EXECUTED)
    assert "AccessDenied" in error.message
    assert "1234" not in error.message
    assert "1234" in error.internal
    rig.line.fail("HEAD", (403, b""))
    error = await failure(rig.stores.artifacts.head(rig.tenant, "a"))
    assert "AccessDenied" in error.message
    assert error.outcome is Outcome.NOT_EXECUTED


@slow
async def test_expired_credential_of_a_head_request_is_said(rig):
    rig.line.fail("HEAD", *[(400, b"")] * 3)  # the client looks for another region first
    error = await failure(rig.stores.artifacts.head(rig.tenant, "a"))
    assert (error.kind, error.outcome) == (ErrorKind.UPSTREAM, Outcome.NOT_EXECUTED)
    assert "credential has expired" in error.message


@slow
async def test_credentials_that_appear_later_are_found(rig, monkeypatch):
    monkeypatch.setattr(session, "FORGET_S", 0.0)
    stores = await rig.bench.stores(-1)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    error = await failure(stores.values.get(rig.tenant, "a"))
    assert "no valid AWS credentials" in error.message
    assert error.outcome is Outcome.NOT_EXECUTED
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    assert await stores.values.get(rig.tenant, "a") is None


@slow
async def test_table_and_bucket_that_do_not_exist_are_named_as_configuration(rig):
    config = msgspec.structs.replace(rig.bench.config, kv_table="gone", artifacts_bucket="gone-x")
    rig.bench.config = config
    stores = await rig.bench.stores(-1)
    error = await failure(stores.values.get(rig.tenant, "a"))
    assert "does not have what is configured (ResourceNotFoundException)" in error.message
    put = stores.artifacts.put(rig.tenant, "a", pieces(b"1"), "text/plain")
    assert "NoSuchBucket" in (await failure(put)).message


# The network


async def test_endpoint_that_is_gone_is_an_error_and_nothing_is_executed(rig):
    await rig.line.stop()
    try:
        for doing in (
            rig.stores.values.get(rig.tenant, "a"),
            rig.stores.values.set(rig.tenant, "a", b"1"),
            rig.stores.artifacts.put(rig.tenant, "a", pieces(b"1"), "text/plain"),
            rig.stores.events.send(rig.tenant, "a", b"1", ""),
        ):
            error = await failure(doing)
            assert (error.kind, error.outcome) == (ErrorKind.UPSTREAM, Outcome.NOT_EXECUTED)
            assert "cannot be reached" in error.message
    finally:
        await rig.line.start()


@slow
async def test_silent_aws_leaves_a_write_unknown_and_a_read_not_executed(rig):
    rig.line.fail("DynamoDB", *[None] * (2 * ATTEMPTS_MAX))
    write, read = await asyncio.gather(
        failure(rig.stores.values.set(rig.tenant, "a", b"1")),
        failure(rig.stores.values.get(rig.tenant, "a")),
    )
    assert (write.kind, write.outcome) == (ErrorKind.UPSTREAM, Outcome.UNKNOWN)
    assert (read.kind, read.outcome) == (ErrorKind.UPSTREAM, Outcome.NOT_EXECUTED)
    assert "in time" in write.message


@slow
async def test_call_ends_when_its_time_is_over_however_aws_behaves(rig):
    config = msgspec.structs.replace(
        rig.bench.config, endpoint_url=rig.line.url, answer_s=30, call_s=0.2
    )
    aws = Aws(config)
    rig.line.fail("DynamoDB", None, None)
    for effect, outcome in ((Effect.READ, Outcome.NOT_EXECUTED), (Effect.SAFE, Outcome.UNKNOWN)):
        async with asyncio.timeout(5):
            error = await failure(aws.call("dynamodb", "list_tables", {}, effect=effect))
        assert (error.kind, error.outcome) == (ErrorKind.UPSTREAM, outcome)
        assert "within 0.2 s" in error.message
    await aws.close()


async def test_write_whose_answer_is_lost_is_done_once_and_known_to_be(rig):
    rig.line.fail(PUT, Lost())
    first = await rig.stores.values.set(rig.tenant, "a", b"1")
    stored = await rig.plain.values.get(rig.tenant, "a")
    assert (bytes(stored.value), stored.revision) == (b"1", first)
    rig.line.fail(PUT, Lost())
    second = await rig.stores.values.compare_and_set(rig.tenant, "a", b"2", first)
    assert second == (await rig.plain.values.get(rig.tenant, "a")).revision
    rig.line.fail(TRANSACT, Lost())
    third = await rig.stores.values.compare_and_set(rig.tenant, "a", LARGE, second)
    assert third == (await rig.plain.values.get(rig.tenant, "a")).revision
    assert await rig.value() == LARGE


@slow
async def test_compare_and_set_that_lost_its_answer_and_then_its_place_is_unknown(rig):
    base = await rig.plain.values.set(rig.tenant, "a", b"0")
    rig.line.fail(PUT, Lost(), None)
    doing = asyncio.ensure_future(
        failure(rig.stores.values.compare_and_set(rig.tenant, "a", b"1", base))
    )

    async def waits() -> bool:
        return rig.sent(PUT) == 2

    await eventually(waits, timeout_s=5.0)
    await rig.plain.values.set(rig.tenant, "a", b"2")
    error = await doing
    assert (error.kind, error.outcome) == (ErrorKind.UPSTREAM, Outcome.UNKNOWN)
    assert await rig.value() == b"2"


@slow
@pytest.mark.parametrize("value", [b"1", LARGE])
async def test_delete_whose_answer_is_lost_says_that_there_was_a_value(rig, value):
    await rig.plain.values.set(rig.tenant, "a", value)
    rig.line.fail(DELETE if value == b"1" else TRANSACT, Lost())
    assert await rig.stores.values.delete(rig.tenant, "a") is True
    assert await rig.value() is None
    assert await rig.bench.items(f"{rig.tenant}/rest") == []


@slow
async def test_lost_body_of_an_artifact_is_read_again(rig):
    body = random_body(10_000)
    made = await rig.plain.artifacts.put(rig.tenant, "a", pieces(body), "text/plain")
    rig.line.fail("GET /", Lost())
    assert await rig.stores.artifacts.read(rig.tenant, "a", 0, 10_000) == (made, body)


# Writers at one moment


@slow
async def test_value_replaced_while_it_is_read_is_one_or_the_other(rig):
    other = b'"' + b"y" * 450_000 + b'"'
    await rig.plain.values.set(rig.tenant, "a", LARGE)

    async def write() -> None:
        for n in range(6):
            await rig.plain.values.set(rig.tenant, "a", (other, b"1", LARGE)[n % 3])

    async def read() -> None:
        for _ in range(12):
            stored = await rig.stores.values.get(rig.tenant, "a")
            assert bytes(stored.value) in (LARGE, other, b"1")

    await asyncio.gather(write(), read(), read())


@slow
async def test_racing_large_and_small_writers_leave_no_second_item_behind(rig):
    here, there = rig.stores.values, rig.plain.values
    for n in range(4):
        writes = [here.set(rig.tenant, "a", LARGE), there.set(rig.tenant, "a", b"%d" % n)]
        await asyncio.gather(*(writes if n % 2 else writes[::-1]))
        beside = await rig.bench.items(f"{rig.tenant}/rest")
        assert len(beside) == (await rig.value() == LARGE)
    await asyncio.gather(
        here.delete(rig.tenant, "a"),
        there.set(rig.tenant, "a", LARGE),
        there.delete(rig.tenant, "a"),
    )
    assert len(await rig.bench.items(f"{rig.tenant}/rest")) == (await rig.value() is not None)


@slow
async def test_crossing_writers_are_told_apart_from_full_ones(rig):
    rig.line.throttle(PUT, "TransactionConflictException", ATTEMPTS_MAX)
    error = await failure(rig.stores.values.set(rig.tenant, "a", b"1"))
    assert (error.kind, error.outcome) == (ErrorKind.OVERLOADED, Outcome.NOT_EXECUTED)
    assert "another writer" in error.message


@slow
@pytest.mark.parametrize("reason", ["TransactionConflict", "ThrottlingError"])
async def test_cancelled_transaction_is_repeated_or_explained(rig, reason):
    body = msgspec.json.encode(
        {
            "__type": "com.amazonaws#TransactionCanceledException",
            "Message": "cancelled",
            "CancellationReasons": [{"Code": reason}, {"Code": "None"}],
        }
    )
    rig.line.fail(TRANSACT, (400, body))
    if reason == "TransactionConflict":
        await rig.stores.values.set(rig.tenant, "a", LARGE)
        assert await rig.value() == LARGE
        return
    error = await failure(rig.stores.values.set(rig.tenant, "a", LARGE))
    assert (error.kind, error.outcome) == (ErrorKind.OVERLOADED, Outcome.NOT_EXECUTED)
    assert await rig.value() is None


# Uploads


@slow
@pytest.mark.parametrize(
    ("target", "effect"),
    [
        ("POST /{bucket}/.uploads/{tenant}/", "the upload cannot begin or end"),
        ("partNumber=2", "a part is refused"),
        ("PUT /{bucket}/{tenant}/", "the copy is refused"),
    ],
)
async def test_upload_that_fails_anywhere_leaves_nothing(rig, target, effect):
    await rig.plain.artifacts.put(rig.tenant, "a", pieces(b"old"), "text/plain")
    before = await rig.bench.objects()
    refused = (403, b"<Error><Code>AccessDenied</Code></Error>")
    wanted = target.format(bucket=rig.bench.config.artifacts_bucket, tenant=rig.tenant)
    rig.line.fail(wanted, refused)
    error = await failure(
        rig.stores.artifacts.put(rig.tenant, "a", pieces(random_body(300 * KB)), "text/plain")
    )
    assert (error.kind, error.outcome) == (ErrorKind.UPSTREAM, Outcome.NOT_EXECUTED)
    assert await rig.bench.leftovers(rig.tenant) == 0
    assert await rig.bench.objects() == before
    assert (await rig.plain.artifacts.read(rig.tenant, "a", 0, 9))[1] == b"old"


async def test_upload_whose_end_is_not_heard_is_completed_once(rig):
    body = random_body(300 * KB)
    rig.line.fail("POST /", (500, b""))
    rig.line.fail("partNumber=2", Lost())
    rig.line.fail("?uploadId=", Lost())  # its end
    made = await rig.stores.artifacts.put(rig.tenant, "a", pieces(body), "text/plain")
    assert await rig.plain.artifacts.read(rig.tenant, "a", 0, 400 * KB) == (made, body)
    assert await rig.bench.leftovers(rig.tenant) == 0


@slow
async def test_artifact_whose_copy_broke_off_is_unknown(rig):
    wanted = f"PUT /{rig.bench.config.artifacts_bucket}/{rig.tenant}/"
    rig.line.fail(wanted, *[Lost()] * 2 * ATTEMPTS_MAX)  # the client repeats a PUT itself, too
    error = await failure(
        rig.stores.artifacts.put(rig.tenant, "a", pieces(random_body(300 * KB)), "text/plain")
    )
    assert (error.kind, error.outcome) == (ErrorKind.UPSTREAM, Outcome.UNKNOWN)
    assert (await rig.plain.artifacts.head(rig.tenant, "a")).size == 300 * KB
    assert await rig.bench.leftovers(rig.tenant) == 0


# Events


@slow
@pytest.mark.parametrize(
    ("code", "kind", "outcome"),
    [
        ("ThrottlingException", ErrorKind.OVERLOADED, Outcome.NOT_EXECUTED),
        ("NotAuthorizedForSourceException", ErrorKind.UPSTREAM, Outcome.NOT_EXECUTED),
        ("InternalFailure", ErrorKind.UPSTREAM, Outcome.UNKNOWN),
    ],
)
async def test_event_that_eventbridge_does_not_take_is_an_error_and_not_kept(
    rig, code, kind, outcome
):
    entry = {"ErrorCode": code, "ErrorMessage": "no, arn:aws:1234"}
    answer = msgspec.json.encode({"FailedEntryCount": 1, "Entries": [entry]})
    rig.line.fail("PutEvents", (200, answer))
    error = await failure(rig.stores.events.send(rig.tenant, "tasks:done", b"1", "ann"))
    assert (error.kind, error.outcome) == (kind, outcome)
    assert code in error.message
    assert "1234" not in error.message
    assert rig.bench.kept.topics == []
    await rig.stores.events.send(rig.tenant, "tasks:done", b"1", "ann")
    assert rig.bench.kept.topics == ["tasks:done"]


@slow
async def test_event_whose_answer_is_lost_is_not_sent_twice(rig):
    rig.line.fail("PutEvents", Lost())
    error = await failure(rig.stores.events.send(rig.tenant, "t", b"1", ""))
    assert (error.kind, error.outcome) == (ErrorKind.UPSTREAM, Outcome.UNKNOWN)
    assert rig.sent("PutEvents") == 1
    assert rig.bench.kept.topics == []


@slow
async def test_event_larger_than_eventbridge_takes_is_refused_with_the_limit(rig):
    error = await failure(
        rig.stores.events.send(rig.tenant, "t", b'"' + b"x" * 256 * KB + b'"', "")
    )
    assert (error.kind, error.outcome) == (ErrorKind.TOO_LARGE, Outcome.NOT_EXECUTED)
    assert rig.sent("PutEvents") == 0
