"""What old clients get where the modern dialect says it differently.

The byte work is in ``mcp_proto.convert``; here is what only a gateway answers itself: the result
of ``initialize``, list-changed notices, and who a request claims to be.
"""

from collections.abc import Iterable

import msgspec

from gateway.core.merge import ListKind
from mcp_proto.codec import encode_notification
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.jsonrpc import Request, RequestId
from mcp_proto.members import pick, remove
from mcp_proto.types.meta import SERVER_INFO, SUBSCRIPTION_ID
from mcp_proto.versions import Feature, Revision, has

__all__ = [
    "Filter",
    "acknowledged",
    "check_claims",
    "initialize_result",
    "listen_filter",
    "listen_result",
    "notices",
]

_NOTICE_OF = {
    ListKind.TOOLS: "notifications/tools/list_changed",
    ListKind.PROMPTS: "notifications/prompts/list_changed",
    ListKind.RESOURCES: "notifications/resources/list_changed",
    ListKind.TEMPLATES: "notifications/resources/list_changed",
}


class Filter(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Which notifications a listener asked for; resource subscriptions are not relayed."""

    tools_list_changed: bool = False
    prompts_list_changed: bool = False
    resources_list_changed: bool = False

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


_LISTEN = msgspec.json.Decoder(_Listen)


def initialize_result(discover: bytes, revision: Revision) -> bytes:
    """The result of ``initialize``, from what ``server/discover`` says."""
    found = pick(discover, "capabilities", "instructions", "_meta")
    info = pick(found["_meta"], SERVER_INFO)[SERVER_INFO]
    capabilities = remove(found["capabilities"], "extensions")
    if not has(revision, Feature.COMPLETIONS_CAPABILITY):
        capabilities = remove(capabilities, "completions")
    result = b'{"protocolVersion":"%b","capabilities":%b,"serverInfo":%b' % (
        revision.value.encode(),
        capabilities,
        bytes(info),
    )
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


def listen_filter(params: bytes | msgspec.Raw) -> Filter:
    """What a ``subscriptions/listen`` asks for, as far as it is honoured.

    Raises:
        MeshError: ``params`` when ``notifications`` is missing or malformed.
    """
    try:
        return _LISTEN.decode(params).notifications
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise MeshError(ErrorKind.PARAMS, "params.notifications is missing or malformed") from None


def acknowledged(wanted: Filter, subscription: RequestId) -> bytes:
    """The first frame of a listen stream: the subset that is honoured."""
    body = b'{"notifications":%b,"_meta":%b}' % (
        msgspec.json.encode(wanted),
        _subscribed(subscription),
    )
    return encode_notification("notifications/subscriptions/acknowledged", body)


def listen_result(subscription: RequestId) -> bytes:
    """The result with which the server ends a listen stream."""
    return b'{"resultType":"complete","_meta":%b}' % _subscribed(subscription)


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
