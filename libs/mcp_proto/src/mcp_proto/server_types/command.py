"""``settings`` of servers of type ``command``: programs with fixed command lines as tools.

A command line is a list, never a line for a shell. A placeholder ``{name}`` stands for an argument
of the tool and fills one element of the list, or a part of one; so no value can add an element,
and none can become an option where the template has not begun one.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, cast

import msgspec
from msgspec import Meta

from mcp_proto.contracts.registry import ServerDefinition
from mcp_proto.server_definitions import is_secret_reference

__all__ = ["CommandSettings", "CommandTool", "Piece", "command_problem", "command_secrets", "parse"]

TOOLS_MAX = 128
WORDS_MAX = 256
VARIABLES_MAX = 64

_SCALARS = frozenset(("string", "integer", "number", "boolean"))
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_PIECES = re.compile(r"\{\{|\}\}|\{([A-Za-z_][A-Za-z0-9_-]{0,63})\}|[{}]|[^{}]+")

ToolName = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_.-]{1,64}\Z")]
Word = Annotated[str, Meta(max_length=16_384)]
Words = Annotated[tuple[Word, ...], Meta(min_length=1, max_length=WORDS_MAX)]


class CommandTool(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One tool: one command line.

    Attributes:
        name: as it is listed.
        title: for people.
        description: for models.
        argv: program and arguments; ``{name}`` = an argument of the tool, ``{{`` and ``}}`` =
            braces. The program itself is fixed.
        parameters: JSON Schema of the arguments, with type object; {} = none. Those in ``argv``
            are strings, numbers or booleans, and are required or have a default.
        allow_dash: placeholders whose value may begin with ``-`` although it begins an element
            before ``--``: the value may then be an option of the program.
        stdin: template of the standard input; values that are no text are written as JSON.
        cwd: working directory, absolute; "" = the runner's.
        env: variables added to the small allow-listed environment; a value may be a secret
            reference.
        output: ``text``; ``json`` = standard output is one JSON value; ``lines`` = a list of lines.
        result: JSON Schema of the output, with type object, of ``json``; None = it promises none.
        exit_ok: exit statuses that are no error (``grep`` ends with 1 when it finds nothing).
        timeout_s: longest run, in seconds; then everything it started is killed.
        output_bytes: longest output; a program that prints more is ended.
        read_only, destructive, idempotent, open_world: annotations of the tool.
    """

    name: ToolName
    argv: Words
    title: Annotated[str, Meta(max_length=256)] = ""
    description: Annotated[str, Meta(max_length=4096)] = ""
    parameters: dict[str, Any] = {}
    allow_dash: tuple[str, ...] = ()
    stdin: Word = ""
    cwd: Annotated[str, Meta(max_length=4096)] = ""
    env: dict[str, str] = {}
    output: Literal["text", "json", "lines"] = "text"
    result: dict[str, Any] | None = None
    exit_ok: tuple[Annotated[int, Meta(ge=0, le=255)], ...] = (0,)
    timeout_s: Annotated[float, Meta(gt=0, le=300)] = 30.0
    output_bytes: Annotated[int, Meta(ge=64, le=32 * 1024 * 1024)] = 1024 * 1024
    read_only: bool = False
    destructive: bool = True
    idempotent: bool = False
    open_world: bool = True


class CommandSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which command lines, and what a process may use up.

    Attributes:
        tools: what it offers.
        processes: run at once; further calls wait for a place, within their time.
        memory_bytes: address space of a process; 0 = what the runner's children have.
    """

    tools: tuple[CommandTool, ...]
    processes: Annotated[int, Meta(ge=1, le=256)] = 8
    memory_bytes: Annotated[int, Meta(ge=0)] = 0


class Piece(msgspec.Struct, frozen=True):
    """A part of a template: text, or the name of an argument."""

    text: str
    placeholder: bool = False


def parse(template: str) -> tuple[Piece, ...]:
    """The parts of a template.

    Raises:
        ValueError: a brace that belongs to nothing; says which.
    """
    pieces: list[Piece] = []
    for match in _PIECES.finditer(template):
        found = match[0]
        if match[1] is not None:
            pieces.append(Piece(match[1], placeholder=True))
        elif found in {"{", "}"}:
            raise ValueError(
                f"{template[:64]!r}: {{name}} is a placeholder, {{{{ and }}}} are braces"
            )
        else:
            pieces.append(Piece(found[0] if found in {"{{", "}}"} else found))
    return tuple(pieces)


def command_problem(definition: ServerDefinition, settings: CommandSettings) -> str | None:
    """What does not fit together, as public text that names the path."""
    del definition
    if not 0 < len(settings.tools) <= TOOLS_MAX:
        return f"tools: one to {TOOLS_MAX} tools"
    seen: set[str] = set()
    for at, tool in enumerate(settings.tools):
        if tool.name in seen:
            return f"tools[{at}].name: another tool is named {tool.name}"
        seen.add(tool.name)
        problem = _form_problem(tool) or _template_problem(tool)
        if problem is not None:
            return f"tools[{at}].{problem}"
    return None


def command_secrets(settings: CommandSettings) -> Iterable[str]:
    """The secrets that the settings name."""
    for tool in settings.tools:
        yield from (value for value in tool.env.values() if is_secret_reference(value))


def _form_problem(tool: CommandTool) -> str | None:
    texts = (*tool.argv, tool.stdin, tool.cwd, *tool.env.values())
    if any("\0" in text for text in texts):
        return "argv, stdin, cwd and env hold no NUL"
    if not tool.argv[0]:
        return "argv[0]: the program is missing"
    if tool.cwd and not tool.cwd.startswith("/"):
        return "cwd must be an absolute path"
    if len(tool.env) > VARIABLES_MAX:
        return f"env: at most {VARIABLES_MAX} variables"
    for name in tool.env:
        if _VARIABLE.fullmatch(name) is None:
            return f"env: {name[:64]!r} cannot be the name of a variable"
    if tool.parameters and tool.parameters.get("type") != "object":
        return 'parameters: its type must be "object"'
    if tool.result is not None and (tool.output != "json" or tool.result.get("type") != "object"):
        return 'result: for output "json", and its type must be "object"'
    return None


def _template_problem(tool: CommandTool) -> str | None:
    properties: Any = tool.parameters.get("properties", {})
    if not isinstance(properties, dict):
        return "parameters.properties must be an object"
    used: set[str] = set()
    for at, word in enumerate(tool.argv):
        where = f"argv[{at}]"
        try:
            names = [piece.text for piece in parse(word) if piece.placeholder]
        except ValueError as error:
            return f"{where}: {error}"
        if names and at == 0:
            return f"{where}: the program is fixed, it has no placeholder"
        for name in names:
            problem = _argument_problem(tool, cast("dict[str, Any]", properties), name)
            if problem is not None:
                return f"{where}: {problem}"
        used.update(names)
    try:
        fed = [piece.text for piece in parse(tool.stdin) if piece.placeholder]
    except ValueError as error:
        return f"stdin: {error}"
    known = cast("dict[str, Any]", properties)
    missing = [name for name in fed if name not in known]
    if missing:
        return f"stdin: {{{missing[0]}}} is not in parameters.properties"
    unknown = [name for name in tool.allow_dash if name not in used]
    if unknown:
        return f"allow_dash: {unknown[0]} is no placeholder of argv"
    idle = [name for name in known if name not in used and name not in fed]
    return f"parameters.properties.{idle[0]} is used nowhere" if idle else None


def _argument_problem(tool: CommandTool, properties: dict[str, Any], name: str) -> str | None:
    schema: Any = properties.get(name)
    if not isinstance(schema, dict):
        return f"{{{name}}} is not in parameters.properties"
    kind: Any = cast("dict[str, Any]", schema).get("type")
    kinds = cast("Sequence[Any]", kind) if isinstance(kind, list | tuple) else (kind,)
    if not kinds or not _SCALARS.issuperset(kinds):
        return f"{{{name}}} fills one element: its type is string, integer, number or boolean"
    required: Any = tool.parameters.get("required", ())
    if name not in required and "default" not in schema:
        return f"{{{name}}} must be required or have a default"
    return None
