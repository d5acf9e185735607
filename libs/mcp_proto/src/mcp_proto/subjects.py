"""The subject grammar: the only module that builds or parses a subject.

A subject carries what permissions, queue groups and metrics need (tenant, kind, server, tool);
what varies per call travels in headers (``envelope``). Tokens are encoded reversibly, so a
permission per tool cannot be dodged by an odd name. The broker validates nothing: publishes to
empty tokens or wildcards are accepted there and match the wrong thing, hence the checks here.

Grammar: docs/architecture.md, section "Subjects".
"""

from enum import StrEnum

import msgspec

from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.limits import NAME_CHARS_MAX, SUBJECT_BYTES_MAX, TOPIC_CHARS_MAX

__all__ = [
    "ANY",
    "PLATFORM",
    "QUEUE",
    "REST",
    "ROOT",
    "Kind",
    "Subject",
    "blob",
    "call",
    "decode_token",
    "encode_token",
    "event",
    "gateway",
    "instance",
    "parse",
    "rpc",
    "service",
    "task",
    "topic",
]

ROOT = "mesh.v1"
PLATFORM = "_"
"""Tenant token of the platform itself; a tenant cannot have it, ``encode_token`` escapes it."""
QUEUE = "w"
"""Queue group of workers on ``call``, ``rpc`` and ``gw``. One group only: two groups on one
subject would both receive, and a call would run twice."""

_KEEP = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
_HEX = frozenset("0123456789ABCDEF")
_encoded: dict[str, str] = {}
_ENCODED_MAX = 20_000  # memo bound: names are few, but hostile callers invent them


class _Wildcard(str):
    """A wildcard for subscriptions. Its own type, so that a tool named ``*`` is only a name."""

    __slots__ = ()


ANY = _Wildcard("*")
"""Any one token."""
REST = _Wildcard(">")
"""Any tokens from here on; only as the method or the verb."""


class Kind(StrEnum):
    """Third token behind the root: what a subject is for."""

    CALL = "call"
    RPC = "rpc"
    INST = "inst"
    EVT = "evt"
    TASK = "task"
    BLOB = "blob"
    GW = "gw"
    TOPIC = "topic"
    SVC = "svc"


def encode_token(text: str) -> str:
    """Encode any name into one subject token, reversibly and injectively.

    Letters, digits, ``_`` and ``-`` stay; every other UTF-8 byte becomes ``=HH``; the literal
    name ``_`` becomes ``=5F``. The result is also legal in KV keys.

    Raises:
        ValueError: the name is empty or not encodable as UTF-8.
    """
    known = _encoded.get(text)
    if known is not None:
        return known
    if not text:
        raise ValueError("empty token")
    if text == PLATFORM:
        return "=5F"
    token = "".join(chr(b) if b in _KEEP else f"={b:02X}" for b in text.encode())
    if len(_encoded) < _ENCODED_MAX:
        _encoded[text] = token
    return token


def decode_token(token: str) -> str:
    """Invert ``encode_token``.

    Raises:
        ValueError: the token is not something ``encode_token`` writes.
    """
    out = bytearray()
    i = 0
    while i < len(token):
        char = token[i]
        if char == "=":
            pair = token[i + 1 : i + 3]
            if len(pair) != 2 or not _HEX.issuperset(pair):
                raise ValueError(f"bad escape in token {token!r}")
            out.append(int(pair, 16))
            i += 3
        else:
            if not char.isascii() or ord(char) not in _KEEP:
                raise ValueError(f"bad character in token {token!r}")
            out.append(ord(char))
            i += 1
    text = out.decode()
    if encode_token(text) != token:
        raise ValueError(f"token {token!r} is not canonical")
    return text


def _name(text: str, what: str) -> str:
    if not text or len(text) > NAME_CHARS_MAX:
        raise MeshError(
            ErrorKind.TOO_LARGE if text else ErrorKind.PARAMS,
            f"{what} must have 1 to {NAME_CHARS_MAX} characters",
        )
    try:
        return encode_token(text)
    except UnicodeEncodeError:
        raise MeshError(ErrorKind.PARAMS, f"{what} is not valid Unicode") from None


def _checked(subject: str) -> str:
    if len(subject) > SUBJECT_BYTES_MAX:
        raise MeshError(
            ErrorKind.TOO_LARGE, f"the encoded name exceeds a subject of {SUBJECT_BYTES_MAX} bytes"
        )
    return subject


def call(tenant: str, server: str, tool: str) -> str:
    """Subject of ``tools/call``: ``mesh.v1.{tenant}.call.{server}.{tool}``.

    Pass ``ANY`` to subscribe to every tenant or tool. Raises ``MeshError`` (too_large, params).
    """
    return _checked(
        f"{ROOT}.{_wild(tenant, 'tenant')}.call.{_wild(server, 'server')}.{_wild(tool, 'tool')}"
    )


def rpc(tenant: str, server: str, method: str) -> str:
    """Subject of any other MCP request to one server, e.g. ``…rpc.notes.resources.read``.

    The slashes of the MCP method become token separators; ``REST`` subscribes to all methods.
    """
    return _checked(
        f"{ROOT}.{_wild(tenant, 'tenant')}.rpc.{_wild(server, 'server')}.{_method(method)}"
    )


