"""A scripted legacy MCP server over stdio that asks its client back. Standard library only.

Each tool asks in its own way; ``seen`` tells what the server got for its questions, in order.
"""

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

LOCK = threading.Lock()
TOOLS = [
    "ask", "wizard", "late", "takes_back", "back", "forgets", "dies", "slow", "seen", "plain",
    "link", "pid", "pay_first", "reuses", "asks_beside", "backwards",
]  # fmt: skip
SEEN: list[object] = []
BACK: list[tuple[object, str]] = []
PAID: list[bool] = []
LOG: list[str] = []
OPEN: dict[str, Callable[[object], None]] = {}
NUMBERS = iter(range(1, 1_000_000))
FORM = {
    "mode": "form",
    "message": "Sure?",
    "requestedSchema": {"type": "object", "properties": {"ok": {"type": "boolean"}}},
}


def send(message: object) -> None:
    with LOCK:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()


def reply(request_id: object, value: object) -> None:
    result = {"content": [{"type": "text", "text": json.dumps(value)}]}
    send({"jsonrpc": "2.0", "id": request_id, "result": result})


def note(method: str, params: object) -> None:
    send({"jsonrpc": "2.0", "method": method, "params": params})


def later(seconds: float, function: Callable[..., object], *args: object) -> None:
    timer = threading.Timer(seconds, function, args)
    timer.daemon = True
    timer.start()


def ask(method: str, params: object, answered: Callable[[object], None]) -> str:
    name = f"q{next(NUMBERS)}"
    OPEN[name] = answered
    message = {"jsonrpc": "2.0", "id": name, "method": method}
    send(message if params is None else {**message, "params": params})
    return name


def ask_all(request_id: object, questions: list[list[object]], meta: dict[str, object]) -> None:
    got: dict[int, object] = {}

    def step(at: int) -> Callable[[object], None]:
        def answered(value: object) -> None:
            got[at] = value
            progress(meta, len(got))
            if len(got) == len(questions):
                reply(request_id, [got[i] for i in range(len(questions))])

        return answered

    for at, (method, params) in enumerate(questions):
        ask(str(method), params, step(at))


def saw(value: object) -> None:
    SEEN.append(value)
    if LOG:
        with Path(LOG[0]).open("a") as log:
            log.write(json.dumps(value) + "\n")


def progress(meta: dict[str, object], value: float) -> None:
    if "progressToken" in meta:
        token = meta["progressToken"]
        note("notifications/progress", {"progressToken": token, "progress": value})


def wizard(request_id: object, left: int, got: list[object]) -> None:
    if not left:
        reply(request_id, got)
        return

    def answered(value: object) -> None:
        wizard(request_id, left - 1, [*got, value])

    ask("elicitation/create", {**FORM, "message": f"{left} to go"}, answered)


def call(request_id: object, params: dict[str, object]) -> None:  # noqa: C901 - a case per tool
    arguments = params.get("arguments") or {}
    meta = params.get("_meta") or {}
    assert isinstance(arguments, dict)
    assert isinstance(meta, dict)
    n = arguments.get("n", 1)
    if "log" in arguments:
        LOG.append(arguments["log"])
    match params["name"]:
        case "ask":
            questions = arguments.get("questions", [["elicitation/create", FORM]])
            progress(meta, 0.5)
            ask_all(request_id, questions, meta)
        case "wizard":
            wizard(request_id, n, [])
        case "late":
            later(n, wizard, request_id, 1, [])
        case "takes_back":
            BACK.append((request_id, ask("elicitation/create", FORM, lambda _: None)))
        case "back":
            first, name = BACK.pop()
            note("notifications/cancelled", {"requestId": name})
            reply(first, "without you")
            reply(request_id, "taken back")
        case "forgets":
            ask("elicitation/create", FORM, lambda value: None)
            later(n, reply, request_id, "forgot")
        case "dies":
            ask("elicitation/create", FORM, lambda _: None)
            later(n, os.kill, os.getpid(), signal.SIGKILL)
        case "slow":
            later(n, reply, request_id, "slow")
        case "backwards":
            for value in (1, 2, 2, 1.5, 5):
                progress(meta, value)
            reply(request_id, "done")
        case "pid":
            reply(request_id, os.getpid())
        case "seen":
            reply(request_id, SEEN)
        case "link":
            link = {"mode": "url", "message": "Pay", "url": "https://e.x/", "elicitationId": "e1"}

            def paid(value: object) -> None:
                note("notifications/elicitation/complete", {"elicitationId": "e1"})
                reply(request_id, value)

            ask("elicitation/create", link, paid)
        case "pay_first" if not PAID:
            PAID.append(True)
            data = {
                "elicitations": [{"message": "Pay", "url": "https://e.x/", "elicitationId": "p"}]
            }
            error = {"code": -32042, "message": "pay first", "data": data}
            send({"jsonrpc": "2.0", "id": request_id, "error": error})
        case "pay_first":
            PAID.clear()
            reply(request_id, "paid")
        case "reuses":
            OPEN["same"] = lambda value: reply(request_id, value)
            for _ in range(2):
                send(
                    {"jsonrpc": "2.0", "id": "same", "method": "elicitation/create", "params": FORM}
                )
        case "asks_beside":
            reply(request_id, "done")
            ask("roots/list", None, lambda value: None)
        case _:
            reply(request_id, params)


def handle(message: dict[str, object]) -> None:  # noqa: C901 - a case per method
    method, request_id = message.get("method"), message.get("id")
    params = message.get("params") or {}
    assert isinstance(params, dict)
    if method == "initialize":
        ready = {
            "protocolVersion": params["protocolVersion"],
            "capabilities": {"tools": {}, "prompts": {}, "resources": {}, "logging": {}},
            "serverInfo": {"name": "curious", "version": "1"},
        }
        SEEN.append(params["capabilities"])
        send({"jsonrpc": "2.0", "id": request_id, "result": ready})
    elif method == "tools/list":
        tools = [{"name": name, "inputSchema": {"type": "object"}} for name in TOOLS]
        send({"jsonrpc": "2.0", "id": request_id, "result": {"tools": tools}})
    elif method == "tools/call":
        call(request_id, params)
    elif method in {"prompts/get", "resources/read", "completion/complete"}:

        def answered(value: object) -> None:
            result = {"messages": [], "contents": [], "completion": {"values": []}, "got": value}
            send({"jsonrpc": "2.0", "id": request_id, "result": result})

        ask("elicitation/create", FORM, answered)
    elif method == "ping":
        send({"jsonrpc": "2.0", "id": request_id, "result": {}})
    elif method == "notifications/cancelled":
        saw("cancelled")
    elif method is None:
        value = message.get("result", message.get("error"))
        saw(value)
        answer = OPEN.pop(str(request_id), None)
        if answer is not None:
            answer(value)
    elif request_id is not None:
        error = {"code": -32601, "message": f"unknown method {method}"}
        send({"jsonrpc": "2.0", "id": request_id, "error": error})


for line in sys.stdin:
    handle(json.loads(line))
