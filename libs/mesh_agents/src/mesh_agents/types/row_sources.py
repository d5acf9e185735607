"""Where rows come from: a file of the roots, an artifact of the tenant, or text in the question.

A range of bytes stands for the lines that begin in it, so ranges that touch share no line and lose
none.
"""

import base64
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from io import BytesIO
from itertools import pairwise
from typing import BinaryIO, Protocol

import msgspec

from mesh_agents.contract import StepFailedError, StepInput
from mesh_agents.types.inputs import Input, refuse
from mesh_agents.types.places import Roots, opened

__all__ = ["LINE_BYTES_MAX", "Source", "cut", "lines", "size_of"]

LINE_BYTES_MAX = 1024 * 1024
"""A longer line is one unreadable row."""
RANGE_BYTES = 1024 * 1024
"""Asked of ``artifacts_get`` at once, its most."""


class Source(Input, frozen=True, kw_only=True):
    """Exactly one of ``path``, ``artifact`` and ``text``.

    Attributes:
        path: file of the roots.
        artifact: key of an artifact, read with the submitter's rights.
        text: the rows themselves.
        start: first byte of the range.
        end: behind its last; None = to the end.
    """

    path: str = ""
    artifact: str = ""
    text: str = ""
    start: int = 0
    end: int | None = None


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Artifact:
    """An artifact, read in ranges."""

    def __init__(self, step: StepInput, key: str, position: int) -> None:
        self._step = step
        self._key = key
        self._position = position
        self._size = artifact_size(step, key)

    def read(self, size: int, /) -> bytes:
        if self._position >= self._size:
            return b""
        length = min(size, RANGE_BYTES, self._size - self._position)
        held = _got(self._step, self._key, self._position, length)
        text, data = held.get("text"), held.get("data")
        body = text.encode() if isinstance(text, str) else base64.b64decode(str(data or ""))
        if not body:
            raise StepFailedError(f"artifact {self._key} ended early", type="tool")
        self._position += len(body)
        return body


def _got(step: StepInput, key: str, offset: int, length: int) -> dict[str, object]:
    asked = {"key": key, "offset": offset, "length": length}
    answer = step.call_tool_blocking("artifacts_get", asked)
    held = answer.structured
    if answer.is_error or not isinstance(held, dict):
        raise StepFailedError(f"artifact {key}: {answer.text[:300]}", type="tool")
    if held.get("found") is not True:
        raise refuse(f"no artifact {key}")
    return dict(held)


def artifact_size(step: StepInput, key: str) -> int:
    """Bytes of an artifact.

    Raises:
        StepFailedError: ``tool``, ``input`` (there is none).
    """
    size = _got(step, key, 0, 1).get("size")
    return size if isinstance(size, int) else 0


def size_of(step: StepInput, source: Source, roots: Roots | None) -> int:
    """Bytes of the whole source.

    Raises:
        StepFailedError: ``input``, ``tool``.
    """
    if source.artifact:
        return artifact_size(step, source.artifact)
    if source.text:
        return len(source.text.encode())
    with _file(source, roots) as file:
        return file.seek(0, 2)


def cut(source: Source, size: int, pieces: int) -> list[Source]:
    """The source in at most ``pieces`` ranges of about the same length."""
    start, end = source.start, size if source.end is None else min(source.end, size)
    length = max(0, end - start)
    count = max(1, min(pieces, length))
    marks = [start + length * number // count for number in range(count + 1)]
    return [
        msgspec.structs.replace(source, start=first, end=last) for first, last in pairwise(marks)
    ]


def lines(step: StepInput, source: Source, roots: Roots | None) -> Iterator[bytes | None]:
    """The lines that begin in the range, without their ends; None = a line that is too long.

    Raises:
        StepFailedError: ``input``, ``tool``.
    """
    if source.start < 0 or (source.end is not None and source.end < source.start):
        raise refuse("a range of bytes begins at 0 or later and ends behind its beginning")
    # One byte more in front tells whether a line begins exactly there.
    begin = max(0, source.start - 1)
    if source.artifact:
        yield from _lines(_Artifact(step, source.artifact, begin), begin, source)
    elif source.text:
        body = BytesIO(source.text.encode())
        body.seek(begin)
        yield from _lines(body, begin, source)
    else:
        with _file(source, roots) as file:
            file.seek(begin)
            yield from _lines(file, begin, source)


def _lines(body: _Readable, position: int, source: Source) -> Iterator[bytes | None]:
    skipping = source.start > 0
    for line, length in _split(body):
        begins, position = position, position + length
        if skipping:
            skipping = False  # the rest of a line that began before the range, or only its end
            if begins < source.start:
                continue
        if source.end is not None and begins >= source.end:
            return
        yield line


def _split(body: _Readable) -> Iterator[tuple[bytes | None, int]]:
    """Each line without its end (None = too long), and how many bytes it took with its end."""
    held = bytearray()
    dropped = 0
    while piece := body.read(RANGE_BYTES):
        held += piece
        *whole, rest = held.split(b"\n")
        for line in whole:
            taken = dropped + len(line) + 1
            yield (None if taken > LINE_BYTES_MAX else bytes(line.removesuffix(b"\r"))), taken
            dropped = 0
        held = rest
        if len(held) > LINE_BYTES_MAX:
            dropped += len(held)
            held = bytearray()
    if held or dropped:
        taken = dropped + len(held)
        yield (None if taken > LINE_BYTES_MAX else bytes(held)), taken


@contextmanager
def _file(source: Source, roots: Roots | None) -> Generator[BinaryIO, None, None]:
    if not source.path or roots is None:
        raise refuse("a source has one of path, artifact and text")
    found = roots.find(source.path)
    try:
        with opened(found) as file:
            yield file
    except OSError as error:
        raise refuse(f"{source.path}: {error.strerror or error}") from None
