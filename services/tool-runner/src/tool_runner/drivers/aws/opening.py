"""Opens the stores of the tools on AWS."""

import msgspec

from mesh_chassis.config import ConfigError
from tool_runner.config import AwsConfig, StorageConfig
from tool_runner.drivers.aws.artifacts import S3Artifacts
from tool_runner.drivers.aws.events import BridgedEvents
from tool_runner.drivers.aws.session import Aws
from tool_runner.drivers.aws.usage import Usage
from tool_runner.drivers.aws.values import DynamoStorage
from tool_runner.drivers.opening import Stores

__all__ = ["open_aws"]


def open_aws(storage: StorageConfig, kept: Stores) -> Stores:
    """Stores on AWS; nothing is connected yet.

    Args:
        storage: table ``[storage]``.
        kept: the broker's: events are kept and read there, and large results lie there.

    Raises:
        ConfigError: no region, no table or no bucket.
    """
    config = storage.aws
    _check(config)
    aws = Aws(config)
    usage = Usage(aws, config.kv_table, storage.quota)
    values = DynamoStorage(aws, config.kv_table, usage)
    artifacts = S3Artifacts(aws, config.artifacts_bucket, usage)
    usage.counts(values.used)
    usage.counts(artifacts.used)
    events = kept.events
    if config.event_bus:
        events = BridgedEvents(aws, config.event_bus, kept.events)

    async def close() -> None:
        await usage.close()
        await aws.close()
        await kept.close()

    return msgspec.structs.replace(
        kept, values=values, artifacts=artifacts, events=events, close=close
    )


def _check(config: AwsConfig) -> None:
    for field, value, variable in (
        ("kv_table", config.kv_table, "AGENT_MESH_KV_TABLE"),
        ("artifacts_bucket", config.artifacts_bucket, "AGENT_MESH_ARTIFACTS_BUCKET"),
    ):
        if not value:
            raise ConfigError("", f"storage.aws.{field}", f"missing: set it here or in {variable}")
