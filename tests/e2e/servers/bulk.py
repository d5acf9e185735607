"""An MCP server on stdio (2025-11-25) whose answers are as large as it is asked for."""

import base64
import json
import sys

ANY = {"type": "object", "properties": {"size": {"type": "integer"}}, "required": ["size"]}
TOOLS = [
    {"name": "text", "inputSchema": ANY},
    {"name": "blob", "inputSchema": ANY},
    {"name": "many", "inputSchema": ANY},
    {"name": "data", "inputSchema": ANY},
    {"name": "promised", "inputSchema": ANY, "outputSchema": {"type": "object"}},
]


def body(size: int) -> str:
    """Not one repeated byte: an off-by-one in a range must show."""
    return "".join(f"{number:09d}\n" for number in range(size // 10 + 1))[:size]


def call(name: str, size: int) -> dict:
    small = {"type": "text", "text": "small"}
    if name == "blob":
        data = base64.b64encode(body(size).encode()).decode()
        return {"content": [small, {"type": "image", "data": data, "mimeType": "image/png"}]}
    if name == "many":
        each = body(size // 40)
        return {"content": [{"type": "text", "text": each} for _ in range(40)]}
    if name in {"data", "promised"}:
        return {"content": [small], "structuredContent": {"rows": body(size)}}
    return {"content": [{"type": "text", "text": body(size)}, small]}


def answer(method: str, params: dict) -> dict:
    if method == "initialize":
        capabilities = {"tools": {}, "prompts": {}, "resources": {}}
        info = {"name": "bulk", "version": "1"}
        return {
            "protocolVersion": "2025-11-25",
            "capabilities": capabilities,
            "serverInfo": info,
        }
    if method == "tools/list":
        return {"tools": TOOLS}
    if method == "prompts/list":
        return {"prompts": [{"name": "long"}]}
    if method == "resources/list":
        return {"resources": [{"uri": "bulk://long", "name": "long"}]}
    if method == "tools/call":
        return call(params["name"], params["arguments"]["size"])
    if method == "prompts/get":
        content = {"type": "text", "text": body(11_000_000)}
        return {"messages": [{"role": "user", "content": content}]}
    if method == "resources/read":
        return {"contents": [{"uri": "bulk://long", "text": body(11_000_000)}]}
    return {}


def main() -> None:
    for line in sys.stdin:
        message = json.loads(line)
        if "id" not in message:
            continue
        reply = {"jsonrpc": "2.0", "id": message["id"]}
        if message["method"] == "server/discover":
            reply["error"] = {"code": -32601, "message": "not known"}
        else:
            reply["result"] = answer(message["method"], message.get("params") or {})
        sys.stdout.write(json.dumps(reply, ensure_ascii=False) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
