"""Who speaks on a link."""

import msgspec

__all__ = ["Identity"]


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Whom a machine is at the broker.

    Attributes:
        vm_id: instance id of the agent inside.
        tenant: whose.
        names: servers it may be.
    """

    vm_id: str
    tenant: str
    names: tuple[str, ...]
