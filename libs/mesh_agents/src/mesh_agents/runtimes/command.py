"""A program of the operator's as an agent: fixed command line, no shell, a directory of its own.

Each step runs in the process forked for it: limits are set there, and a cancel reaches the whole
process group. The program gets the payload as JSON on its standard input.
"""

import os
import resource
import selectors
import shutil
import signal
import subprocess
import threading
from collections.abc import Mapping
from functools import partial
from typing import IO, Literal, cast

import msgspec

from mcp_proto.agent_runtimes import CommandEntry
from mcp_proto.server_types.command import Piece, parse
from mesh_agents.contract import AgentType, Json, StepFailedError, StepInput, StepOutput
from mesh_agents.runtimes.loading import LoadError
from mesh_agents.worker.frames import Init

__all__ = ["command_line", "load"]

ERRORS_BYTES = 4 * 1024
"""How much of the end of standard error an error shows."""
ELEMENT_BYTES_MAX = 64 * 1024
_READ_BYTES = 65_536


def load(init: Init) -> AgentType:
    """Look for the program.

    Raises:
        LoadError: it is not there, or a placeholder is written wrongly.
    """
    entry = msgspec.json.decode(init.settings, type=CommandEntry)
    try:
        template = tuple(parse(word) for word in entry.argv)
    except ValueError as error:
        raise LoadError(f"command {entry.name}: {error}") from None
    if not template[0] or any(piece.placeholder for piece in template[0]):
        raise LoadError(f"command {entry.name}: the program is fixed, it has no placeholder")
    if shutil.which(entry.argv[0], path=_path(entry)) is None:
        raise LoadError(f"command {entry.name}: no program {entry.argv[0]} can be run")
    return AgentType(
        name=entry.name,
        description=entry.description or f"Runs {os.path.basename(entry.argv[0])}.",  # noqa: PTH119
        capabilities=entry.capabilities or ("command",),
        run=partial(_run, entry, template),
        slots=entry.slots,
    )


def command_line(
    entry: CommandEntry, template: tuple[tuple[Piece, ...], ...], values: Mapping[str, Json]
) -> list[str]:
    """The command line of a step.

    Raises:
        StepFailedError: type ``input``: a value is missing, or cannot stand where it would.
    """
    line: list[str] = []
    options_ended = False
    for word, pieces in zip(entry.argv, template, strict=True):
        element = "".join(
            _value(piece.text, values) if piece.placeholder else piece.text for piece in pieces
        )
        first = pieces[0] if pieces else None
        if first is not None and first.placeholder and not options_ended:
            allowed = first.text in entry.allow_dash
            if element.startswith("-") and not allowed:
                raise _refused(f"{first.text}: a value that begins with '-' would be an option")
        if len(element.encode()) > ELEMENT_BYTES_MAX:
            raise _refused(f"at most {ELEMENT_BYTES_MAX} bytes fit into one argument")
        options_ended = options_ended or word == "--"
        line.append(element)
    return line


def _value(name: str, values: Mapping[str, Json]) -> str:
    value = values.get(name)
    if value is None or isinstance(value, dict | list):
        raise _refused(f"{name}: text, a number or a boolean is needed in the input")
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value)
    if "\0" in text:
        raise _refused(f"{name}: a NUL character cannot be in a command line")
    return text


def _refused(message: str) -> StepFailedError:
    return StepFailedError(message, type="input", retryable=False, outcome="not_executed")


def _run(
    entry: CommandEntry, template: tuple[tuple[Piece, ...], ...], step: StepInput
) -> StepOutput:
    given = step.payload.get("arguments" if step.kind == "tool" else "input")
    values = given if isinstance(given, dict) else {"input": given}
    argv = command_line(entry, template, values)
    _limit(entry)
    fed = msgspec.json.encode(step.payload)
    told: list[int] = []

    def note(number: int, _frame: object) -> None:
        told.append(number)

    # A handler, not "ignore", which the program would inherit: it alone decides how it ends.
    signal.signal(signal.SIGTERM, note)
    try:
        process = subprocess.Popen(  # noqa: S603 - the operator's command line, no shell
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=step.workdir,
            env=_environment(entry, step),
        )
    except OSError as error:
        raise StepFailedError(
            f"{entry.name} cannot be started: {error.strerror}", outcome="not_executed"
        ) from None
    if told:
        process.terminate()  # the group was told before the program was a part of it
    output, errors = _follow(entry, process, fed)
    return _result(entry, process.wait(), output, errors)


def _limit(entry: CommandEntry) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if entry.file_bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (entry.file_bytes, entry.file_bytes))
    if entry.cpu_s:
        resource.setrlimit(resource.RLIMIT_CPU, (entry.cpu_s, entry.cpu_s + 1))


def _path(entry: CommandEntry) -> str:
    return entry.env.get("PATH") or os.environ.get("PATH", os.defpath)


def _environment(entry: CommandEntry, step: StepInput) -> dict[str, str]:
    own = {
        "HOME": step.workdir,
        "TMPDIR": step.workdir,
        "MESH_TASK": step.task,
        "MESH_STEP": step.step,
        "MESH_ATTEMPT": str(step.attempt),
        "MESH_IDEMPOTENCY_KEY": step.idempotency,
    }
    # The agent's own environment is the small one of children already.
    return {**os.environ, **own, **entry.env, "PATH": _path(entry)}


def _follow(
    entry: CommandEntry, process: subprocess.Popen[bytes], fed: bytes
) -> tuple[bytes, bytes]:
    """Feed the program and read both of its outputs to their ends."""
    stdin, stdout, stderr = process.stdin, process.stdout, process.stderr
    assert stdin is not None
    assert stdout is not None
    assert stderr is not None
    feeder = threading.Thread(target=_feed, args=(stdin, fed), daemon=True)
    feeder.start()
    output, errors = bytearray(), bytearray()
    with selectors.DefaultSelector() as ready:
        ready.register(stdout, selectors.EVENT_READ, output)
        ready.register(stderr, selectors.EVENT_READ, errors)
        while ready.get_map():
            for key, _ in ready.select():
                data = os.read(key.fd, _READ_BYTES)
                buffer = cast("bytearray", key.data)
                buffer += data
                if not data:
                    ready.unregister(key.fileobj)
                if buffer is errors:
                    del errors[:-ERRORS_BYTES]
                elif len(output) > entry.output_bytes:
                    process.kill()
                    raise StepFailedError(
                        f"{entry.name} printed more than {entry.output_bytes} bytes and was ended",
                        type="limit", retryable=False, outcome="unknown",
                    )  # fmt: skip
    return bytes(output), bytes(errors)


def _feed(stdin: IO[bytes], fed: bytes) -> None:
    try:
        stdin.write(fed)
        stdin.close()
    except OSError:
        pass  # a program need not read its input


def _result(entry: CommandEntry, status: int, output: bytes, errors: bytes) -> StepOutput:
    if status not in entry.exit_ok:
        how = f"by {_name(-status)}" if status < 0 else f"with status {status}"
        said = errors.decode(errors="replace").strip() or output.decode(errors="replace").strip()
        text = f"{entry.name} ended {how}" + (f": {said[-1_500:]}" if said else "")
        kind: Literal["signal", "exit"] = "signal" if status < 0 else "exit"
        raise StepFailedError(text, type=kind)
    if entry.output != "text":
        try:
            return StepOutput(structured=msgspec.json.decode(output))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            if entry.output == "json":
                raise StepFailedError(
                    f"{entry.name} printed no JSON: {error}", type="output"
                ) from None
    return StepOutput(text=output.decode(errors="replace"))


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
