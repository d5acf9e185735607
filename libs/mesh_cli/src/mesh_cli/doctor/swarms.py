"""Checks of swarms: room for what happens in them."""

from mcp_proto.buckets import SWARM_LOG
from mesh_cli import jetstream
from mesh_cli.connection import Connection
from mesh_cli.doctor.finding import Finding
from mesh_cli.failure import Failure
from mesh_cli.terminal import quantity

__all__ = ["check_swarm_log"]

FULL_SHARE = 0.9
_LOOK_S = 2.0


async def check_swarm_log(client: Connection) -> Finding | None:
    """Whether the log of swarms is about to refuse."""
    try:
        found = await jetstream.stream_info(client, SWARM_LOG, _LOOK_S)
    except Failure:
        return None  # no swarms here, or somebody else's finding
    size, most = found.state.bytes, found.config.max_bytes
    if most <= 0 or size < FULL_SHARE * most:
        return None
    return Finding(
        check="swarm-log",
        what=f"the log of swarms holds {quantity(size)} of {quantity(most)}",
        why="a full log takes no further steps of any swarm",
        mend="destroy swarms that nobody needs (mesh swarm list), or raise "
        "[streams] swarm_log_max_bytes of the registry",
    )