def instance(tenant: str, instance_id: str, verb: str) -> str:
    """Directed subject of one process: verbs ping, cancel, drain, call, answer; ``REST`` = all.

    Of a swarm (``instance_id`` is its id) and its hosts: ``contracts.swarm``; what a host says to
    an owner has the host as one more token, so that the broker knows who speaks.
    """
    tail = verb if verb is REST else _name(verb, "verb")
    return _checked(
        f"{ROOT}.{_wild(tenant, 'tenant')}.inst.{_name(instance_id, 'instance')}.{tail}"
    )


def event(tenant: str, kind: str, source: str) -> str:
    """Subject of a plain event: kinds list_changed, updated, task, log, audit, usage, swarm, vm."""
    return _checked(
        f"{ROOT}.{_wild(tenant, 'tenant')}.evt."
        f"{_wild(kind, 'event kind')}.{_wild(source, 'source')}"
    )


def task(tenant: str, task_class: str, *ids: str) -> str:
    """Subject of stored work: ``mesh.v1.{tenant}.task.{class}.{id…}``; the class picks the stream.

    Classes ``high``, ``normal``, ``low``, ``agent``, ``dlq``; ``log`` with the id of a swarm is
    that swarm's log. An id may have several tokens; ``ANY`` and, as the last, ``REST`` subscribe.

    Raises:
        MeshError: ``params`` (no id), ``too_large``.
    """
    if not ids:
        raise MeshError(ErrorKind.PARAMS, "a task subject needs an id")
    last = ids[-1]
    tail = [_wild(one, "task id") for one in ids[:-1]]
    tail.append(last if last is REST else _wild(last, "task id"))
    return _checked(
        f"{ROOT}.{_wild(tenant, 'tenant')}.task.{_wild(task_class, 'task class')}.{'.'.join(tail)}"
    )


def blob(tenant: str, instance_id: str, blob_id: str) -> str:
    """Subject from which a claim-checked body is pulled in chunks."""
    return _checked(
        f"{ROOT}.{_wild(tenant, 'tenant')}.blob.{_name(instance_id, 'instance')}."
        f"{_wild(blob_id, 'blob id')}"
    )


def gateway(tenant: str, method: str) -> str:
    """Subject of the gateway itself for NATS-native clients: ``mesh.v1.{tenant}.gw.tools.list``."""
    return _checked(f"{ROOT}.{_wild(tenant, 'tenant')}.gw.{_method(method)}")


def topic(tenant: str, text: str) -> str:
    """Subject of a tenant's own events: ``mesh.v1.{tenant}.topic.{topic}``; ``ANY`` = all topics.

    A topic is any text (``tasks:high_priority``) and becomes one token.
    """
    if text is not ANY and len(text) > TOPIC_CHARS_MAX:
        raise MeshError(ErrorKind.TOO_LARGE, f"a topic has at most {TOPIC_CHARS_MAX} characters")
    try:
        token = text if text is ANY else encode_token(text)
    except (ValueError, UnicodeEncodeError):
        raise MeshError(ErrorKind.PARAMS, "a topic is non-empty Unicode text") from None
    return _checked(f"{ROOT}.{_wild(tenant, 'tenant')}.topic.{token}")


def service(name: str, operation: str, tenant: str = PLATFORM, item: str = "") -> str:
    """Subject of a platform operation: ``mesh.v1._.svc.{service}.{op}``; ``ANY`` = all.

    Under a tenant's token for the few that its own agents may ask for; with the name of what it is
    about as a last token where the right to it depends on that.
    """
    tail = f".{_wild(item, 'item')}" if item else ""
    return _checked(
        f"{ROOT}.{_wild(tenant, 'tenant')}.svc."
        f"{_name(name, 'service')}.{_wild(operation, 'operation')}{tail}"
    )


def _wild(text: str, what: str) -> str:
    if text is ANY:
        return text
    if text == PLATFORM and what == "tenant":
        return text
    return _name(text, what)


def _method(method: str) -> str:
    if method is REST:
        return method
    return ".".join(_name(part, "method") for part in method.split("/"))


class Subject(msgspec.Struct, frozen=True):
    """A parsed subject; tokens are decoded.

    Attributes:
        tenant: tenant id, or ``_`` for the platform.
        kind: what the subject is for.
        names: the decoded tokens behind the kind, in order.
    """

    tenant: str
    kind: Kind
    names: tuple[str, ...]

    @property
    def method(self) -> str:
        """MCP method of an ``rpc`` or ``gw`` subject, with its slashes."""
        return "/".join(self.names[1:] if self.kind is Kind.RPC else self.names)


def parse(subject: str) -> Subject:
    """Take a subject apart.

    Raises:
        ValueError: not a subject of this grammar.
    """
    tokens = subject.split(".")
    root, version, *rest = tokens if len(tokens) >= 5 else ("", "")
    if f"{root}.{version}" != ROOT or len(rest) < 3:
        raise ValueError(f"not a subject of {ROOT}: {subject!r}")
    tenant = PLATFORM if rest[0] == PLATFORM else decode_token(rest[0])
    return Subject(
        tenant=tenant, kind=Kind(rest[1]), names=tuple(decode_token(token) for token in rest[2:])
    )
