"""What an object bucket holds, read: descriptions by name or sequence, and what belongs to none.

The name of an artifact's chunks begins with a digest of the artifact's name, so that a sweep
knows from the two lists of subjects which few of them it has to look at.
"""

import base64
import binascii
import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec

from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.bus.connection import Bus
from mesh_chassis.clock import now_ms
from mesh_chassis.direct_get import get_batch
from mesh_chassis.jetstream import ApiError, api
from tool_runner.drivers.chunks import READ_TIMEOUT_S, ObjectInfo, encoded_name
from tool_runner.drivers.storage import SCAN_MAX, Artifact

__all__ = [
    "ARTIFACTS",
    "CONTENT_TYPE",
    "CREATED",
    "JSON_BYTES",
    "artifact_of",
    "at",
    "description",
    "description_subject",
    "descriptions",
    "digest_text",
    "doubtful",
    "is_orphan",
    "last_of",
    "name_of",
    "subjects",
]

ARTIFACTS = "artifacts/"
"""What names of artifacts begin with; stored results share the bucket."""
CONTENT_TYPE, CREATED = "content-type", "mesh-created-ms"
JSON_BYTES = "mesh-json-bytes"
"""Length of a text as a JSON string, by which it can be given while it is read."""
NAME_DIGEST_CHARS, NUID_CHARS = 16, 32
_DIGEST = "SHA-256="
_INFO = msgspec.json.Decoder(ObjectInfo)


class _Last(msgspec.Struct, frozen=True):
    last_by_subj: str


class _At(msgspec.Struct, frozen=True):
    seq: int


class _Many(msgspec.Struct, frozen=True):
    multi_last: Sequence[str]
    batch: int


class _SubjectsOf(msgspec.Struct, frozen=True):
    subjects_filter: str


class _State(msgspec.Struct, frozen=True):
    subjects: dict[str, int] | None = None


class _Shown(msgspec.Struct, frozen=True):
    state: _State
    total: int = 0


def description_subject(bucket: str, name: str) -> str:
    """Where an object is described."""
    return f"$O.{bucket}.M.{encoded_name(name)}"


def last_of(bucket: str, name: str) -> msgspec.Struct:
    """Asks for the newest description of a name."""
    return _Last(description_subject(bucket, name))


def at(sequence: int) -> msgspec.Struct:
    """Asks for the message at a sequence."""
    return _At(sequence)


async def description(
    bus: Bus, bucket: str, wanted: msgspec.Struct
) -> tuple[int, ObjectInfo | None]:
    """Sequence of a description (0 = there is none), and the object if it is there.

    Raises:
        MeshError: ``no_runner`` without such a bucket, or the broker does not answer.
    """
    reply = await bus.request(
        f"$JS.API.DIRECT.GET.OBJ_{bucket}", msgspec.json.encode(wanted), timeout_s=READ_TIMEOUT_S
    )
    status = reply.headers.get("Status", "")
    if status and status != "404":
        raise MeshError(ErrorKind.INTERNAL, "the broker refused a read", internal=status)
    if status:
        return 0, None
    return int(reply.headers["Nats-Sequence"]), _read(reply.payload)


async def descriptions(bus: Bus, bucket: str, names: Sequence[str]) -> dict[str, ObjectInfo]:
    """Descriptions of those objects that are there, by name."""
    wanted = _Many([description_subject(bucket, name) for name in names], len(names))
    if not names:
        return {}
    found = await get_batch(bus, f"OBJ_{bucket}", wanted, timeout_s=READ_TIMEOUT_S)
    infos = (_read(one.payload) for one in found)
    return {info.name: info for info in infos if info is not None}


def _read(payload: bytes) -> ObjectInfo | None:
    try:
        info = _INFO.decode(payload)
    except msgspec.DecodeError:
        return None
    # Without these two it was put by another program, and cannot be read in ranges.
    ours = CREATED in info.metadata and CONTENT_TYPE in info.metadata
    return info if ours and not info.deleted else None


