"""The echo of the mesh, written with the SDK: what an agent costs beside a native tool.

``python -m tests.benchmarks.echo_agent STATE`` serves beside the mesh of that state directory and
says ``ready`` once its tool can be called.
"""

import asyncio
import os
import sys
from typing import Any

import uvloop

from mesh_sdk import Agent

agent = Agent("bench")


@agent.tool
async def echo(message: Any = None) -> dict:
    """Returns the message it is given."""
    return {"message": message}


async def main() -> None:
    """Serve until the process is ended."""
    async with agent.running():
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    os.environ["MESH_STATE"] = sys.argv[1]
    uvloop.run(main())
