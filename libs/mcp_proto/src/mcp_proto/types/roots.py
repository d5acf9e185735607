"""``roots/list``: where a client lets servers work."""

from mcp_proto.types.meta import WithMeta

__all__ = ["ListRootsResult", "Root"]


class Root(WithMeta, frozen=True, kw_only=True):
    """One root; ``uri`` begins with ``file://``."""

    uri: str
    name: str | None = None


class ListRootsResult(WithMeta, frozen=True, kw_only=True):
    """The client's answer to ``roots/list``."""

    roots: tuple[Root, ...]
