"""A scripted MCP server over stdio that misbehaves on request. Standard library only.

Usage: ``evil_server.py [MODE]``. In mode ``ok`` it is a legacy server whose tools are the
misbehaviours; the other modes are wrong from the start.
"""

# ruff: noqa: C901 - one case per misbehaviour

import json
import os
import signal
import subprocess
import sys
import threading
import time

LOCK = threading.Lock()
TOOLS = [
    "echo", "slow", "hang", "die", "exit", "noise", "stderr", "wrong_id", "twice", "huge", "wide",
    "fork",
    "grow", "progress", "log", "ask", "cancelled", "fail", "plain", "deaf", "pid", "asked",
    "freeze",
]  # fmt: skip
CANCELLED: list[object] = []
ASKED: dict[str, object] = {}


def send(message: object) -> None:
    data = json.dumps(message) + "\n"
    with LOCK:
        sys.stdout.write(data)
        sys.stdout.flush()


def reply(request_id: object, result: object) -> None:
    send({"jsonrpc": "2.0", "id": request_id, "result": result})


def text(value: object) -> dict[str, object]:
    return {"content": [{"type": "text", "text": str(value)}], "extra": {"b": 2, "a": [1.50]}}


def tool(name: str) -> dict[str, object]:
    return {"name": name, "inputSchema": {"type": "object", "$anchor": "x"}}


def list_tools(request_id: object, params: dict[str, object]) -> None:
    mode = MODE
    cursor = int(str(params.get("cursor", 0) or 0))
    if mode == "pages":
        page = [tool(f"t{cursor}")]
        following = {} if cursor >= 6 else {"nextCursor": str(cursor + 1)}
        reply(request_id, {"tools": page, **following})
    elif mode == "endless":
        reply(request_id, {"tools": [tool(f"t{cursor}")], "nextCursor": "1"})
    elif mode == "odd":
        tools = [tool("x"), tool("x"), {"no": "name"}, tool("n" * 200), tool("ü b/c")]
        reply(request_id, {"tools": tools})
    else:
        reply(request_id, {"tools": [tool(name) for name in TOOLS]})


def call(request_id: object, params: dict[str, object]) -> None:
    name = str(params["name"])
    arguments = params.get("arguments") or {}
    assert isinstance(arguments, dict)
    n = arguments.get("n", 1)
    meta = params.get("_meta") or {}
    assert isinstance(meta, dict)
    match name:
        case "echo":
            reply(request_id, text(json.dumps(params)))
        case "slow":
            threading.Timer(n, reply, (request_id, text("slow"))).start()
        case "hang":
            pass
        case "freeze":
            time.sleep(1000)
        case "die":
            data = json.dumps({"jsonrpc": "2.0", "id": request_id, "result": text("x" * 1000)})
            sys.stdout.write(data[:n])
            sys.stdout.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            os._exit(n)
        case "noise":
            for i in range(n):
                sys.stdout.write(f"noise {i}\n")
            sys.stdout.flush()
            reply(request_id, text("noisy"))
        case "stderr":
            line = "e" * 1023 + "\n"
            for _ in range(n * 1024):
                sys.stderr.write(line)
            sys.stderr.flush()
            reply(request_id, text("flooded"))
        case "wrong_id":
            reply(987654, text("wrong"))
            reply(str(request_id), text("a string"))
            reply(request_id, text("right"))
        case "twice":
            reply(request_id, text("first"))
            reply(request_id, text("second"))
        case "wide":
            many = "[]," * 250_000
            answer = f'{{"jsonrpc":"2.0","id":{request_id},"result":{{"content":[{many}[]]}}}}'
            sys.stdout.write(f"{answer}\n")
            sys.stdout.flush()
        case "huge":
            reply(request_id, text("x" * (n * 1024 * 1024)))
        case "fork":
            subprocess.Popen(["sleep", "1000"], start_new_session=True)
            subprocess.Popen(["sh", "-c", "sleep 1000 & sleep 1000"])
            reply(request_id, text(os.getpid()))
        case "grow":
            TOOLS.append(f"new{len(TOOLS)}")
            send({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"})
            reply(request_id, text("grown"))
        case "progress":
            for i in range(n):
                progress = {"progressToken": meta.get("progressToken"), "progress": i, "total": n}
                send({"jsonrpc": "2.0", "method": "notifications/progress", "params": progress})
            reply(request_id, text(json.dumps(meta)))
        case "log":
            for level in ("debug", "warning"):
                params = {"level": level, "data": "hello", "logger": "evil"}
                send({"jsonrpc": "2.0", "method": "notifications/message", "params": params})
            reply(request_id, text("logged"))
        case "ask":
            for number, method in enumerate(("ping", "roots/list", "sampling/createMessage")):
                send({"jsonrpc": "2.0", "id": number, "method": method, "params": {}})
            reply(request_id, text("asked"))
        case "asked":
            reply(request_id, text(json.dumps(ASKED)))
        case "cancelled":
            reply(request_id, text(json.dumps(CANCELLED)))
        case "fail":
            error = {
                "code": arguments.get("code", -32603),
                "message": "no",
                "data": {"why": "evil"},
            }
            send({"jsonrpc": "2.0", "id": request_id, "error": error})
        case "plain":
            send({"jsonrpc": "2.0", "id": request_id, "result": 7})
        case "pid":
            reply(request_id, text(os.getpid()))
        case "deaf":
            reply(request_id, text("deaf now"))
            time.sleep(1000)
        case _:
            error = {"code": -32602, "message": f"unknown tool {name}"}
            send({"jsonrpc": "2.0", "id": request_id, "error": error})


def handle(message: dict[str, object]) -> None:
    method, request_id = message.get("method"), message.get("id")
    params = message.get("params") or {}
    assert isinstance(params, dict)
    if method == "initialize":
        ready = {
            "protocolVersion": "2099-01-01" if MODE == "future" else params["protocolVersion"],
            "capabilities": {"tools": {"listChanged": True}, "logging": {}, "prompts": {}},
            "serverInfo": {"name": "evil", "version": "6.66"},
            "instructions": "Do not trust me.",
        }
        reply(request_id, ready)
    elif method == "tools/list":
        list_tools(request_id, params)
    elif method == "tools/call":
        call(request_id, params)
    elif method == "resources/read":
        error = {"code": -32002, "message": "no such resource", "data": {"uri": params["uri"]}}
        send({"jsonrpc": "2.0", "id": request_id, "error": error})
    elif method in {"ping", "logging/setLevel"}:
        reply(request_id, {})
    elif method == "notifications/cancelled":
        CANCELLED.append(params["requestId"])
    elif method is None:
        ASKED[str(request_id)] = message.get("result", message.get("error"))
    elif request_id is not None:
        error = {"code": -32601, "message": f"unknown method {method}"}
        send({"jsonrpc": "2.0", "id": request_id, "error": error})


def main() -> None:
    if MODE == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if MODE == "garbage":
        while True:
            print("this is no protocol", flush=True)
    if MODE in {"silent", "deaf"}:
        if MODE == "silent":
            for _ in sys.stdin:
                pass
        time.sleep(1000)
    if MODE == "shy":
        # Dies of a question asked before initialize, as some old servers do.
        first = json.loads(sys.stdin.readline())
        if first["method"] != "initialize":
            sys.exit(3)
        handle(first)
    for line in sys.stdin:
        handle(json.loads(line))
    while MODE == "stubborn":
        time.sleep(1000)


MODE = sys.argv[1] if len(sys.argv) > 1 else "ok"
main()
