"""``[integrations]`` of ``mesh.toml``: the systems around a mesh, one table each."""

import msgspec

from mcp_proto.redis_bridge import RedisBridgeTable
from mesh_cli.tables.verifier import VerifierTable

__all__ = ["IntegrationsTable"]


class IntegrationsTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[integrations]``: see the tables."""

    dragonfly: RedisBridgeTable = RedisBridgeTable()
    marketeer: VerifierTable = VerifierTable()
