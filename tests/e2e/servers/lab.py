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


def run(name: str, arguments: JsonObject, request: JsonObject) -> str:
    """What a tool does; returns its text."""
    match name:
        case "echo":
            return str(arguments.get("text", ""))
        case "pid":
            return str(os.getpid())
        case "sleep":
            until = time.monotonic() + float(arguments.get("seconds", 1))
            while time.monotonic() < until and request["id"] not in _cancelled:
                time.sleep(0.01)
            return "slept"
        case "count":
            with open(sys.argv[1], "a", encoding="utf-8") as file:  # noqa: PTH123
                file.write(f"{arguments['label']}\n")
            time.sleep(float(arguments.get("seconds", 0)))
            return "counted"
        case "steps":
            token = request["params"].get("_meta", {}).get("progressToken")
            total = int(arguments.get("steps", 3))
            for step in range(1, total + 1):
                if token is not None:
                    params = {"progressToken": token, "progress": step, "total": total}
                    send({"method": "notifications/progress", "params": params})
            return "done"
        case "large":
            return "x" * int(arguments["bytes"])
        case "fork":
            script = "import time; time.sleep(600)"
            return str(subprocess.Popen([sys.executable, "-c", script]).pid)
        case "noise":
            with _lock:
                sys.stdout.write("this is not JSON\n[1,2\n")
                sys.stdout.flush()
            sys.stderr.write("e" * 999 + "\n" * (int(arguments.get("bytes", 1000)) // 1000))
            sys.stderr.flush()
            return "made some noise"
        case "crash":
            os._exit(3)
        case "variables":
            return " ".join(sorted(os.environ))
        case _:
            raise LookupError(name)


def call(request: JsonObject) -> None:
    """Answer one call."""
    params = request["params"]
    try:
        text = run(params["name"], params.get("arguments") or {}, request)
    except LookupError as error:
        send({"id": request["id"], "error": {"code": -32602, "message": f"unknown tool {error}"}})
        return
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
