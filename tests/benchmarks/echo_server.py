"""A minimal stdio MCP server (legacy era) for the benchmark: one tool that answers at once.

Written on the standard library so that what is measured is the mesh's way to a child and back, not
a framework inside the child.
"""

import json
import sys

TOOL = {
    "name": "echo",
    "description": "Answers with the text it was given.",
    "inputSchema": {"type": "object", "properties": {"text": {"type": "string"}}},
}


def answer(request: dict[str, object]) -> dict[str, object] | None:
    """The result for one request; None = method not found."""
    params = request.get("params") or {}
    assert isinstance(params, dict)
    match request["method"]:
        case "initialize":
            return {
                "protocolVersion": "2025-11-25",
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "bench-echo", "version": "1"},
            }
        case "ping":
            return {}
        case "tools/list":
            return {"tools": [TOOL]}
        case "tools/call":
            text = params["arguments"].get("text", "")
            return {"content": [{"type": "text", "text": text}], "isError": False}
        case _:
            return None


def main() -> None:
    """Serve stdin until it ends."""
    for line in sys.stdin:
        request = json.loads(line)
        if "id" not in request:
            continue
        result = answer(request)
        body: dict[str, object] = {"jsonrpc": "2.0", "id": request["id"]}
        if result is None:
            body["error"] = {"code": -32601, "message": "method not found"}
        else:
            body["result"] = result
        sys.stdout.write(json.dumps(body) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