async def subjects(bus: Bus, bucket: str, part: str) -> list[str]:
    """Subjects of the bucket that hold something: ``M`` descriptions, ``C`` chunks.

    Raises:
        MeshError: ``no_runner`` without such a bucket, ``overloaded``.
    """
    body = msgspec.json.encode(_SubjectsOf(f"$O.{bucket}.{part}.>"))
    try:
        shown = await api(bus, f"STREAM.INFO.OBJ_{bucket}", body, _Shown)
    except ApiError as error:
        if error.failure.code == 404:
            raise MeshError(ErrorKind.NO_RUNNER, "there is no such bucket") from None
        raise MeshError(
            ErrorKind.INTERNAL, "the store cannot be read", internal=str(error)
        ) from error
    found = shown.state.subjects or {}
    if shown.total > max(len(found), SCAN_MAX):
        raise MeshError(ErrorKind.OVERLOADED, f"more than {SCAN_MAX} objects cannot be listed")
    return list(found)


def name_of(bucket: str, subject: str) -> str:
    """Name of the object that a subject describes; "" for one that is none."""
    try:
        token = subject.removeprefix(f"$O.{bucket}.M.").encode()
        return base64.urlsafe_b64decode(token).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return ""


def name_digest(name: str) -> str:
    """First half of the name of an artifact's chunks."""
    return hashlib.sha256(name.encode()).hexdigest()[:NAME_DIGEST_CHARS]


def doubtful(bucket: str, written: Iterable[str], described: Iterable[str]) -> list[str]:
    """Subjects of chunks that may belong to nothing: several of one name, or of none there is."""
    start = f"$O.{bucket}.C."
    nuids = [one.removeprefix(start) for one in written]
    # Others in the bucket (stored results, the stock tool) have names of another length.
    mine = [nuid for nuid in nuids if len(nuid) == NUID_CHARS]
    names = {name_digest(name_of(bucket, one)) for one in described}
    count = Counter(nuid[:NAME_DIGEST_CHARS] for nuid in mine)
    return [
        start + nuid
        for nuid in mine
        if count[nuid[:NAME_DIGEST_CHARS]] > 1 or nuid[:NAME_DIGEST_CHARS] not in names
    ]


async def is_orphan(
    bus: Bus, bucket: str, subject: str, described: Iterable[str], older_s: float
) -> bool:
    """Whether chunks belong to no object that is there and were not written of late."""
    nuid = subject.rpartition(".")[2]
    names = (name_of(bucket, one) for one in described)
    for name in [one for one in names if name_digest(one) == nuid[:NAME_DIGEST_CHARS]]:
        _, info = await description(bus, bucket, last_of(bucket, name))
        if info is not None and info.nuid == nuid:
            return False
    reply = await bus.request(
        f"$JS.API.DIRECT.GET.OBJ_{bucket}",
        msgspec.json.encode(_Last(subject)),
        timeout_s=READ_TIMEOUT_S,
    )
    if reply.headers.get("Status", "") or not reply.payload:
        return False  # gone, or rolled up already
    written = datetime.fromisoformat(reply.headers["Nats-Time-Stamp"][:19] + "+00:00")
    return now_ms() / 1000 - written.timestamp() >= older_s


def digest_text(sha256: bytes) -> str:
    """``digest`` of a description."""
    return _DIGEST + base64.urlsafe_b64encode(sha256).decode()


def artifact_of(info: ObjectInfo) -> Artifact:
    """A description in the terms of the tools."""
    return Artifact(
        key=info.name.removeprefix(ARTIFACTS),
        size=info.size,
        content_type=info.metadata[CONTENT_TYPE],
        sha256=base64.urlsafe_b64decode(info.digest.removeprefix(_DIGEST)).hex(),
        created_ms=int(info.metadata[CREATED]),
    )
