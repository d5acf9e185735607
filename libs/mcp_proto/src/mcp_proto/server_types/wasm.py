"""``settings`` of servers of type ``wasm``: WebAssembly modules as tools, each in a sandbox."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from mcp_proto.contracts.registry import ServerDefinition

__all__ = ["WasmSettings", "WasmTool", "wasm_problem"]

TOOLS_MAX = 128

ToolName = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_.-]{1,64}\Z")]


class WasmTool(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One tool of a module.

    Attributes:
        name: as it is listed.
        title: for people.
        description: for models.
        parameters: JSON Schema of its arguments, with type object; {} = any object.
        result: JSON Schema of its result, with type object; None = it promises none.
        args: arguments of the program: what tells the tools of one module apart.
        function: exported function that is called; WASI commands have ``_start``.
        read_only: it changes nothing; a module cannot change anything outside itself.
    """

    name: ToolName
    title: Annotated[str, Meta(max_length=256)] = ""
    description: Annotated[str, Meta(max_length=4096)] = ""
    parameters: dict[str, Any] = {}
    result: dict[str, Any] | None = None
    args: Annotated[tuple[Annotated[str, Meta(max_length=1024)], ...], Meta(max_length=64)] = ()
    function: Annotated[str, Meta(min_length=1, max_length=256)] = "_start"
    read_only: bool = True


class WasmSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which module, and what a call of it may use up.

    A module is a WASI command (preview 1): JSON arguments come on its standard input, its standard
    output is the JSON result, a JSON object. It sees no file, no network, no clock to sleep on
    and no variable of the environment.

    Attributes:
        module: file of the runner: ``.wasm``, or ``.wat`` text.
        tools: what it offers.
        fuel: about how many instructions a call may run; a plain loop runs some 10^9 in a second.
        memory_bytes: linear memory of a call.
        timeout_s: longest run of a call, in seconds, however little fuel it burns.
        output_bytes: longest output of a call.
    """

    module: Annotated[str, Meta(min_length=1, max_length=4096)]
    tools: tuple[WasmTool, ...]
    fuel: Annotated[int, Meta(ge=1_000, le=10**13)] = 10_000_000_000
    memory_bytes: Annotated[int, Meta(ge=64 * 1024, le=2**32)] = 64 * 1024 * 1024
    timeout_s: Annotated[float, Meta(gt=0, le=300)] = 10.0
    output_bytes: Annotated[int, Meta(ge=64, le=32 * 1024 * 1024)] = 1024 * 1024


def wasm_problem(definition: ServerDefinition, settings: WasmSettings) -> str | None:
    """What does not fit together, as public text."""
    del definition
    if not 0 < len(settings.tools) <= TOOLS_MAX:
        return f"tools: one to {TOOLS_MAX} tools"
    names = [tool.name for tool in settings.tools]
    for at, tool in enumerate(settings.tools):
        if tool.name in names[:at]:
            return f"tools[{at}].name: another tool is named {tool.name}"
        for field, schema in (("parameters", tool.parameters), ("result", tool.result)):
            if schema and schema.get("type") != "object":
                return f'tools[{at}].{field}: its type must be "object"'
        if any("\0" in word for word in tool.args):
            return f"tools[{at}].args: no NUL"
    return None
