"""Configuration: one strict frozen Struct per service, from TOML, environment and overrides.

A mistake ends the start with one line that names file, key and remedy; nothing is guessed and
nothing unknown is ignored, because a misspelt limit is a limit that does not hold. Secrets are
never values here but paths of files (fields end in ``_file``), so a configuration may be shown.

Order, later wins: defaults of the Struct, the TOML file (with ``${VAR}``), environment variables
``MESH_<SECTION>_<FIELD>``, overrides of the caller.
"""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, TypeVar, cast

import msgspec
from msgspec import Meta

from mesh_chassis.config_shape import (
    Leaf,
    allowed_values,
    closest,
    leaves,
    unknown_key,
)

__all__ = [
    "CONFIG_BYTES_MAX",
    "SECRET_BYTES_MAX",
    "ConfigError",
    "LogConfig",
    "OpsConfig",
    "ServiceSection",
    "TelemetryConfig",
    "expand",
    "filled",
    "from_env",
    "load",
    "read_secret",
    "read_table",
    "unknown_reason",
]

T = TypeVar("T", bound=msgspec.Struct)

CONFIG_BYTES_MAX = 1024 * 1024
"""Largest configuration file; a hundred servers need about 30 KiB."""

SECRET_BYTES_MAX = 64 * 1024
"""Largest secret file; credentials files are about 1 KiB."""

ENV_PREFIX = "MESH_"

