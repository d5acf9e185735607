"""Options of ``mesh server add`` for servers that the runner runs itself or in a container."""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from mcp_proto.contracts.registry import ContainerOptions, ServerDefinition
from mcp_proto.server_types import TYPES, server_problem
from mesh_cli.failure import Exit, Failure
from mesh_cli.remote_server import reached

__all__ = ["deployed", "deployed_options"]

F = TypeVar("F", bound=Callable[..., Any])

SETTINGS_BYTES_MAX = 512 * 1024
"""A definition is one value of a bucket, and is shown in lists."""


def deployed_options(command: F) -> F:
    """Add the options."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


_OPTIONS = (
    click.option("--type", "kind", type=click.Choice(tuple(TYPES)), help="One of our own types."),
    click.option(
        "--set",
        "--setting",
        "settings",
        multiple=True,
        metavar="K=V",
        help="A setting of its type; K may be a.b.",
    ),
    click.option(
        "--settings-file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Its settings, as TOML or JSON.",
    ),
    click.option("--image", default="", metavar="IMAGE", help="Run it in a container of this."),
    click.option("--network", default="", metavar="NET", help="Of the container; default: none."),
    click.option("--memory", type=int, default=0, metavar="MIB", help="Most of the container."),
    click.option("--run-as", default="", metavar="USER[:GROUP]", help="In the container."),
    click.option("--read-only", is_flag=True, help="The container can write to /tmp only."),
)


def deployed(
    definition: ServerDefinition, words: Sequence[str], given: Mapping[str, Any]
) -> ServerDefinition | None:
    """The definition of a server with ``--type`` or ``--image``; None = it has neither.

    Args:
        definition: name, tenant, bounds, and what only a command can have.
        words: of a type: its URL, if it has one; of an image: arguments.
        given: values of ``deployed_options`` and ``remote_options``.

    Raises:
        Failure: they do not fit together; says why.
    """
    options = _container(given)
    if given["kind"] and (given["image"] or options is not None):
        raise _wrong("--type is run by the runner itself: it has no --image and no container")
    if given["kind"]:
        made = _of_type(definition, words, given)
    elif given["settings"] or given["settings_file"]:
        raise _wrong("--set and --settings-file are for servers with a --type")
    elif given["image"]:
        complete = reached(definition, given)
        made = msgspec.structs.replace(
            complete, image=given["image"], container=options, args=tuple(words)
        )
    elif options is not None:
        raise _wrong("--network, --memory, --run-as and --read-only need an --image")
    else:
        return None
    problem = server_problem(made)
    if problem is not None:
        raise _wrong(problem)
    return made


def _of_type(
    definition: ServerDefinition, words: Sequence[str], given: Mapping[str, Any]
) -> ServerDefinition:
    if len(words) > 1:
        raise _wrong(f"a server of type {given['kind']} has at most a URL")
    return msgspec.structs.replace(
        reached(definition, given),
        type=given["kind"],
        settings=_settings(_from_file(given["settings_file"]), given["settings"]),
        url=words[0] if words else "",
    )


def _container(given: Mapping[str, Any]) -> ContainerOptions | None:
    fields: dict[str, Any] = {
        "network": given["network"],
        "memory_mb": given["memory"],
        "user": given["run_as"],
        "read_only": given["read_only"],
    }
    said = {field: value for field, value in fields.items() if value}
    return ContainerOptions(**said) if said else None


def _from_file(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        raw = path.read_bytes()
        if len(raw) > SETTINGS_BYTES_MAX:
            raise _wrong(f"{path}: settings have at most {SETTINGS_BYTES_MAX} bytes")
        if path.suffix == ".json":
            return msgspec.json.decode(raw, type=dict[str, Any])
        return tomllib.loads(raw.decode())
    except OSError as error:
        raise _wrong(f"{path}: {error.strerror}") from None
    except (msgspec.DecodeError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _wrong(f"{path}: {error}") from None


def _settings(table: dict[str, Any], pairs: Sequence[str]) -> dict[str, Any]:
    """Add settings from the command line; they win over those of a file.

    Values are JSON where they can be read as such, else text; a key given twice is a list.
    """
    given: set[str] = set()
    for pair in pairs:
        key, equals, text = pair.partition("=")
        *path, last = key.split(".")
        if not equals or not all((*path, last)):
            raise _wrong(f"{pair!r} is not NAME=VALUE")
        place = table
        for part in path:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise _wrong(f"{pair!r}: {part} is no table")
        try:
            value: Any = msgspec.json.decode(text)
        except msgspec.DecodeError:
            value = text
        if key in given:
            before = place[last]
            value = [*(before if isinstance(before, list) else [before]), value]
        given.add(key)
        place[last] = value
    return table


def _wrong(text: str) -> Failure:
    return Failure(text, mend="see mesh server add --help", code=Exit.USAGE)
