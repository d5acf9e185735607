"""One of many: an MCP server of the old eras over stdio, on the standard library alone.

``crowd.py TOOLS [FILE [NAME]]``: lists that many tools, of which the first ones act. Each question,
cancel and subscription is a line in FILE, so that a test sees what really reached the server. NAME
is for those who look for its process.
"""

import json
import sys
import threading
from typing import Any

JsonObject = dict[str, Any]
ACTING = {
    "grow": "Lists one more tool from now on.",
    "ask": "Asks its caller which colour.",
}

_lock = threading.Lock()
_answers: dict[str, threading.Event] = {}
_replies: dict[str, JsonObject] = {}
_asked = 0


def tool(name: str, description: str) -> JsonObject:
    """A tool as large as those of real servers: about 400 bytes."""
    text = {"type": "string", "description": f"What {name} works on, as a path or a plain word."}
    count = {"type": "integer", "description": "How often.", "minimum": 0, "maximum": 100}
    return {
        "name": name,
        "description": description,
        "inputSchema": {"type": "object", "properties": {"text": text, "count": count}},
        "annotations": {"readOnlyHint": True},
    }


tools = [tool(name, text) for name, text in ACTING.items()]
tools += [
    tool(f"tool_{n}", f"Looks at item {n} of the archive and tells what it found there.")
    for n in range(int(sys.argv[1]) - len(tools))
]
RESOURCES = [{"uri": f"crowd:{n}", "name": f"item {n}"} for n in range(4)]


def note(line: str) -> None:
    """Write down what happened."""
    if sys.argv[2:3] not in ([], [""]):
        with _lock, open(sys.argv[2], "a", encoding="utf-8") as file:  # noqa: PTH123
            file.write(f"{line}\n")


def send(message: JsonObject) -> None:
    """One message, whole."""
    with _lock:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        sys.stdout.flush()


def ask(request_id: object) -> None:
    """Ask the caller, and answer the call with what it said."""
    global _asked  # noqa: PLW0603
    with _lock:
        _asked += 1
        number = f"q{_asked}"
    answered = _answers[number] = threading.Event()
    schema = {"type": "object", "properties": {"colour": {"type": "string"}}}
    params = {"message": "Which colour?", "requestedSchema": schema}
    note(f"asks {number}")
    send({"id": number, "method": "elicitation/create", "params": params})
    answered.wait()
    del _answers[number]
    reply = _replies.pop(number)
    note(f"heard {number} {reply.get('result', {}).get('action', 'error')}")
    content = [{"type": "text", "text": json.dumps(reply.get("result", reply.get("error")))}]
    send({"id": request_id, "result": {"content": content}})


def call(request: JsonObject) -> None:
    """Answer one call."""
    name = request["params"]["name"]
    if name == "ask":
        threading.Thread(target=ask, args=(request["id"],), daemon=True).start()
        return
    if name == "grow":
        tools.append(tool(f"grown_{len(tools)}", "Was not there before."))
        send({"method": "notifications/tools/list_changed"})
    content = [{"type": "text", "text": name}]
    send({"id": request["id"], "result": {"content": content}})


def answer(request: JsonObject) -> JsonObject | None:
    """The result of any other request; None = there is no such method."""
    match request["method"]:
        case "initialize":
            able = {"listChanged": True}
            return {
                "protocolVersion": "2025-06-18",
                "capabilities": {"tools": able, "resources": {"subscribe": True}},
                "serverInfo": {"name": "crowd", "version": "1"},
            }
        case "tools/list":
            return {"tools": tools}
        case "resources/list":
            return {"resources": RESOURCES}
        case "resources/subscribe" | "resources/unsubscribe":
            note(f"{request['method'].removeprefix('resources/')} {request['params']['uri']}")
            return {}
        case "ping":
            return {}
        case _:
            return None


def main() -> None:
    """Serve stdin until it ends."""
    for line in sys.stdin:
        message = json.loads(line)
        method = message.get("method")
        if method is None:
            if message.get("id") in _answers:
                _replies[message["id"]] = message
                _answers[message["id"]].set()
        elif method == "notifications/cancelled":
            note("cancelled")
        elif "id" not in message:
            continue
        elif method == "tools/call":
            call(message)
        elif (result := answer(message)) is not None:
            send({"id": message["id"], "result": result})
        else:
            error = {"code": -32601, "message": "method not found"}
            send({"id": message["id"], "error": error})


if __name__ == "__main__":
    main()
