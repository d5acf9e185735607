"""The Synadia Agent Protocol for NATS, version 0.3: subjects, prompts, chunks, service records.

An agent is a NATS micro service named ``agents``; it is prompted on
``agents.prompt.{agent}.{owner}.{session}`` and answers with a stream of JSON chunks that a first
``status`` chunk ``ack`` opens and a message without body and headers ends. Paragraph numbers are
those of the protocol, as its SDKs quote them.
"""

import re
from collections.abc import Mapping
from typing import Literal

import msgspec

from mcp_proto.errors import ErrorKind, MeshError

__all__ = [
    "ACK",
    "ERROR_CODE_HEADER",
    "ERROR_HEADER",
    "INFO_TYPE",
    "OWN_KEY",
    "PROMPT_ENDPOINT",
    "QUEUE",
    "SERVICE",
    "VERSION",
    "AgentName",
    "Attachment",
    "Beat",
    "Chunk",
    "EndpointInfo",
    "FoundAgent",
    "Info",
    "Prompt",
    "bytes_of",
    "chunk_of",
    "found_of",
    "prompt_of",
    "response",
    "status",
]

SERVICE = "agents"
"""Name of the micro service (§3.1) and first token of every subject (§2)."""
VERSION = "0.3"
QUEUE = "agents"
"""Queue group of ``prompt`` and ``status`` (§3.3)."""
PROMPT_ENDPOINT = "prompt"
INFO_TYPE = "io.nats.micro.v1.info_response"
ERROR_HEADER = "Nats-Service-Error"
ERROR_CODE_HEADER = "Nats-Service-Error-Code"
OWN_KEY = "mesh"
"""Metadata key of agents that a gateway of the mesh exposes: those are tools already."""

RECORD_BYTES_MAX = 64 * 1024
DESCRIPTION_CHARS_MAX = 1_000
_ANY_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,128}")
_AGENT = re.compile(r"[a-z0-9-]{1,64}")
_TOKEN = re.compile(r"[a-z0-9_-]{1,64}")
_SIZE = re.compile(r"\s*([0-9]{1,12})\s*(B|KB|MB|GB)\s*", re.IGNORECASE)
_UNITS = {"B": 1, "KB": 2**10, "MB": 2**20, "GB": 2**30}

_encode = msgspec.json.Encoder().encode


class AgentName(msgspec.Struct, frozen=True):
    """The three tokens that name an agent (§2)."""

    agent: str
    owner: str
    session: str

    def subject(self, verb: Literal["prompt", "status", "hb"]) -> str:
        """A subject of the agent."""
        return f"{SERVICE}.{verb}.{self.agent}.{self.owner}.{self.session}"

    def problem(self) -> str | None:
        """Why these tokens cannot name an agent; None = they can."""
        if _AGENT.fullmatch(self.agent) is None:
            return f"agent {self.agent!r}: lowercase letters, digits and '-', at most 64"
        for part, token in (("owner", self.owner), ("session", self.session)):
            if _TOKEN.fullmatch(token) is None:
                return f"{part} {token!r}: lowercase letters, digits, '-' and '_', at most 64"
        return None


class Attachment(msgspec.Struct, frozen=True):
    """A file (§5.2): ``content`` is base64 with the standard alphabet."""

    filename: str
    content: str


class Prompt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A request (§5.1); fields of extensions are ignored."""

    prompt: str
    attachments: tuple[Attachment, ...] | None = None


class EndpointInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One endpoint of a service record."""

    name: str = ""
    subject: str = ""
    queue_group: str | None = ""
    metadata: Mapping[str, str] | None = None


