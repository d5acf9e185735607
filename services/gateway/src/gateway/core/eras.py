"""What old clients get where the modern dialect says it differently.

The byte work is in ``mcp_proto.convert``; here is what only a gateway answers itself: the result
of ``initialize``, list-changed notices, and who a request claims to be.
"""

import functools
from collections.abc import Callable, Iterable

import msgspec

from gateway.core import core_tasks
from gateway.core.answers import UPSTREAM_INFO
from gateway.core.merge import ListKind
from mcp_proto.codec import encode_notification
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.jsonrpc import Request, RequestId
from mcp_proto.members import pick, remove, splice
from mcp_proto.types.meta import SERVER_INFO, SUBSCRIPTION_ID, TASKS_EXTENSION
from mcp_proto.versions import Feature, Revision, has

__all__ = [
    "Filter",
    "acknowledged",
    "check_claims",
    "honoured",
    "initialize_result",
    "listen_filter",
    "listen_result",
    "modern_notices",
    "notices",
    "resource_uri",
    "task_notice",
    "updated",
]

_NOTICE_OF = {
    ListKind.TOOLS: "notifications/tools/list_changed",
    ListKind.PROMPTS: "notifications/prompts/list_changed",
    ListKind.RESOURCES: "notifications/resources/list_changed",
    ListKind.TEMPLATES: "notifications/resources/list_changed",
}


NAMED_MAX = 1_000
"""URIs, and task ids, read of one listen; far fewer are honoured, and a message holds a million."""

_COMPLETE = b'"notifications/elicitation/complete"'
_METHOD_WITHIN = 96
"""Where the method of a notification stands that the mesh wrote."""


