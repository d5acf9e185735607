"""An MCP server over stdio for tests: well behaved, with tools that misbehave when asked to.

The standard library alone, so that a restart costs milliseconds. Every call runs in a thread of
its own: a slow one must not hold up the others. Given a file name, each call of ``count`` adds a
line to it, so that a test sees what really ran.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

_lock = threading.Lock()
_cancelled: set[Any] = set()
JsonObject = dict[str, Any]


def _tool(name: str, description: str, /, **properties: str) -> JsonObject:
    kinds = {key: {"type": kind} for key, kind in properties.items()}
    return {
        "name": name,
        "description": description,
        "inputSchema": {"type": "object", "properties": kinds},
    }


TOOLS = [
    _tool("echo", "Answers with the text it was given.", text="string"),
    _tool("pid", "Its process id."),
    _tool("sleep", "Answers after some time.", seconds="number"),
    _tool("count", "Notes a label in its file, then answers.", label="string", seconds="number"),
    _tool("steps", "Reports progress before it answers.", steps="integer"),
    _tool("large", "Answers with many bytes.", bytes="integer"),
    _tool("fork", "Starts a process that would outlive it; answers with its id."),
    _tool("noise", "Writes what is no protocol to stdout and much to stderr.", bytes="integer"),
    _tool("crash", "Ends the process in mid-call."),
    _tool("variables", "Names of the environment variables it was given."),
]


def send(message: JsonObject) -> None:
    """One message, whole."""
    with _lock:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        sys.stdout.flush()


def _sleep(arguments: JsonObject, request: JsonObject) -> str:
    until = time.monotonic() + float(arguments.get("seconds", 1))
    while time.monotonic() < until and request["id"] not in _cancelled:
        time.sleep(0.01)
    return "slept"


def _count(arguments: JsonObject, _: JsonObject) -> str:
    with open(sys.argv[1], "a", encoding="utf-8") as file:  # noqa: PTH123
        file.write(f"{arguments['label']}\n")
    time.sleep(float(arguments.get("seconds", 0)))
    return "counted"


def _steps(arguments: JsonObject, request: JsonObject) -> str:
    token = request["params"].get("_meta", {}).get("progressToken")
    total = int(arguments.get("steps", 3))
    for step in range(1, total + 1):
        if token is not None:
            params = {"progressToken": token, "progress": step, "total": total}
            send({"method": "notifications/progress", "params": params})
    return "done"


def _fork(_: JsonObject, __: JsonObject) -> str:
    script = "import time; time.sleep(600)"
    return str(subprocess.Popen([sys.executable, "-c", script]).pid)


def _noise(arguments: JsonObject, _: JsonObject) -> str:
    with _lock:
        sys.stdout.write("this is not JSON\n[1,2\n")
        sys.stdout.flush()
    for _line in range(int(arguments.get("bytes", 1000)) // 1000):
        sys.stderr.write("e" * 999 + "\n")
    sys.stderr.flush()
    return "made some noise"


def _crash(_: JsonObject, __: JsonObject) -> str:
    os._exit(3)


RUN: dict[str, Callable[[JsonObject, JsonObject], str]] = {
    "echo": lambda arguments, _: str(arguments.get("text", "")),
    "pid": lambda _, __: str(os.getpid()),
    "sleep": _sleep,
    "count": _count,
    "steps": _steps,
    "large": lambda arguments, _: "x" * int(arguments["bytes"]),
    "fork": _fork,
    "noise": _noise,
    "crash": _crash,
    "variables": lambda _, __: " ".join(sorted(os.environ)),
}


def call(request: JsonObject) -> None:
    """Answer one call."""
    params = request["params"]
    try:
        run = RUN[params["name"]]
    except KeyError as error:
        send({"id": request["id"], "error": {"code": -32602, "message": f"unknown tool {error}"}})
        return
    text = run(params.get("arguments") or {}, request)
    if request["id"] not in _cancelled:
        content = [{"type": "text", "text": text}]
        send({"id": request["id"], "result": {"content": content, "isError": False}})


def answer(request: JsonObject) -> None:
    """Answer any other request."""
    match request["method"]:
        case "initialize":
            result: JsonObject = {
                "protocolVersion": "2025-06-18",
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "lab", "version": "1"},
            }
        case "ping":
            result = {}
        case "tools/list":
            result = {"tools": TOOLS}
        case _:
            error = {"code": -32601, "message": "method not found"}
            send({"id": request["id"], "error": error})
            return
    send({"id": request["id"], "result": result})


def main() -> None:
    """Serve stdin until it ends."""
    for line in sys.stdin:
        message = json.loads(line)
        if message.get("method") == "notifications/cancelled":
            _cancelled.add(message["params"]["requestId"])
        elif "id" not in message or "method" not in message:
            continue
        elif message["method"] == "tools/call":
            threading.Thread(target=call, args=(message,), daemon=True).start()
        else:
            answer(message)


if __name__ == "__main__":
    main()
