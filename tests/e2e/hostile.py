"""What nobody should send, and what must come back: one table for every edge."""

import json
from typing import Any

import msgspec

from mcp_proto.limits import EDGE_MESSAGE_BYTES

__all__ = ["MESSAGES", "REQUESTS", "Message", "Wanted"]

NO_ID: Any = None
PARSE, REQUEST, METHOD, PARAMS = -32700, -32600, -32601, -32602
DENIED, TOO_LARGE = -31003, -31012


def ping(request_id: str, rest: str = "") -> bytes:
    return b'{"jsonrpc":"2.0","id":%b,"method":"ping"%b}' % (request_id.encode(), rest.encode())


class Message(msgspec.Struct, frozen=True):
    """Bytes that are no proper request; answered with ``code`` under ``id``."""

    name: str
    data: bytes
    code: int
    id: Any = None


MESSAGES = (
    Message("garbage", b"\x01\x02 hello {]", PARSE),
    Message("NUL", b"\x00", PARSE),
    Message("random bytes", bytes(range(128, 256)), PARSE),
    Message("a byte order mark", b"\xef\xbb\xbf" + ping("1", ',"params":}'), PARSE, 1),
    Message("half a message", b'{"jsonrpc":"2.0","id":1,"meth', PARSE, 1),
    Message("bad UTF-8", ping("2", ',"params":{"x":"@"}').replace(b"@", b"\xc3\x28"), PARSE, 2),
    Message("NUL in a string", ping("3", ',"params":{"x":"\x00"}'), PARSE, 3),
    Message("2,000 levels", ping("4", f',"params":{{"x":{"[" * 2000}{"]" * 2000}}}'), REQUEST, 4),
    Message("10 MB of arrays", ping("5", f',"params":{{"x":[{"[]," * 3_400_000}1]}}'), REQUEST, 5),
    Message("the id twice", b'{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}', REQUEST),
    Message("the method twice", ping("6", ',"method":"tools/list"'), REQUEST, 6),
    Message("the method twice, escaped", ping("6", ',"m\\u0065thod":"x"'), REQUEST, 6),
    Message("id null", ping("null"), REQUEST),
    Message("id true", ping("true"), REQUEST),
    Message("id 1.5", ping("1.5"), REQUEST),
    Message("id 2^64", ping(str(2**64)), REQUEST),
    Message("id an object", ping("{}"), REQUEST),
    Message("jsonrpc 1.0", b'{"jsonrpc":"1.0","id":7,"method":"ping"}', REQUEST, 7),
    Message("jsonrpc a number", b'{"jsonrpc":2.0,"id":7,"method":"ping"}', REQUEST, 7),
    Message("no jsonrpc", b'{"id":7,"method":"ping"}', REQUEST, 7),
    Message("no method", b'{"jsonrpc":"2.0","id":8}', REQUEST, 8),
    Message("method a number", b'{"jsonrpc":"2.0","id":8,"method":1}', REQUEST, 8),
    Message("params a string", ping("9", ',"params":"x"'), REQUEST, 9),
    Message("an array", b"[" + ping("1") + b"]", REQUEST),
    Message("an empty array", b"[]", REQUEST),
    Message("a number", b"5", REQUEST),
)


class Wanted(msgspec.Struct, frozen=True):
    """A well-formed request for what does not exist; ``code`` 0 = a tool result with isError."""

    name: str
    method: str
    params: dict[str, Any]
    code: int
    beside: dict[str, Any] = {}

    def data(self, request_id: object, **meta: object) -> bytes:
        """The request as bytes."""
        params = {**self.params, **meta}
        body = {"jsonrpc": "2.0", "id": request_id, "method": self.method, "params": params}
        return json.dumps({**body, **self.beside}).encode()


def _call(name: str, **arguments: object) -> dict[str, Any]:
    return {"name": name, "arguments": arguments}


REQUESTS = (
    Wanted("an unknown method", "no/such", {}, METHOD),
    Wanted("an endless method", "x" * 5000, {}, REQUEST),
    Wanted("an unknown tool", "tools/call", _call("nothing"), PARAMS),
    Wanted("a tool of an unknown server", "tools/call", _call("nobody__tool"), PARAMS),
    Wanted("a name over every limit", "tools/call", _call("x" * 5000), PARAMS),
    Wanted("a server's tool over the limit", "tools/call", _call("time__" + "x" * 600), PARAMS),
    Wanted("a tool with wildcards", "tools/call", _call("kv:>"), PARAMS),
    Wanted("a tool with an empty token", "tools/call", _call("time:..*."), PARAMS),
    Wanted("a name that would end a frame", "tools/call", _call("time:a\r\nPUB x 0"), PARAMS),
    Wanted("a name with NUL", "tools/call", _call("kv_get\0"), PARAMS),
    Wanted("no name", "tools/call", {}, PARAMS),
    Wanted("a name that is a number", "tools/call", {"name": 5}, PARAMS),
    Wanted("arguments that are an array", "tools/call", {"name": "echo", "arguments": [1]}, 0),
    Wanted("a key over the limit", "tools/call", _call("kv_get", key="k" * 5000), 0),
    Wanted("a key that is a number", "tools/call", _call("kv_get", key=5), 0),
    Wanted("a bad cursor", "tools/list", {"cursor": "bogus"}, PARAMS),
    Wanted("a cursor that is a number", "tools/list", {"cursor": 5}, PARAMS),
    Wanted("an endless cursor", "tools/list", {"cursor": "c" * 10_000}, PARAMS),
    Wanted("an unknown prompt", "prompts/get", {"name": "nothing"}, PARAMS),
    Wanted("an unknown tenant", "tools/list", {}, DENIED, {"tenant_id": "nobody"}),
    Wanted("a tenant with wildcards", "tools/list", {}, DENIED, {"tenant_id": "*.>"}),
)

TOO_LONG = ping("99", f',"params":{{"x":"{"y" * EDGE_MESSAGE_BYTES}"}}')
"""Over the limit of an edge."""
