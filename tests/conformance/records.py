"""The project's own requirements: the records, and how a test says which one it proves."""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest
from tests.conformance.peers import EDGES, REVISIONS

__all__ = ["Requirement", "cells_of", "proven", "proves", "requirements"]

FILE = Path(__file__).parent / "requirements.toml"
QUICK = frozenset(
    (
        ("http", "2026-07-28"),
        ("tcp", "2024-11-05"),
        ("stdio", "2025-11-25"),
    )
)
"""Cells that every run of the tests looks at; the others belong to the slow tests."""

T = TypeVar("T", bound=Callable[..., object])
proven: dict[str, str] = {}
"""Which test proves which record; filled when the test modules are imported."""


class Requirement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One record; ``missing`` are cells (``edge revision``) whose lack ``status`` describes."""

    id: str
    source: str
    behaviour: str
    status: str
    edges: tuple[str, ...] = EDGES
    revisions: tuple[str, ...] = REVISIONS
    missing: tuple[str, ...] = msgspec.field(default=(), name="except")


def requirements() -> dict[str, Requirement]:
    """All records by id."""
    table = tomllib.loads(FILE.read_text())
    found = msgspec.convert(table["requirement"], list[Requirement])
    return {one.id: one for one in found}


def cells_of(record: Requirement) -> list[object]:
    """A parameter set per edge and revision of a record."""
    return [
        pytest.param(
            edge,
            revision,
            id=f"{edge}-{revision}",
            marks=_marks(record, edge, revision),
        )
        for edge in record.edges
        for revision in record.revisions
    ]


def _marks(record: Requirement, edge: str, revision: str) -> list[pytest.MarkDecorator]:
    marks: list[pytest.MarkDecorator] = []
    if (edge, revision) not in QUICK:
        marks.append(pytest.mark.slow)
    if f"{edge} {revision}" in record.missing:
        # Strict: a cell that begins to hold must be taken out of the record.
        marks.append(pytest.mark.xfail(reason=record.status, strict=True))
    return marks


def proves(identifier: str) -> Callable[[T], T]:
    """Run the test for every cell of a record, as arguments ``edge`` and ``revision``."""
    record = requirements()[identifier]

    def mark(test: T) -> T:
        assert identifier not in proven, f"{identifier} is proven twice"
        proven[identifier] = test.__name__
        return pytest.mark.parametrize(("edge", "revision"), cells_of(record))(test)

    return mark
