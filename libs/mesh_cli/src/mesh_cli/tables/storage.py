"""``[storage]`` of ``mesh.toml``: where values, artifacts and events of tenants are kept."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

__all__ = ["VARIABLES", "AwsTable", "StorageTable"]

VARIABLES = {
    "AWS_REGION": "storage.aws.region",
    "AGENT_MESH_KV_TABLE": "storage.aws.kv_table",
    "AGENT_MESH_ARTIFACTS_BUCKET": "storage.aws.artifacts_bucket",
    "AGENT_MESH_EVENT_BUS": "storage.aws.event_bus",
}
"""Environment variables and the keys they set."""


class AwsTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[storage.aws]``: credentials come from where every AWS program looks.

    Attributes:
        region: of everything below; "" = the region of the AWS profile.
        kv_table: DynamoDB table.
        artifacts_bucket: S3 bucket.
        event_bus: EventBridge bus that every event is given to; "" = none.
        endpoint_url: another place that speaks these interfaces; "" = AWS.
        secrets_prefix: tenants' own servers may use the secrets ``{secrets_prefix}{tenant}/…``.
    """

    region: str = ""
    kv_table: str = ""
    artifacts_bucket: str = ""
    event_bus: str = ""
    endpoint_url: str = ""
    secrets_prefix: str = ""


class StorageTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[storage]``: given to every runner.

    Attributes:
        backend: ``jetstream`` or ``aws``; "" = aws when its table or bucket is named.
        aws: what the latter uses.
        bytes_per_tenant: what one tenant may store; -1 = no quota.
        tenants: other figures for single tenants, by tenant id.
    """

    backend: Literal["", "jetstream", "aws"] = ""
    aws: AwsTable = AwsTable()
    bytes_per_tenant: Annotated[int, Meta(ge=-1)] = 256 * 1024 * 1024
    tenants: dict[str, Annotated[int, Meta(ge=-1)]] = {}

    def problem(self) -> str | None:
        """Key and what is wrong with it; None when nothing is."""
        if self.chosen != "aws":
            return None
        for variable, key in VARIABLES.items():
            field = key.rpartition(".")[2]
            if field in {"kv_table", "artifacts_bucket"} and not getattr(self.aws, field):
                return f"{key}: missing, the backend aws needs it (or {variable})"
        return None

    @property
    def chosen(self) -> str:
        """The backend that runs."""
        if self.backend:
            return self.backend
        return "aws" if self.aws.kv_table or self.aws.artifacts_bucket else "jetstream"

    def for_runner(self) -> dict[str, Any]:
        """The table ``[storage]`` of the runners."""
        table: dict[str, Any] = msgspec.to_builtins(self)
        return {**table, "backend": self.chosen}
