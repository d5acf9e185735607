"""Stores of the runner on moto's server, as the tests of the AWS drivers open them."""

import contextlib
from collections.abc import AsyncIterator

import msgspec
from tests.aws_peer import fresh_name
from tests.storage_contract.bench import Stores

from tool_runner.config import AwsConfig
from tool_runner.drivers.aws.artifacts import PART_BYTES, SINGLE_BYTES, S3Artifacts
from tool_runner.drivers.aws.events import BridgedEvents
from tool_runner.drivers.aws.faults import Effect
from tool_runner.drivers.aws.session import Aws
from tool_runner.drivers.aws.uploads import UPLOADS
from tool_runner.drivers.aws.usage import Usage
from tool_runner.drivers.aws.values import DynamoStorage
from tool_runner.drivers.storage import EventStore

__all__ = ["AwsBench", "aws_bench"]


class AwsBench:
    """``Bench`` on one table, one bucket and one event bus.

    Attributes:
        config: with the names of all of them.
        aws: straight to moto, for looking behind the drivers.
        kept: where events are kept; set it before ``stores`` where events are used.
        part_bytes: bodies above it are uploaded in parts of this size; 0 = as in production.
    """

    def __init__(self, url: str) -> None:
        self.config = AwsConfig(
            region="us-east-1",
            kv_table=fresh_name("table"),
            artifacts_bucket=fresh_name("bucket"),
            event_bus=fresh_name("bus"),
            endpoint_url=url,
        )
        self.aws = Aws(self.config)
        self.kept: EventStore | None = None
        self.part_bytes = 0
        self._opened: list[tuple[Aws, Usage]] = []

    async def stores(self, bytes_per_tenant: int = 1024**3, *, url: str = "") -> Stores:
        """Stores as a runner of its own opens them; ``url`` = another way to moto."""
        config = msgspec.structs.replace(
            self.config, endpoint_url=url or self.config.endpoint_url, connect_s=1, answer_s=0.5
        )
        aws = Aws(config)
        usage = Usage(aws, config.kv_table, lambda _tenant: bytes_per_tenant)
        self._opened.append((aws, usage))
        values = DynamoStorage(aws, config.kv_table, usage)
        artifacts = S3Artifacts(
            aws,
            config.artifacts_bucket,
            usage,
            single_bytes=self.part_bytes or SINGLE_BYTES,
            part_bytes=self.part_bytes or PART_BYTES,
        )
        usage.counts(values.used)
        usage.counts(artifacts.used)
        events = self.kept and BridgedEvents(aws, config.event_bus, self.kept)
        return Stores(values=values, artifacts=artifacts, events=events)

    async def leftovers(self, tenant: str) -> int:
        """See ``Bench``."""
        bucket = {"Bucket": self.config.artifacts_bucket, "Prefix": f"{UPLOADS}/{tenant}/"}
        listed = await self.aws.call("s3", "list_objects_v2", bucket, effect=Effect.READ)
        begun = await self.aws.call("s3", "list_multipart_uploads", bucket, effect=Effect.READ)
        return len(listed.get("Contents", ())) + len(begun.get("Uploads", ()))

    async def objects(self) -> list[str]:
        """Names of everything in the bucket."""
        bucket = {"Bucket": self.config.artifacts_bucket}
        listed = await self.aws.call("s3", "list_objects_v2", bucket, effect=Effect.READ)
        return [one["Key"] for one in listed.get("Contents", ())]

    async def items(self, partition: str) -> list[dict[str, dict[str, object]]]:
        """Items of a partition of the table."""
        answer = await self.aws.call(
            "dynamodb",
            "query",
            {
                "TableName": self.config.kv_table,
                "KeyConditionExpression": "tenant = :t",
                "ExpressionAttributeValues": {":t": {"S": partition}},
            },
            effect=Effect.READ,
        )
        return answer["Items"]

    async def begin(self) -> None:
        """Make table, bucket and event bus as the guide says."""
        columns = (("tenant", "HASH"), ("key", "RANGE"))
        table = {
            "TableName": self.config.kv_table,
            "BillingMode": "PAY_PER_REQUEST",
            "KeySchema": [{"AttributeName": name, "KeyType": kind} for name, kind in columns],
            "AttributeDefinitions": [
                {"AttributeName": name, "AttributeType": "S"} for name, _ in columns
            ],
        }
        sweep = {
            "TableName": self.config.kv_table,
            "TimeToLiveSpecification": {"Enabled": True, "AttributeName": "expires"},
        }
        for service, operation, arguments in (
            ("dynamodb", "create_table", table),
            ("dynamodb", "update_time_to_live", sweep),
            ("s3", "create_bucket", {"Bucket": self.config.artifacts_bucket}),
            ("events", "create_event_bus", {"Name": self.config.event_bus}),
        ):
            await self.aws.call(service, operation, arguments, effect=Effect.SAFE)

    async def drop_table(self) -> None:
        """Take the table away."""
        table = {"TableName": self.config.kv_table}
        await self.aws.call("dynamodb", "delete_table", table, effect=Effect.SAFE)

    async def close(self) -> None:
        """End every connection."""
        for aws, usage in self._opened:
            await usage.close()
            await aws.close()
        await self.aws.close()


@contextlib.asynccontextmanager
async def aws_bench(url: str) -> AsyncIterator[AwsBench]:
    """A bench that is ready."""
    bench = AwsBench(url)
    try:
        await bench.begin()
        yield bench
    finally:
        await bench.close()