class Filter(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Which notifications a listener asked for."""

    tools_list_changed: bool = False
    prompts_list_changed: bool = False
    resources_list_changed: bool = False
    resource_subscriptions: tuple[str, ...] = ()
    task_ids: tuple[str, ...] = ()

    def wants(self, kind: ListKind) -> bool:
        """Whether a changed list of this kind is told."""
        match kind:
            case ListKind.TOOLS:
                return self.tools_list_changed
            case ListKind.PROMPTS:
                return self.prompts_list_changed
            case ListKind.RESOURCES | ListKind.TEMPLATES:
                return self.resources_list_changed


EVERYTHING = Filter(True, True, True)


class _Listen(msgspec.Struct):
    notifications: Filter


class _Resource(msgspec.Struct):
    uri: str


_LISTEN = msgspec.json.Decoder(_Listen)
_RESOURCE = msgspec.json.Decoder(_Resource)


def initialize_result(discover: bytes, revision: Revision) -> bytes:
    """The result of ``initialize``, from what ``server/discover`` says."""
    found = pick(discover, "capabilities", "instructions", "_meta")
    info = pick(found["_meta"], SERVER_INFO)[SERVER_INFO]
    capabilities = remove(found["capabilities"], "extensions")
    if has(revision, Feature.CORE_TASKS) and TASKS_EXTENSION.encode() in discover:
        capabilities = splice(capabilities, {"tasks": core_tasks.CAPABILITY})
    if not has(revision, Feature.COMPLETIONS_CAPABILITY):
        capabilities = remove(capabilities, "completions")
    upstream = pick(found["_meta"], UPSTREAM_INFO).get(UPSTREAM_INFO)
    result = b'{"protocolVersion":"%b","capabilities":%b,"serverInfo":%b' % (
        revision.value.encode(),
        capabilities,
        bytes(info),
    )
    if upstream is not None:
        result += b',"_meta":{"%b":%b}' % (UPSTREAM_INFO.encode(), bytes(upstream))
    instructions = bytes(found.get("instructions", msgspec.Raw(b'""')))
    return result + (b',"instructions":%b}' % instructions if instructions != b'""' else b"}")


def notices(
    kinds: Iterable[ListKind], wanted: Filter = EVERYTHING, subscription: RequestId | None = None
) -> list[bytes]:
    """The list-changed notifications for what changed, each once.

    Args:
        kinds: lists that changed.
        wanted: what the peer asked for.
        subscription: id of its ``subscriptions/listen``; None = an old client.
    """
    methods = {_NOTICE_OF[kind]: None for kind in ListKind if kind in set(kinds)
               and wanted.wants(kind)}  # fmt: skip
    params = b"" if subscription is None else b'{"_meta":%b}' % _subscribed(subscription)
    return [encode_notification(method, params) for method in methods]


def updated(uri: str, subscription: RequestId | None = None) -> bytes:
    """The notification that a resource changed; arguments as in ``notices``."""
    own = msgspec.json.encode(uri)
    if subscription is None:
        return encode_notification("notifications/resources/updated", b'{"uri":%b}' % own)
    params = b'{"uri":%b,"_meta":%b}' % (own, _subscribed(subscription))
    return encode_notification("notifications/resources/updated", params)


def honoured(wanted: Filter, watched: frozenset[str]) -> Filter:
    """What of a filter is in force, once the servers have said which resources they watch."""
    uris = tuple(uri for uri in dict.fromkeys(wanted.resource_subscriptions) if uri in watched)
    return msgspec.structs.replace(wanted, resource_subscriptions=uris)


def resource_uri(params: bytes | msgspec.Raw) -> str:
    """The resource that ``resources/subscribe`` or ``unsubscribe`` names.

    Raises:
        MeshError: ``params``.
    """
    try:
        return _RESOURCE.decode(params).uri
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise MeshError(ErrorKind.PARAMS, "params.uri must be a string") from None


def listen_filter(params: bytes | msgspec.Raw) -> Filter:
    """What a ``subscriptions/listen`` asks for, as far as it is honoured.

    Of URIs and of task ids the first ``NAMED_MAX`` count: the acknowledgement says which.

    Raises:
        MeshError: ``params`` when ``notifications`` is missing or malformed.
    """
    try:
        wanted = _LISTEN.decode(params).notifications
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise MeshError(ErrorKind.PARAMS, "params.notifications is missing or malformed") from None
    if max(len(wanted.resource_subscriptions), len(wanted.task_ids)) <= NAMED_MAX:
        return wanted
    return msgspec.structs.replace(
        wanted,
        resource_subscriptions=wanted.resource_subscriptions[:NAMED_MAX],
        task_ids=wanted.task_ids[:NAMED_MAX],
    )


def acknowledged(wanted: Filter, subscription: RequestId) -> bytes:
    """The first frame of a listen stream: the subset that is honoured."""
    body = b'{"notifications":%b,"_meta":%b}' % (
        msgspec.json.encode(wanted),
        _subscribed(subscription),
    )
    return encode_notification("notifications/subscriptions/acknowledged", body)


def task_notice(task: bytes, subscription: RequestId) -> bytes:
    """``notifications/tasks``: the task as ``tasks/get`` says it."""
    params = splice(remove(task, "resultType"), {"_meta": _subscribed(subscription)})
    return encode_notification("notifications/tasks", params)


def listen_result(subscription: RequestId) -> bytes:
    """The result with which the server ends a listen stream."""
    return b'{"resultType":"complete","_meta":%b}' % _subscribed(subscription)


def modern_notices(deliver: Callable[[bytes], None]) -> Callable[[bytes], None]:
    """Lets a modern client hear of a call what its revision has.

    The end of a url elicitation is told to old clients only (``notifications/elicitation/complete``
    went with 2026-07-28).
    """
    return functools.partial(_pass_on, deliver)


def _pass_on(deliver: Callable[[bytes], None], notice: bytes) -> None:
    if _COMPLETE not in notice[:_METHOD_WITHIN]:
        deliver(notice)


def _subscribed(subscription: RequestId) -> bytes:
    return msgspec.json.encode({SUBSCRIPTION_ID: subscription})


def check_claims(request: Request, *, tenant: str, principal: str) -> None:
    """Top-level ``tenant_id`` and ``user_id`` select, they never authorise.

    Raises:
        MeshError: ``denied`` when they name anybody but the caller.
    """
    if request.tenant_id is not msgspec.UNSET and request.tenant_id != tenant:
        raise MeshError(
            ErrorKind.DENIED,
            "tenant_id names a tenant that the credential does not allow",
            data={"missing": "membership of the tenant"},
        )
    if request.user_id is not msgspec.UNSET and request.user_id != principal:
        raise MeshError(
            ErrorKind.DENIED,
            "user_id names another principal than the credential",
            data={"missing": "the credential of that principal"},
        )
