"""Functions of a user, good and bad, that the tests let agents run."""

# ruff: noqa: C901, ASYNC240, ASYNC251 - bad on purpose

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from mesh_agents.contract import (
    Letter,
    StepFailedError,
    StepInput,
    StepOutput,
    StepRejectedError,
    ballot,
)
from mesh_agents.worker.frames import Progress


def add(a: int, b: int) -> dict[str, int]:
    """Add two numbers in a process of its own."""
    return {"sum": a + b, "pid": os.getpid()}


async def add_async(a: int, b: int) -> dict[str, int]:
    return {"sum": a + b, "pid": os.getpid()}


async def anything(step: StepInput) -> object:
    """Does what its input says, in the agent's loop."""
    given = step.payload["input"]
    assert isinstance(given, dict)
    match given["do"]:
        case "sleep":
            await asyncio.sleep(float(given["s"]))
            return "slept"
        case "block":
            time.sleep(float(given["s"]))
            return "blocked"
        case "die":
            os._exit(int(given["status"]))
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "fail":
            raise StepFailedError("no", type="custom", retryable=False, outcome="not_executed")
        case "raise":
            raise ValueError("oh no")
        case "reject":
            raise StepRejectedError("not mine")
        case "vote":
            return StepOutput(ballot=ballot("yes", confidence=0.5), structured={"v": 1})
        case "tool":
            answer = await step.call_tool("fs__read", {"path": "a"})
            return {"structured": answer.structured, "error": answer.is_error}
        case "tools":
            await asyncio.gather(*(step.call_tool("fs__read", {"n": n}) for n in range(3)))
            return "called"
        case "large":
            return {"text": "x" * int(given["bytes"])}
        case "odd":
            return {1, object()}
        case "report":
            for n in range(20):
                step.report(n, 20, f"at {n}")
            await asyncio.sleep(0.3)
            return None
        case "ask":
            if not step.answers:
                return StepOutput(
                    requests={"q": {"method": "elicitation/create", "params": {}}}, state={"n": 7}
                )
            return {"answers": step.answers, "state": step.state}
        case "garbage":
            import socket

            for fd in range(3, 64):
                try:
                    if os.fstat(fd).st_mode and Path(f"/proc/self/fd/{fd}").readlink():
                        sock = socket.socket(fileno=os.dup(fd))
                        sock.send(b"\0\0\0\x05hello")
                except OSError:
                    continue
            await asyncio.sleep(30)
        case "flood":
            for _ in range(30):
                for n in range(1_000):
                    step.reported.__self__._send(Progress(n=1, progress=n))
                await asyncio.sleep(0)
            await asyncio.sleep(30)
        case "deaf":
            step.report(1)
            while True:
                try:
                    await asyncio.sleep(30)
                except asyncio.CancelledError:
                    continue
        case "where":
            return {"cwd": step.workdir, "exists": Path(step.workdir).is_dir()}
    return None


def plain(step: StepInput) -> object:
    """Does what its input says, in a process of its own."""
    given = step.payload["input"]
    assert isinstance(given, dict)
    match given["do"]:
        case "sleep":
            time.sleep(float(given["s"]))
        case "tree":
            subprocess.Popen(["sleep", "1000"])
            marker = Path(str(given["file"]))
            marker.write_text(str(os.getpid()))
            time.sleep(1000)
        case "stubborn":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            Path(str(given["file"])).write_text(str(os.getpid()))
            time.sleep(1000)
        case "die":
            os._exit(3)
        case "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "tool":
            answer = step.call_tool_blocking("fs__read", {"path": "a"})
            return {"structured": answer.structured}
        case "report":
            step.report(1, 2, "half")
            return "done"
        case "memory":
            return {"bytes": len(bytearray(int(given["bytes"])))}
        case "print":
            print("noise " * 100_000)
            print("noise", file=sys.stderr)
            return "printed"
        case "loop":
            return asyncio.run(_later())
    return None


async def _later() -> str:
    await asyncio.sleep(0)
    return "later"


def hear(letter: Letter) -> object:
    if letter.action == "fail":
        raise ValueError("bad letter")
    return {"echo": letter.params, "from": letter.sender}


BROKEN = "not a function"
