"""Machines at the broker: what a token is worth, in the broker's own words (JWT claims).

The broker asks who a connection is when no user of its configuration fits it (auth callout). The
answer is a user that exists for that connection alone, with the rights of one agent and an end.
"""

import base64
import hashlib
import hmac
from collections.abc import Callable, Mapping

import msgspec

from mcp_proto.broker_rights import agent_rights
from mcp_proto.contracts.machine_tokens import MachineIssue, MachineToken
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.ids import is_instance_id, is_server_name, is_tenant_id
from mcp_proto.names import RESERVED_SERVERS

__all__ = [
    "LIVE_MAX_S",
    "Asked",
    "check_issue",
    "granted",
    "is_worth",
    "made_token",
    "parts_of",
    "read_asked",
    "refused",
]

LIVE_MAX_S = 3600
"""Longest life of a token and of what it opened."""
NAMES_MAX = 16
SECRET_BYTES = 32
_PREFIX = "vm"
_REPLY_WINDOW_NS = 3600 * 1_000_000_000
_HEADER = b'{"typ":"JWT","alg":"ed25519-nkey"}'
Sign = Callable[[bytes], bytes]


class _ServerId(msgspec.Struct):
    id: str


class _ConnectOptions(msgspec.Struct):
    auth_token: str = ""


class _Request(msgspec.Struct):
    server_id: _ServerId
    user_nkey: str
    connect_opts: _ConnectOptions = msgspec.field(default_factory=_ConnectOptions)
    type: str = ""


class _Claims(msgspec.Struct):
    iss: str
    nats: _Request


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What the broker wants to know.

    Attributes:
        server: id of the broker that asks.
        user: key that it made up for this connection.
        token: what the connection showed; "" = nothing that could be ours.
    """

    server: str
    user: str
    token: str

    def __repr__(self) -> str:
        # A repr ends up in logs.
        return f"Asked({self.server})"


_claims = msgspec.json.Decoder(_Claims)


def check_issue(ask: MachineIssue) -> None:
    """Whether a token may be given for this.

    Raises:
        MeshError: ``params``.
    """
    fits = (
        is_instance_id(ask.vm_id)
        and is_tenant_id(ask.tenant)
        and 1 <= len(ask.names) <= NAMES_MAX
        and all(is_server_name(name) and name not in RESERVED_SERVERS for name in ask.names)
        and 1 <= ask.live_s <= LIVE_MAX_S
    )
    if not fits:
        raise MeshError(ErrorKind.PARAMS, "a machine has an id, a tenant, and names of its own")


def made_token(ask: MachineIssue, secret: bytes, now_ms: int) -> tuple[str, MachineToken]:
    """A new token, and what is kept of it.

    Args:
        ask: whose.
        secret: ``SECRET_BYTES`` random bytes.
        now_ms: Unix ms.
    """
    token = f"{_PREFIX}.{ask.vm_id}.{_b64(secret).decode()}"
    kept = MachineToken(
        vm_id=ask.vm_id,
        tenant=ask.tenant,
        names=ask.names,
        digest=_digest(token),
        expires_ms=now_ms + ask.live_s * 1000,
    )
    return token, kept


def parts_of(token: str) -> str:
    """The machine whose token this would be; "" = it is none of ours."""
    prefix, _, rest = token.partition(".")
    vm_id = rest.partition(".")[0]
    return vm_id if prefix == _PREFIX and len(token) <= 256 and is_instance_id(vm_id) else ""


def is_worth(kept: MachineToken, token: str, now_ms: int) -> bool:
    """Whether a token is the one that was given, and still counts."""
    return hmac.compare_digest(kept.digest, _digest(token)) and now_ms < kept.expires_ms


def read_asked(body: bytes) -> Asked:
    """The broker's question.

    Raises:
        ValueError: it is none.
    """
    _, _, rest = body.partition(b".")
    payload = rest.partition(b".")[0]
    try:
        claims = _claims.decode(base64.urlsafe_b64decode(payload + b"=" * (-len(payload) % 4)))
    except (msgspec.DecodeError, ValueError) as error:
        raise ValueError("not a question of the broker") from error
    asked = claims.nats
    if asked.type != "authorization_request" or asked.server_id.id != claims.iss:
        raise ValueError("not a question of the broker")
    return Asked(
        server=asked.server_id.id, user=asked.user_nkey, token=asked.connect_opts.auth_token
    )


def granted(
    asked: Asked, kept: MachineToken, *, account: str, issuer: str, sign: Sign, now_s: int, jti: str
) -> bytes:
    """The answer that lets a machine in.

    Args:
        asked: the question.
        kept: of its token.
        account: of the broker, in which it is a user.
        issuer: public key of the account that signs.
        sign: with its private half.
        now_s: Unix time.
        jti: unique id of this answer.
    """
    rights = agent_rights(kept.tenant, kept.vm_id, kept.names)
    user = {
        "jti": f"{jti}u",
        "iat": now_s,
        "exp": kept.expires_ms // 1000,
        "iss": issuer,
        "sub": asked.user,
        "aud": account,
        "name": f"vm/{kept.vm_id}",
        "nats": {
            "type": "user",
            "version": 2,
            "subs": -1,
            "data": -1,
            "payload": -1,
            "pub": {"allow": rights.publish, "deny": rights.publish_deny},
            "sub": {"allow": rights.subscribe},
            "resp": {"max": rights.replies, "ttl": _REPLY_WINDOW_NS},
        },
    }
    return _answer(asked, {"jwt": _jwt(user, sign).decode()}, issuer, sign, now_s, jti)


def refused(asked: Asked, *, issuer: str, sign: Sign, now_s: int, jti: str) -> bytes:
    """The answer that lets nobody in; it says nothing about why."""
    return _answer(asked, {"error": "unknown"}, issuer, sign, now_s, jti)


def _answer(
    asked: Asked, said: dict[str, str], issuer: str, sign: Sign, now_s: int, jti: str
) -> bytes:
    claims = {
        "jti": jti,
        "iat": now_s,
        "iss": issuer,
        "sub": asked.user,
        "aud": asked.server,
        "nats": {"type": "authorization_response", "version": 2, **said},
    }
    return _jwt(claims, sign)


def _jwt(claims: Mapping[str, object], sign: Sign) -> bytes:
    text = _b64(_HEADER) + b"." + _b64(msgspec.json.encode(claims))
    return text + b"." + _b64(sign(text))


def _b64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
