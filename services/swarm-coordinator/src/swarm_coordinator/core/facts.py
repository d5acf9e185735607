"""How facts are written: as JSON with camelCase members, defaults left out."""

import msgspec

__all__ = ["Facts", "FrozenFacts", "LogEntry"]


class Facts(msgspec.Struct, kw_only=True, rename="camel", omit_defaults=True):
    """Part of a state; only the fold changes it."""


class FrozenFacts(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Part of a state that is replaced, never changed."""


class LogEntry(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    rename="camel",
    omit_defaults=True,
    tag_field="e",
    gc=False,
):
    """An event, with its tag in ``e``.

    Attributes:
        at: when it was decided (Unix ms).
    """

    at: int
