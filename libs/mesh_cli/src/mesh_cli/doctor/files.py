"""What the checks read of the services' configuration files."""

from pathlib import Path

import msgspec

from mcp_proto.contracts.registry import ServerDefinition
from mesh_cli.state import StateDir

__all__ = ["BusTable", "ServiceFile", "read_service", "read_text", "service_files"]


class BusTable(msgspec.Struct, frozen=True, kw_only=True):
    """Of table ``[bus]``."""

    nkey_seed_file: str = ""


class ServiceFile(msgspec.Struct, frozen=True, kw_only=True):
    """Of one file."""

    bus: BusTable = BusTable()
    mcp_servers: tuple[ServerDefinition, ...] = ()


def service_files(state: StateDir) -> list[Path]:
    """Configuration files of the services, sorted by name."""
    return sorted(state.config.glob("*.toml"))


def read_service(path: Path) -> ServiceFile:
    """The parts of a file that checks look at; an unreadable file counts as empty here."""
    try:
        return msgspec.toml.decode(path.read_bytes(), type=ServiceFile)
    except (OSError, msgspec.DecodeError, ValueError):
        return ServiceFile()


def read_text(path: Path) -> str:
    """The text of a file; "" when it cannot be read."""
    try:
        return path.read_text()
    except OSError:
        return ""
