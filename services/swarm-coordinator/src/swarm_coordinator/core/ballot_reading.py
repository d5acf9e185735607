"""The ballot in what an agent gave: explicit, or its verdict, its result, its text."""

from typing import TypeVar

import msgspec

from mcp_proto.contracts.swarm import Ballot, WorkResult
from mcp_proto.jsonrpc import ABSENT

__all__ = ["RATIONALE_CHARS_MAX", "ballot_of"]

T = TypeVar("T")

RATIONALE_CHARS_MAX = 2_000
"""A reason is kept for people to read; a longer text belongs in the result itself."""


class _Said(msgspec.Struct, frozen=True):
    verdict: msgspec.Raw = ABSENT
    confidence: msgspec.Raw = ABSENT
    abstain: msgspec.Raw = ABSENT
    rationale: msgspec.Raw = ABSENT


_said = msgspec.json.Decoder(_Said)
_string = msgspec.json.Decoder(str)
_float = msgspec.json.Decoder(float)


def ballot_of(result: WorkResult) -> Ballot | None:
    """The ballot in a result.

    The choice is that of an explicit ballot, else ``structured.verdict``, else the whole
    structured result, else the text; ``confidence``, ``abstain`` and ``rationale`` beside a verdict
    count as well. A confidence outside 0..1 is unknown.

    Returns:
        None when the result holds nothing to vote with.
    """
    given = result.ballot or Ballot()
    said = _beside(result.structured)
    choice = given.choice
    if not bytes(choice):
        choice = said.verdict if bytes(said.verdict) else result.structured
    if not bytes(choice) and result.text:
        choice = msgspec.Raw(msgspec.json.encode(result.text))
    with_verdict = said if bytes(said.verdict) or bytes(said.abstain) else _Said()
    abstain = given.abstain or bytes(with_verdict.abstain) == b"true"
    if not bytes(choice) and not abstain:
        return None
    confidence = given.confidence
    if confidence is None:
        confidence = _read(_float, with_verdict.confidence)
    rationale = given.rationale or _read(_string, with_verdict.rationale) or ""
    return Ballot(
        choice=choice,
        confidence=confidence if confidence is not None and 0 <= confidence <= 1 else None,
        abstain=abstain,
        rationale=rationale[:RATIONALE_CHARS_MAX],
    )


def _beside(structured: msgspec.Raw) -> _Said:
    if bytes(structured).lstrip()[:1] != b"{":
        return _Said()
    try:
        return _said.decode(structured)
    except (ValueError, RecursionError):
        return _Said()


def _read(decoder: msgspec.json.Decoder[T], value: msgspec.Raw) -> T | None:
    try:
        return decoder.decode(value) if bytes(value) else None
    except (ValueError, RecursionError):
        return None
