"""Requests as this revision wants them: parameters with the complete envelope in ``_meta``."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import msgspec

from mcp_proto.contracts.tasks import IDEMPOTENCY_KEY, TASK_META
from mcp_proto.errors import ErrorKind
from mcp_proto.methods import routing_member
from mcp_proto.types.meta import (
    CLIENT_CAPABILITIES,
    CLIENT_INFO,
    LOG_LEVEL,
    PROTOCOL_VERSION,
    TASKS_EXTENSION,
)
from mcp_proto.versions import MODERN
from mesh_sdk.client.errors import MeshCallError

__all__ = ["Arguments", "Asked", "encoded", "params_of", "target_of"]

Arguments: TypeAlias = Mapping[str, Any] | msgspec.Struct
"""Arguments of a tool: a mapping, or a Struct whose fields they are."""

_INFO = {"name": "mesh-sdk", "version": "0.1.0"}


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller wants of one request, beside its parameters.

    Attributes:
        timeout_s: budget, repeats included.
        endpoint: see ``Outgoing``.
        meta: further members of ``_meta``.
        log_level: least severity of log messages wanted; "" = none.
        progress: progress is wanted.
        idempotency_key: a repeat under the same key has no second effect; "" = none.
        task: run as a durable task: its time to live in ms, 0 = the default; None = do not.
        takes_tasks: the answer may be a task.
    """

    timeout_s: float
    endpoint: str = ""
    meta: Mapping[str, Any] = {}
    log_level: str = ""
    progress: bool = False
    idempotency_key: str = ""
    task: int | None = None
    takes_tasks: bool = False


def params_of(
    params: Mapping[str, Any], asked: Asked, capabilities: Mapping[str, Any], token: str
) -> bytes:
    """``params`` of a request, as JSON.

    Raises:
        MeshCallError: ``params``: a value that is no JSON.
    """
    declared = dict(capabilities)
    if asked.takes_tasks or asked.task is not None:
        declared["extensions"] = {TASKS_EXTENSION: {}}
    meta: dict[str, Any] = {
        PROTOCOL_VERSION: MODERN.value,
        CLIENT_CAPABILITIES: declared,
        CLIENT_INFO: _INFO,
    }
    if token:
        meta["progressToken"] = token
    if asked.log_level:
        meta[LOG_LEVEL] = asked.log_level
    if asked.idempotency_key:
        meta[IDEMPOTENCY_KEY] = asked.idempotency_key
    if asked.task is not None:
        meta[TASK_META] = {"ttlMs": asked.task} if asked.task else True
    # What the caller adds comes first, so that it cannot take the place of the envelope.
    return encoded({**params, "_meta": {**asked.meta, **meta}})


def target_of(method: str, params: Mapping[str, Any]) -> str:
    """What ``Mcp-Name`` repeats; "" = nothing."""
    member = routing_member(method)
    return str(params.get(member, "")) if member is not None else ""


def encoded(value: Any) -> bytes:
    """A value as JSON.

    Raises:
        MeshCallError: ``params``: it holds what JSON cannot.
    """
    try:
        return msgspec.json.encode(value, enc_hook=_model)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise MeshCallError(ErrorKind.PARAMS, f"arguments must be JSON: {error}") from None


def _model(value: Any) -> Any:
    """Pydantic models, which know how to become plain."""
    dump = getattr(value, "model_dump", None)
    if callable(dump):
        return dump(mode="json", by_alias=True)
    raise TypeError(f"a {type(value).__name__} is no JSON value")
