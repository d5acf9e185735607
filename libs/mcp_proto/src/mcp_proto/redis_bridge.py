"""The bridge between a tenant's events and the pub/sub of a Redis or Dragonfly, as configured.

One rule for ``mesh.toml`` (``[integrations.dragonfly]``) and the runner (``[redis]``).
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from mcp_proto.ids import is_tenant_id
from mcp_proto.server_definitions import is_secret_reference

__all__ = ["RedisBridgeTable", "bridge_problem"]

PATTERNS_MAX = 64
PATTERN_CHARS_MAX = 256

Seconds = Annotated[float, Meta(ge=1, le=86_400)]


class RedisBridgeTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[integrations.dragonfly]``: messages of a Redis or Dragonfly as events, and back.

    Attributes:
        enabled: whether the bridge is there.
        host: where it is.
        port: its port.
        username: user of its ACL; "" = the default user.
        password: as ``env:NAME`` or ``file:PATH``; "" = none.
        tls: whether it is talked to over TLS.
        tls_ca_file: certificate authorities trusted for it; "" = the system's.
        channel_prefix: stands before every topic in the names of channels.
        subscribe_channels: channels or patterns (``tasks:*``), with or without the prefix, whose
            messages become events; () = nothing comes from there.
        publish_events: whether events of the tenant are published there.
        publish_heartbeat: whether a heartbeat is published on ``{channel_prefix}heartbeat``.
        heartbeat_interval_seconds: how often.
        tenant: whose events; "" = the tenant of the local mesh.
    """

    enabled: bool = False
    host: Annotated[str, Meta(min_length=1, max_length=253)] = "127.0.0.1"
    port: Annotated[int, Meta(ge=1, le=65535)] = 6379
    username: str = ""
    password: str = ""
    tls: bool = False
    tls_ca_file: str = ""
    channel_prefix: Annotated[str, Meta(pattern=r"\A[!-~]{0,64}\Z")] = "mcp:"
    subscribe_channels: tuple[str, ...] = ()
    publish_events: bool = True
    publish_heartbeat: bool = False
    heartbeat_interval_seconds: Seconds = 30.0
    tenant: str = ""


def bridge_problem(table: RedisBridgeTable) -> str | None:
    """``key: what is wrong with it``; None when nothing is."""
    if table.tenant and not is_tenant_id(table.tenant):
        return f"tenant: {table.tenant[:64]!r} cannot be a tenant"
    given = table.password
    if given and (not is_secret_reference(given) or given.startswith("aws:")):
        return "password: must name a secret as env:NAME or file:PATH, never hold it"
    if table.tls_ca_file and not table.tls:
        return "tls_ca_file: is for tls = true"
    if len(table.subscribe_channels) > PATTERNS_MAX:
        return f"subscribe_channels: at most {PATTERNS_MAX}"
    for one in table.subscribe_channels:
        if not 0 < len(one) <= PATTERN_CHARS_MAX or not one.isprintable():
            return f"subscribe_channels: a pattern is printable, 1 to {PATTERN_CHARS_MAX} long"
    return None
