"""``_meta``: the envelope of a modern request, and the reserved keys of both eras."""

import msgspec

from mcp_proto.jsonrpc import ABSENT

__all__ = [
    "CLIENT_CAPABILITIES",
    "CLIENT_INFO",
    "ENVELOPE_KEYS",
    "LOG_LEVEL",
    "PREFIX",
    "PROTOCOL_VERSION",
    "RELATED_TASK",
    "SERVER_INFO",
    "SKILLS_EXTENSION",
    "SUBSCRIPTION_ID",
    "TASKS_EXTENSION",
    "UI_EXTENSION",
    "Meta",
    "ProgressToken",
    "WithMeta",
]

PREFIX = "io.modelcontextprotocol/"
PROTOCOL_VERSION = PREFIX + "protocolVersion"
CLIENT_CAPABILITIES = PREFIX + "clientCapabilities"
CLIENT_INFO = PREFIX + "clientInfo"
LOG_LEVEL = PREFIX + "logLevel"
SUBSCRIPTION_ID = PREFIX + "subscriptionId"
SERVER_INFO = PREFIX + "serverInfo"
RELATED_TASK = PREFIX + "related-task"
"""Core tasks of 2025-11-25 name the task of a message here."""
TASKS_EXTENSION = PREFIX + "tasks"
"""Key of the tasks extension under ``capabilities.extensions``."""
UI_EXTENSION = PREFIX + "ui"
SKILLS_EXTENSION = PREFIX + "skills"

ENVELOPE_KEYS = (PROTOCOL_VERSION, CLIENT_CAPABILITIES, CLIENT_INFO, LOG_LEVEL)
"""What a modern request carries and a legacy one must not."""

ProgressToken = str | int


class Meta(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The reserved members of ``_meta``, in requests, notifications and results.

    Attributes:
        protocol_version: revision of this request; required in the modern era.
        client_capabilities: the caller's ``ClientCapabilities`` object; required there too.
        client_info: the caller's ``Implementation`` object.
        log_level: lowest severity of log notifications wanted; None = none at all.
        progress_token: asks for progress, with its JSON type.
        traceparent: W3C trace context.
        tracestate: W3C trace state.
        baggage: W3C baggage.
        subscription_id: id of the listen request a notification belongs to, with its JSON type.
        server_info: the answering server's ``Implementation`` object.
    """

    protocol_version: str | None = msgspec.field(name=PROTOCOL_VERSION, default=None)
    client_capabilities: msgspec.Raw = msgspec.field(name=CLIENT_CAPABILITIES, default=ABSENT)
    client_info: msgspec.Raw = msgspec.field(name=CLIENT_INFO, default=ABSENT)
    log_level: str | None = msgspec.field(name=LOG_LEVEL, default=None)
    progress_token: ProgressToken | None = msgspec.field(name="progressToken", default=None)
    traceparent: str | None = None
    tracestate: str | None = None
    baggage: str | None = None
    subscription_id: str | int | None = msgspec.field(name=SUBSCRIPTION_ID, default=None)
    server_info: msgspec.Raw = msgspec.field(name=SERVER_INFO, default=ABSENT)


class WithMeta(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What most params and results share: their ``_meta`` object, as sent."""

    meta: msgspec.Raw = msgspec.field(name="_meta", default=ABSENT)