_VARIABLE = re.compile(r"\$(\$?)\{([^{}]*)\}")
_number = msgspec.json.Decoder(int | float)
_WHOLE = re.compile(r"\$\{[^{}]*\}")
_REFERENCE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)
_AT = re.compile(r"^(?P<text>.*?)(?: - at `(?P<path>[^`]*)`)?$", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `([^`]+)`")


class ConfigError(Exception):
    """A configuration that cannot be used.

    Args:
        source: file path, or ``environment variable NAME``; "" = the overrides of the caller.
        key: dotted key (``bus.urls[0]``); "" when the file as a whole is meant.
        reason: what is wrong and what is allowed; never a secret.
    """

    def __init__(self, source: str, key: str, reason: str) -> None:
        self.source = source
        self.key = key
        self.reason = reason
        place = ": ".join(part for part in (source, key) if part)
        super().__init__(f"{place}: {reason}" if place else reason)


class ServiceSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table ``[service]``: who this process is.

    Attributes:
        instance: unique among all processes of the mesh; names its subjects, inbox and rights.
        accept_s: on a stop, seconds for which work is still accepted after readiness is gone.
        drain_s: on a stop, seconds within which running calls must end; below the kill grace.
    """

    instance: Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_-]{1,64}\Z")]
    accept_s: Annotated[float, Meta(ge=0.0, le=60.0)] = 1.0
    drain_s: Annotated[float, Meta(ge=0.0, le=600.0)] = 25.0


class LogConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table ``[log]``.

    Attributes:
        level: ``debug``, ``info``, ``warning`` or ``error``, in any case.
        file: also append to this file; "" = stderr only.
    """

    level: Annotated[str, Meta(pattern=r"\A(?i:debug|info|warning|error)\Z")] = "info"
    file: str = ""


class TelemetryConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table ``[telemetry]``.

    Attributes:
        otlp_endpoint: base URL of an OTLP/HTTP receiver (``http://127.0.0.1:4318``); "" = spans
            are not recorded (trace ids still travel).
        sample_ratio: share of traces that start here and are recorded; a caller's own decision
            is followed.
        service_name: name in traces; "" = the service's own.
    """

    otlp_endpoint: str = ""
    sample_ratio: Annotated[float, Meta(ge=0.0, le=1.0)] = 1.0
    service_name: str = ""


class OpsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table ``[ops]``: the listener for health and metrics.

    Attributes:
        host: address to listen on.
        port: 0 = no listener.
        allowed_hosts: further names accepted in ``Host``, beside the loopback names and ``host``.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 0
    allowed_hosts: tuple[str, ...] = ()


def load(
    struct_type: type[T],
    path: Path | None,
    env: Mapping[str, str],
    overrides: Mapping[str, object] | None = None,
) -> T:
    """Read a configuration.

    Args:
        struct_type: frozen Struct; nested Structs are tables, tuples of Structs arrays of tables.
        path: TOML file; None = defaults, environment and overrides only.
        env: the environment, for ``${VAR}``, ``${VAR:-default}`` and ``MESH_<SECTION>_<FIELD>``
            (sequences as comma separated text). ``$${`` writes a literal ``${``.
        overrides: dotted key → value, e.g. from the command line.

    Raises:
        ConfigError: anything missing, unknown, of the wrong type or out of range.
    """
    source = str(path) if path is not None else ""
    raw = read_table(path) if path is not None else {}
    table = expand_table(raw, env, source, "")
    stray = unknown_key(struct_type, table)
    if stray is not None:
        key, known = stray
        raise ConfigError(source, key, unknown_reason(key, known))
    known_leaves = {leaf.key: leaf for leaf in leaves(struct_type)}
    for leaf in known_leaves.values():
        _fill(table, raw, leaf)
    origin: dict[str, str] = {}
    for leaf in known_leaves.values():
        name = ENV_PREFIX + leaf.key.replace(".", "_").upper()
        if name in env:
            _place(table, leaf.key, from_env(leaf, name, env[name]), f"environment {name}")
            origin[leaf.key] = f"environment variable {name}"
    for key, value in (overrides or {}).items():
        if key not in known_leaves:
            raise ConfigError("", key, unknown_reason(key, tuple(known_leaves)))
        _place(table, key, value, "override")
        origin[key] = "override"
    return _convert(struct_type, table, source, origin)


def read_secret(path: str, *, key: str) -> str:
    """Content of a secret file without surrounding white space.

    Args:
        path: where the file is.
        key: dotted configuration key that names it, for the error.

    Raises:
        ConfigError: missing, unreadable, empty or too large. The content is never shown.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(SECRET_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(path, key, f"cannot read the file: {error.strerror}") from None
    if len(data) > SECRET_BYTES_MAX:
        raise ConfigError(path, key, f"a secret has at most {SECRET_BYTES_MAX} bytes")
    try:
        text = data.decode().strip()
    except UnicodeDecodeError:
        raise ConfigError(path, key, "the file is not text in UTF-8") from None
    if not text:
        raise ConfigError(path, key, "the file is empty")
    return text


def read_table(path: Path) -> dict[str, object]:
    """A TOML file as it stands, nothing expanded.

    Raises:
        ConfigError: it cannot be read, is too large, or is no TOML.
    """
    try:
        with path.open("rb") as file:
            data = file.read(CONFIG_BYTES_MAX + 1)
        if len(data) > CONFIG_BYTES_MAX:
            raise ConfigError(str(path), "", f"a file has at most {CONFIG_BYTES_MAX} bytes")
        return tomllib.loads(data.decode())
    except OSError as error:
        raise ConfigError(str(path), "", f"cannot read the file: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(str(path), "", "the file is not text in UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(str(path), "", f"not valid TOML: {error}") from None


def expand_table(
    table: Mapping[str, object], env: Mapping[str, str], source: str, at: str
) -> dict[str, object]:
    return {
        name: expand(value, env, source, f"{at}.{name}" if at else name)
        for name, value in table.items()
    }


def expand(value: object, env: Mapping[str, str], source: str, at: str) -> object:
    """``value`` with its variables filled in, at any depth.

    Raises:
        ConfigError: one is not set, or is written wrongly.
    """
    match value:
        case str() if "${" in value:
            return _VARIABLE.sub(lambda found: _variable(found, env, source, at), value)
        case dict():
            return expand_table(value, env, source, at)
        case list():
            return [expand(item, env, source, f"{at}[{i}]") for i, item in enumerate(value)]
        case _:
            return value


def _variable(found: re.Match[str], env: Mapping[str, str], source: str, at: str) -> str:
    if found[1]:
        return found[0][1:]
    reference = _REFERENCE.fullmatch(found[2])
    if reference is None:
        raise ConfigError(source, at, f"{found[0]} is not ${{NAME}} or ${{NAME:-default}}")
    name, default = reference[1], reference[2]
    value = env.get(name)
    if value is None or (not value and default is not None):
        if default is None:
            raise ConfigError(
                source, at, f"environment variable {name} is not set and has no default"
            )
        return default
    return value


def filled(raw: object, known: object, kind: object) -> object:
    """A value with its variables filled in, as the key's type wants it.

    A variable is text; where it is all of the value, ``port = "${PORT}"`` means the number.

    Args:
        raw: as it stands in the file.
        known: with its variables filled in.
        kind: annotation of the key.

    Returns:
        ``known``, or the number or truth value that it spells.
    """
    if not (isinstance(raw, str) and isinstance(known, str) and _WHOLE.fullmatch(raw)):
        return known
    for strict in (True, False):
        try:
            return msgspec.convert(known, cast("type[object]", kind), strict=strict)
        except msgspec.ValidationError:
            continue
    try:
        # A number out of bounds: whoever converts it all says which.
        return _number.decode(known)
    except msgspec.DecodeError:
        return known


def _fill(table: dict[str, object], raw: Mapping[str, object], leaf: Leaf) -> None:
    *parents, last = leaf.key.split(".")
    for parent in parents:
        inner, raw_inner = table.get(parent), raw.get(parent)
        if not isinstance(inner, dict) or not isinstance(raw_inner, dict):
            return
        table = cast("dict[str, object]", inner)
        raw = cast("dict[str, object]", raw_inner)
    if last in raw:
        table[last] = filled(raw[last], table[last], leaf.type)


def from_env(leaf: Leaf, name: str, text: str) -> object:
    """The value that the variable ``name`` gives a key.

    Raises:
        ConfigError: it cannot be one.
    """
    value: object = [part.strip() for part in text.split(",")] if leaf.sequence and text else text
    if leaf.sequence and not text:
        value = []
    try:
        return msgspec.convert(value, leaf.type, strict=False)
    except msgspec.ValidationError as error:
        reason = _AT.sub(r"\g<text>", str(error))
        raise ConfigError(f"environment variable {name}", leaf.key, reason) from None


def _place(table: dict[str, object], key: str, value: object, source: str) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        inner = table.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise ConfigError(source, key, f"{parent} is not a table in the file")
        table = inner
    table[last] = value


def _convert(
    struct_type: type[T], table: Mapping[str, object], source: str, origin: Mapping[str, str]
) -> T:
    try:
        return msgspec.convert(table, struct_type)
    except msgspec.ValidationError as error:
        found = _AT.match(str(error))
        assert found is not None
        reason = found["text"]
        key = (found["path"] or "$").removeprefix("$").removeprefix(".")
        missing = _MISSING.fullmatch(reason)
        if missing is not None:
            key = f"{key}.{missing[1]}" if key else missing[1]
            variable = f"{ENV_PREFIX}{key.replace('.', '_').upper()}"
            reason = "required" if "[" in key else f"required, set it here or as {variable}"
        choices = allowed_values(struct_type, key)
        if choices:
            reason = f"{reason}; allowed: {', '.join(choices)}"
        raise ConfigError(origin.get(key, source), key, reason) from None


def unknown_reason(key: str, known: tuple[str, ...]) -> str:
    """What to say of a key that does not exist; names the closest that does."""
    near = closest(key.rpartition(".")[2] if "." not in "".join(known) else key, known)
    hint = f"; did you mean {near}?" if near else ""
    return f"unknown key{hint} (known here: {', '.join(known) or 'none'})"