class Info(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to ``$SRV.INFO`` (ADR-32)."""

    name: str
    id: str
    version: str = ""
    metadata: Mapping[str, str] | None = None
    type: str = INFO_TYPE
    description: str = ""
    endpoints: tuple[EndpointInfo, ...] = ()


class FoundAgent(msgspec.Struct, frozen=True):
    """An agent that answers discovery; several instances of one are one.

    Attributes:
        subject: to prompt it on.
        agent: first of its three tokens.
        owner: second.
        session: third.
        description: for people, cut.
        bytes_max: largest prompt that it takes.
        attachments: it takes files.
    """

    subject: str
    agent: str
    owner: str
    session: str
    description: str
    bytes_max: int
    attachments: bool


class BeatEndpoint(msgspec.Struct, frozen=True):
    """What a heartbeat declares of an endpoint."""

    subject: str
    metadata: Mapping[str, str]


class Beat(msgspec.Struct, frozen=True, kw_only=True):
    """A heartbeat, also the answer to ``status`` (§8.3). ``ts`` is UTC, ISO 8601 with ``Z``."""

    agent: str
    owner: str
    session: str
    instance_id: str
    ts: str
    interval_s: int
    protocol_version: str = VERSION
    endpoints: Mapping[str, BeatEndpoint]


class _Raw(msgspec.Struct, frozen=True):
    type: str
    data: msgspec.Raw = msgspec.Raw(b"null")


class _Response(msgspec.Struct, frozen=True, omit_defaults=True):
    text: str
    attachments: tuple[Attachment, ...] | None = None


class _Query(msgspec.Struct, frozen=True):
    id: str
    reply_subject: str
    prompt: str


class Chunk(msgspec.Struct, frozen=True, kw_only=True):
    """One part of an answer: text of a response, a status token, or the question of a query."""

    kind: Literal["response", "status", "query"]
    text: str
    attachments: tuple[Attachment, ...] = ()


_INFO = msgspec.json.Decoder(Info)
_PROMPT = msgspec.json.Decoder(Prompt)
_CHUNK = msgspec.json.Decoder(_Raw)
_STATUS = msgspec.json.Decoder(str)
_RESPONSE = msgspec.json.Decoder(str | _Response)
_QUERY = msgspec.json.Decoder(_Query)


def prompt_of(payload: bytes) -> Prompt:
    """The prompt in a request: JSON when it begins with ``{``, else plain text (§5.3).

    Raises:
        MeshError: ``params``: empty, malformed, or no text.
    """
    if payload.lstrip(b" \t\r\n")[:1] == b"{":
        try:
            prompt = _PROMPT.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise MeshError(ErrorKind.PARAMS, f"malformed envelope: {error}") from None
    else:
        try:
            prompt = Prompt(prompt=payload.decode())
        except UnicodeDecodeError:
            raise MeshError(ErrorKind.PARAMS, "neither JSON nor text in UTF-8") from None
    if not prompt.prompt:
        raise MeshError(ErrorKind.PARAMS, "the prompt is empty")
    return prompt


def status(token: str) -> bytes:
    """A status chunk (§6.4); callers ignore tokens they do not know."""
    return _encode({"type": "status", "data": token})


ACK = status("ack")
"""Opens every stream, and keeps a quiet one alive."""


def response(text: str, attachments: tuple[Attachment, ...] = ()) -> bytes:
    """A response chunk (§6.3)."""
    data = _Response(text, attachments) if attachments else text
    return _encode({"type": "response", "data": data})


def chunk_of(payload: bytes) -> Chunk | None:
    """A chunk; None for a type that is not known, which is ignored (§6.6).

    Raises:
        ValueError: it is malformed.
    """
    try:
        raw = _CHUNK.decode(payload)
        match raw.type:
            case "status":
                return Chunk(kind="status", text=_STATUS.decode(raw.data))
            case "response":
                said = _RESPONSE.decode(raw.data)
                if isinstance(said, str):
                    return Chunk(kind="response", text=said)
                return Chunk(kind="response", text=said.text, attachments=said.attachments or ())
            case "query":
                return Chunk(kind="query", text=_QUERY.decode(raw.data).prompt)
            case _:
                return None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(str(error)) from None


def found_of(record: bytes, bytes_max: int) -> FoundAgent | None:
    """The agent of a service record; None = it is none that could be prompted.

    A record is believed only with a subject of the protocol's own form: it could name one that its
    author may not publish to.

    Args:
        record: answer to ``$SRV.INFO.agents``.
        bytes_max: largest message of the connection.
    """
    if len(record) > RECORD_BYTES_MAX:
        return None
    try:
        info = _INFO.decode(record)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    prompt = next((one for one in info.endpoints if one.name == PROMPT_ENDPOINT), None)
    if info.name != SERVICE or OWN_KEY in (info.metadata or {}) or prompt is None:
        return None
    tokens = prompt.subject.split(".")
    if tokens[:2] != [SERVICE, "prompt"] or len(tokens) != 5:
        return None
    agent, owner, session = tokens[2:]
    if not all(_ANY_TOKEN.fullmatch(one) for one in (agent, owner, session)):
        return None
    details = prompt.metadata or {}
    said = bytes_of(details.get("max_payload", "")) or bytes_max
    return FoundAgent(
        subject=prompt.subject,
        agent=agent,
        owner=owner,
        session=session,
        description=info.description[:DESCRIPTION_CHARS_MAX],
        bytes_max=min(said, bytes_max),
        attachments=details.get("attachments_ok") == "true",
    )


def bytes_of(size: str) -> int | None:
    """A size such as ``512KB`` (§2.1) in bytes; None when it is none."""
    found = _SIZE.fullmatch(size)
    return int(found[1]) * _UNITS[found[2].upper()] if found else None
