"""What guest and host say to each other before a program runs: one JSON object per line.

The guest says ``hello`` and makes nothing that has to be unique. ``go`` brings fresh randomness,
the time and where the broker is; never a credential, for the link is who the machine is.
"""

from typing import TypeVar

import msgspec

__all__ = ["Go", "Hello", "Program", "Ready", "read_go", "read_program"]

S = TypeVar("S", bound=msgspec.Struct)

LINE_MAX = 1024 * 1024
ENTROPY_HEX = 64


class _Line(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    pass


class Hello(_Line, frozen=True, kw_only=True, tag="hello", tag_field="type"):
    """First line.

    Attributes:
        parked: the guest waits for ``go``; always so.
        image: digest of what was booted, as far as the guest knows; "" = not said.
        agent: version of this package.
    """

    parked: bool = True
    image: str = ""
    agent: str = ""


class Go(_Line, frozen=True, kw_only=True):
    """What the host answers.

    Attributes:
        vm_id: who this machine is: instance id of the program.
        tenant: whose it is.
        now: Unix time in seconds.
        entropy: 32 random bytes in hex, for nobody else.
        prefix: of the subjects it may use.
        link: address of the link as seen from here; "" = as this program was started with.
        config: for the program; see ``Program`` for the members that are read here.
    """

    vm_id: str
    tenant: str
    now: float
    entropy: str
    prefix: str = ""
    link: str = ""
    config: msgspec.Raw = msgspec.Raw(b"{}")


class Ready(_Line, frozen=True, kw_only=True, tag="ready", tag_field="type"):
    """The program serves.

    Attributes:
        undone: what this stage could not do here, each with the reason.
    """

    undone: tuple[str, ...] = ()


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """What to run; members of ``config`` that are not named here are the program's own.

    Attributes:
        source: Python source of the program; "" = ``program``.
        program: path of a Python file in the image; "" = the image's own.
        module: module to run instead (``python -m``); "" = none.
        arguments: after the program's name.
        environment: variables; those of the stage itself cannot be overridden.
    """

    source: str = ""
    program: str = ""
    module: str = ""
    arguments: tuple[str, ...] = ()
    environment: dict[str, str] = {}


class _Kind(msgspec.Struct):
    type: str = ""


def read_go(line: bytes) -> Go | None:
    """A ``go``; None = another line, to be ignored.

    Raises:
        ValueError: it is one and cannot be read.
    """
    if _decoded(line, _Kind).type != "go":
        return None
    go = _decoded(line, Go)
    if len(go.entropy) != ENTROPY_HEX:
        raise ValueError("entropy is not 32 bytes in hex")
    bytes.fromhex(go.entropy)
    return go


def is_stop(line: bytes) -> bool:
    """Whether the host asks the machine to end.

    Raises:
        ValueError: the line cannot be read.
    """
    return _decoded(line, _Kind).type == "stop"


def read_program(config: msgspec.Raw) -> Program:
    """What of the configuration says what to run.

    Raises:
        ValueError: a member has the wrong type.
    """
    return _decoded(bytes(config) or b"{}", Program)


def _decoded(line: bytes, kind: type[S]) -> S:
    try:
        return msgspec.json.decode(line, type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"{kind.__name__.strip('_').lower()}: {error}") from error
