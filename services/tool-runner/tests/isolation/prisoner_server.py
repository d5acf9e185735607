"""An MCP server over stdio that runs what it is told: the worst that could be in a sandbox.

Standard library only. Its one tool ``python`` executes ``code``, which leaves its answer in
``result``; an ``OSError`` is answered as ``refused: NAME``.
"""

import ctypes
import errno
import json
import os
import sys
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)


def call(number: int, *args: object) -> str:
    """A system call by its number: ``refused: NAME``, or what it returned."""
    found = LIBC.syscall(ctypes.c_long(number), *(_argument(one) for one in args))
    if found == -1:
        return f"refused: {errno.errorcode[ctypes.get_errno()]}"
    return f"got {found}"


def _argument(value: object) -> object:
    return ctypes.c_long(value) if isinstance(value, int) else value


def run(code: str) -> object:
    scope: dict[str, object] = {"call": call, "ctypes": ctypes, "os": os, "Path": Path}
    try:
        exec(code, scope)
    except OSError as error:
        return f"refused: {errno.errorcode.get(error.errno or 0, str(error))}"
    return scope.get("result")


def answer(message: dict[str, object]) -> dict[str, object]:
    match message["method"]:
        case "initialize":
            return {
                "protocolVersion": "2025-06-18",
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "prisoner", "version": "1"},
            }
        case "tools/list":
            return {"tools": [{"name": "python", "inputSchema": {"type": "object"}}]}
        case "tools/call":
            said = json.dumps(run(message["params"]["arguments"]["code"]))
            return {"content": [{"type": "text", "text": said}]}
        case _:
            return {}


for line in sys.stdin:
    request = json.loads(line)
    if "id" in request:
        reply = {"jsonrpc": "2.0", "id": request["id"], "result": answer(request)}
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()
