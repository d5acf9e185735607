"""Run one agent: ``python -m mesh_agents.worker``, with the socket to the host as stdin."""

import asyncio
import os
import socket
import sys

from mesh_agents.worker.worker import Worker


async def _live(sock: socket.socket) -> int:
    return await Worker(sock).run()


def main() -> None:
    """Take the socket away from stdin, where the code of steps could read it."""
    sock = socket.socket(fileno=os.dup(0))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    status = asyncio.run(_live(sock))
    sys.stdout.flush()
    os._exit(status)  # threads that a step left do not keep the process


if __name__ == "__main__":
    main()
