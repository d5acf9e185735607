"""A scripted modern MCP server over stdio that asks by ``input_required``."""

import json
import sys


def answer(method: str, params: dict[str, object]) -> dict[str, object]:
    if method == "server/discover":
        result = {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}}
    elif method == "tools/list":
        tools = [{"name": name, "inputSchema": {"type": "object"}} for name in ("ask", "needs")]
        result = {"tools": tools}
    elif params.get("name") == "needs":
        data = {"requiredCapabilities": {"sampling": {}}}
        return {"error": {"code": -32021, "message": "needs sampling", "data": data}}
    elif "inputResponses" in params:
        result = {"content": [{"type": "text", "text": json.dumps(params)}]}
    else:
        result = {
            "resultType": "input_required",
            "inputRequests": {"mine": {"method": "roots/list"}},
            "requestState": "own\u00e9 state",
            "_meta": {"mesh/parked": {"instance": "evil"}, "vendor/x": 1},
        }
    return {"result": {"resultType": "complete", "ttlMs": 0, "cacheScope": "private", **result}}


for line in sys.stdin:
    message = json.loads(line)
    if "id" in message:
        told = answer(message["method"], message.get("params") or {})
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], **told}), flush=True)
