"""The program of an image that nobody gave another one: runs Python that nobody should trust.

The name it serves under is ``name`` of the machine's configuration, else ``machine``.
"""

import asyncio
import json
import os
import platform
import sys
from pathlib import Path

from mesh_sdk.agent import Agent, ToolError

OUTPUT_MAX = 64 * 1024
CODE_MAX = 64 * 1024

config = json.loads(Path(os.environ["MESH_MACHINE_CONFIG"]).read_bytes())
agent = Agent(
    str(config.get("name", "machine")),
    description="A machine of its own kernel, without network: what runs here harms nobody.",
    instance=os.environ["MESH_INSTANCE"],
    threads=2,
    concurrency=16,
)


@agent.tool(read_only=True)
def about() -> dict[str, object]:
    """What this machine is: kernel, processors, memory, user, network interfaces."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "machine": os.environ["MESH_INSTANCE"],
        "kernel": platform.release(),
        "python": platform.python_version(),
        "processors": os.cpu_count(),
        "memoryMiB": pages // 2**20,
        "uid": os.getuid(),
        "interfaces": sorted(path.name for path in Path("/sys/class/net").glob("*")),
    }


@agent.tool(name="python", timeout_s=60)
async def run_python(code: str, stdin: str = "") -> dict[str, object]:
    """Run Python code in a process of its own.

    Args:
        code: the program; its standard library only.
        stdin: what it reads.
    """
    if len(code) > CODE_MAX:
        raise ToolError(f"code above {CODE_MAX} characters")
    process = await asyncio.create_subprocess_exec(
        sys.executable or "/usr/bin/python3", "-I", "-S", "-c", code,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        out, err = await process.communicate(stdin.encode())
    finally:
        if process.returncode is None:
            os.killpg(process.pid, 9)
    return {
        "status": process.returncode,
        "stdout": out[:OUTPUT_MAX].decode(errors="replace"),
        "stderr": err[:OUTPUT_MAX].decode(errors="replace"),
    }


if __name__ == "__main__":
    agent.run()
