"""Folders of a mesh that runs in containers."""

import stat
import tomllib
from pathlib import Path

import pytest

from mesh_cli.export import CONFIG_DIR, Layout, export
from mesh_cli.failure import Failure
from mesh_cli.user_file import MeshFile, SecurityTable

TOKEN = "of-my-own-choosing"


def test_token_of_the_user_is_given_to_tenant_auth_alone(tmp_path: Path) -> None:
    names = export(tmp_path, MeshFile(security=SecurityTable(auth_token=TOKEN)), [], Layout())

    holders = {path.parent.name for path in tmp_path.rglob("*") if _holds(path)}
    assert holders == {"keys", "tenant-auth-1"}
    file = tmp_path / "tenant-auth-1" / "static.token"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    security = tomllib.loads((file.parent / "service.toml").read_text())["security"]
    assert security["static_token_file"] == f"{CONFIG_DIR}/static.token"
    assert security["development"] is False
    assert "tenant-auth-1" in names


def test_without_token_no_folder_names_one(tmp_path: Path) -> None:
    export(tmp_path, MeshFile(security=SecurityTable(auth_enabled=True)), [], Layout())

    assert not list(tmp_path.rglob("static.token"))
    assert "static" not in (tmp_path / "tenant-auth-1" / "service.toml").read_text()


def test_development_mode_is_not_exported(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="loopback"):
        export(tmp_path, MeshFile(), [], Layout())


def _holds(path: Path) -> bool:
    return path.is_file() and TOKEN in path.read_text(errors="replace")
