"""Folders of a mesh that runs in containers."""

import stat
import tomllib
from pathlib import Path

import pytest

from mesh_cli.export import CONFIG_DIR, Layout, export
from mesh_cli.failure import Failure
from mesh_cli.user_file import MeshFile, SecurityTable, ServerTable, TcpTable

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


def test_edges_of_an_export_listen_beyond_the_container(tmp_path: Path) -> None:
    export(tmp_path, MeshFile(security=SecurityTable(auth_enabled=True)), [], Layout())

    tables = tomllib.loads((tmp_path / "gateway-1" / "service.toml").read_text())
    assert tables["http"]["host"] == tables["tcp"]["host"] == "0.0.0.0"


def test_address_of_the_user_is_exported_as_it_is(tmp_path: Path) -> None:
    content = MeshFile(
        security=SecurityTable(auth_enabled=True), server=ServerTable(host="10.1.2.3")
    )
    export(tmp_path, content, [], Layout())

    tables = tomllib.loads((tmp_path / "gateway-1" / "service.toml").read_text())
    assert tables["http"]["host"] == "10.1.2.3"


@pytest.mark.parametrize(
    ("tables", "key"),
    [
        ({"server": ServerTable(host="127.0.0.1")}, "server.host"),
        ({"tcp": TcpTable(host="localhost")}, "tcp.host"),
    ],
)
def test_edge_on_loopback_is_not_exported(tmp_path: Path, tables, key: str) -> None:
    content = MeshFile(security=SecurityTable(auth_enabled=True), **tables)
    with pytest.raises(Failure, match=key) as caught:
        export(tmp_path, content, [], Layout())
    assert "leave" in caught.value.mend
    assert not list(tmp_path.iterdir())


def test_export_makes_the_folder_of_the_brokers_store(tmp_path: Path) -> None:
    export(tmp_path, MeshFile(security=SecurityTable(auth_enabled=True)), [], Layout())

    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700


def _holds(path: Path) -> bool:
    return path.is_file() and TOKEN in path.read_text(errors="replace")
