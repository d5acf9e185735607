"""One thing that is wrong."""

import msgspec

__all__ = ["Finding"]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong, why it matters and how to mend it; sentences for a person.

    Attributes:
        check: short name of the check, stable for scripts.
        what: what was seen, with the name of the thing.
        why: what it does to the mesh.
        mend: what to do.
    """

    check: str
    what: str
    why: str
    mend: str
