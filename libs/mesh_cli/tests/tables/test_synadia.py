"""``[synadia]``: from the user's file to the gateways."""

from pathlib import Path
from typing import Any

import pytest

from gateway.config import GatewayConfig, check_config
from mesh_chassis.config import load
from mesh_cli import bootstrap
from mesh_cli.failure import Failure
from mesh_cli.plan import Instance, Ports, Where, instances, users
from mesh_cli.user_file import read

EXPOSE = '[[synadia.expose]]\nserver = "my.helper"\ntool = "Ask"\n'


def gateway(tmp_path: Path, text: str) -> Instance:
    path = tmp_path / "mesh.toml"
    path.write_text(text)
    where = Where(
        seeds={one.name: "seed" for one in users(1, 1)}, kek_file="kek", pepper_file="pepper"
    )
    ports = Ports(nats=1, http=(2,), tcp=(3,))
    made = instances(read(str(path), {}).content, [], ports=ports, where=where, runners=1)
    return made[-1]


@pytest.mark.parametrize(
    ("more", "tenant"),
    [("", "demo-tenant"), ("[security]\nauth_enabled = true\n", "default")],
)
def test_an_exposed_tool_reaches_a_gateway_that_reads_it(
    tmp_path: Path, more: str, tenant: str
) -> None:
    instance = gateway(tmp_path, EXPOSE + 'argument = "question"\ncredential = "env:KEY"\n' + more)
    path = tmp_path / "gateway.toml"
    bootstrap.write_toml(path, instance)
    config = load(GatewayConfig, path, {})
    check_config(config)
    (exposed,) = config.synadia.expose
    subject = exposed.name.subject("prompt")
    assert subject == f"agents.prompt.my-helper.{tenant}.ask"
    assert (exposed.argument, exposed.credential) == ("question", "env:KEY")


def test_without_exposed_tools_a_gateway_has_no_such_edge(tmp_path: Path) -> None:
    assert "synadia" not in gateway(tmp_path, "").tables


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (EXPOSE + EXPOSE, "same agent"),
        (EXPOSE + 'session = "a.b"\n', "session 'a.b'"),
        (EXPOSE + 'agent = "A"\n', "agent 'A'"),
        (EXPOSE + 'tenant = "*"\n', "owner"),
        (EXPOSE + 'credential = "mk_live_x"\n', "credential"),
        (EXPOSE + "tols = 1\n", "tols"),
    ],
)
def test_what_cannot_be_exposed_is_refused_at_the_start(
    tmp_path: Path, text: str, said: str
) -> None:
    with pytest.raises(Failure, match="synadia") as caught:
        gateway(tmp_path, text)
    details: Any = str(caught.value)
    assert said in details
