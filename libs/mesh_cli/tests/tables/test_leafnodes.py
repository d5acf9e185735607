"""Tests of ``[leafnodes]`` in ``mesh.toml``: a listener, and one broker user per home."""

from pathlib import Path

import pytest

from mesh_chassis.broker_config import BrokerSettings, BrokerUser, new_nkey, render
from mesh_cli.failure import Failure
from mesh_cli.plan import homes
from mesh_cli.user_file import read

HOME = '[[leafnodes.homes]]\nname = "home"\nagents = { heat-1 = ["heat"] }\n'


def test_home_becomes_a_user_that_only_a_broker_can_be(tmp_path: Path) -> None:
    path = tmp_path / "mesh.toml"
    path.write_text(f"[leafnodes]\nport = 7422\n{HOME}")
    content = read(str(path), {}).content
    (user,) = homes(content, "acme")
    assert user.name == "leaf-home"
    assert user.leaf
    assert "mesh.v1.acme.call.heat.>" in user.rights.subscribe
    text = render(
        BrokerSettings(
            store_dir="js", leaf_port=content.leafnodes.port, leaf_tls=("c.pem", "k.pem")
        ),
        [BrokerUser(name=user.name, public_nkey=new_nkey()[1], rights=user.rights, leaf=user.leaf)],
    )
    assert 'allowed_connection_types: ["LEAFNODE"]' in text
    assert "port: 7422" in text
    assert 'tls { cert_file: "c.pem", key_file: "k.pem" }' in text


def test_broker_has_no_listener_for_homes_unless_one_is_asked_for() -> None:
    text = render(BrokerSettings(store_dir="js"), [])
    assert "leafnodes" not in text
    assert "default_js_domain" not in text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HOME, "leafnodes.port"),
        (f"[leafnodes]\nport = 7422\n{HOME}{HOME}", "leafnodes.homes[1]: leaf-home is used twice"),
        (f"[leafnodes]\nport = 7422\n{HOME}".replace('["heat"]', "[]"), "agents.heat-1"),
        (f"[leafnodes]\nport = 7422\n{HOME}".replace('"home"', '"a b"'), "homes[0].name"),
        ('[leafnodes]\nport = 7422\ntls_cert_file = "a.pem"\n', "leafnodes.tls_cert_file"),
    ],
)
def test_table_that_does_not_fit_is_refused_by_its_key(
    tmp_path: Path, text: str, said: str
) -> None:
    path = tmp_path / "mesh.toml"
    path.write_text(text)
    with pytest.raises(Failure) as raised:
        read(str(path), {})
    assert said in str(raised.value)


def test_search_over_tools_is_chosen_for_every_gateway(tmp_path: Path) -> None:
    path = tmp_path / "mesh.toml"
    path.write_text('[lists]\ntools = "both"\n')
    assert read(str(path), {}).content.lists.tools == "both"
