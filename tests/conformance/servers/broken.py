"""Servers that are wrong in one way each, over stdio, with the standard library alone.

``--how paged``: seven pages of ninety tools (right, and long); ``endless``: a page after every
page; ``repeating``: the same cursor again and again; ``hanging``: no answer to any list;
``dying``: ends when its tools are listed.
"""

import argparse
import json
import os
import sys
import time
from typing import Any

PAGES, PER_PAGE = 7, 90
Json = dict[str, Any]


def page_of(how: str, cursor: str | None) -> Json:
    """One page of tools."""
    at = int(cursor or 0)
    count = PER_PAGE if how == "paged" else 2
    tools = [
        {
            "name": f"tool-{at:03}-{number:02}",
            "description": "One of many.",
            "inputSchema": {"type": "object"},
        }
        for number in range(count)
    ]
    if how == "paged":
        following = str(at + 1) if at + 1 < PAGES else None
    elif how == "repeating":
        following = "1"
    else:
        following = str(at + 1)
    return {"tools": tools, **({} if following is None else {"nextCursor": following})}


def answer(how: str, method: str, params: Json) -> Json | None:
    """Result of a request; None = no such method."""
    if method == "initialize":
        return {
            "protocolVersion": "2025-06-18",
            "capabilities": {"tools": {}},
            "serverInfo": {"name": how, "version": "1"},
        }
    if method == "ping":
        return {}
    if method == "tools/list":
        if how == "hanging":
            time.sleep(3600)
        if how == "dying":
            os._exit(3)
        return page_of(how, params.get("cursor"))
    if method == "tools/call":
        return {"content": [{"type": "text", "text": params["name"]}]}
    return None


def main() -> None:
    """Serve until the pipe ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--how", required=True)
    parser.add_argument("--era")
    how = parser.parse_args().how
    for line in sys.stdin:
        message = json.loads(line)
        if "id" not in message or "method" not in message:
            continue
        result = answer(how, message["method"], message.get("params") or {})
        body: Json = {"jsonrpc": "2.0", "id": message["id"]}
        if result is None:
            body["error"] = {"code": -32601, "message": "Method not found"}
        else:
            body["result"] = result
        sys.stdout.write(json.dumps(body) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
