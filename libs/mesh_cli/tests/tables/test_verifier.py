"""``[integrations.marketeer]``: from the user's file to the gateways, the key never in a table."""

from pathlib import Path
from typing import Any

import pytest

from mesh_chassis.config import load
from mesh_cli import bootstrap
from mesh_cli.failure import Failure
from mesh_cli.plan import Ports, Where, instances, users
from mesh_cli.state import StateDir
from mesh_cli.user_file import UserFile, read

ON = """
[integrations.marketeer]
enabled = true
url = "https://verify.example.com/v1"
verify_all_requests = true
"""


def file(tmp_path: Path, text: str, **env: str) -> UserFile:
    path = tmp_path / "mesh.toml"
    path.write_text(text)
    return read(str(path), env)


def planned(user: UserFile, key_file: str = "") -> dict[str, dict[str, Any]]:
    where = Where(
        seeds={one.name: "seed" for one in users(1, 1)},
        kek_file="kek",
        pepper_file="pepper",
        verifier_key_file=key_file,
    )
    ports = Ports(nats=1, http=(2,), tcp=(3,))
    made = instances(user.content, [], ports=ports, where=where, runners=1)
    return {one.service: dict(one.tables) for one in made}


def test_the_gateway_gets_the_verifier_and_runners_refuse_what_came_past_it(
    tmp_path: Path,
) -> None:
    text = ON + 'api_key = "env:KEY"\non_timeout = "allow"\ncache_seconds = 1\n'
    user = file(tmp_path, text)
    plan = planned(user)
    assert plan["gateway"]["verifier"] == {
        "url": "https://verify.example.com/v1",
        "api_key": "env:KEY",
        "timeout_s": 2.0,
        "on_timeout": "allow",
        "cache_s": 1.0,
        "send_arguments": False,
        "tls_ca_file": "",
    }
    assert plan["tool-runner"]["runner"]["allow_unsigned"] is False
    assert user.unused == ()


def test_without_verification_nothing_of_it_reaches_a_service(tmp_path: Path) -> None:
    user = file(tmp_path, ON.replace("verify_all_requests = true", ""))
    plan = planned(user)
    assert "verifier" not in plan["gateway"]
    assert plan["tool-runner"]["runner"]["allow_unsigned"] is True
    assert user.unused == ("[integrations.marketeer] (verify_all_requests is off)",)


def test_a_key_of_the_file_is_kept_in_a_private_file_and_goes_with_it(tmp_path: Path) -> None:
    table = file(tmp_path, ON + 'api_key = "${KEY}"\n', KEY="s3cret-key").content.integrations
    assert table.marketeer.literal_key == "s3cret-key"
    state = StateDir(tmp_path / "state")
    state.create()
    where = bootstrap.ensure_keys(state, [], verifier_key=table.marketeer.literal_key)
    path = Path(where.verifier_key_file)
    assert path.read_text() == "s3cret-key\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert table.marketeer.for_gateway(str(path))["api_key"] == f"file:{path}"
    assert bootstrap.ensure_keys(state, []).verifier_key_file == ""
    assert not path.exists()


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ('url = "ftp://a"', "marketeer.url"),
        ('url = "verify.example.com"', "marketeer.url"),
        ('url = "https://"', "marketeer.url"),
        ('url = "http://[::1"', "marketeer.url"),
        ('url = "https://me:pw@a"', "marketeer.url"),
        ('url = "https://a"\non_timeout = "ask"', "on_timeout"),
        ('url = "https://a"\napi_key = "env:"', "api_key"),
        ('url = "https://a"\ncache_second = 1', "cache_second"),
    ],
)
def test_a_verifier_that_cannot_be_is_refused_at_the_start(
    tmp_path: Path, line: str, key: str
) -> None:
    with pytest.raises(Failure, match=key):
        file(tmp_path, f"[integrations.marketeer]\nenabled = true\n{line}\n")


def test_the_written_table_is_one_that_a_gateway_reads(tmp_path: Path) -> None:
    from gateway.config import GatewayConfig, check_config

    plan = planned(file(tmp_path, ON))
    made = load(
        GatewayConfig,
        None,
        {},
        {f"verifier.{k}": v for k, v in plan["gateway"]["verifier"].items()}
        | {"service.instance": "gateway-1", "keys.kek_file": "kek"},
    )
    check_config(made)
    assert made.verifier.url == "https://verify.example.com/v1"
