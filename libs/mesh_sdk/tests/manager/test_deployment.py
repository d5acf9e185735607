"""Tests of mesh_sdk.manager.deployment."""

from typing import Any

import pytest

from mcp_proto.errors import ErrorKind
from mesh_sdk.client import MeshCallError
from mesh_sdk.manager.deployment import definition_of, server_id, split_id


def test_port_of_a_custom_server_is_its_address_on_this_machine() -> None:
    made = definition_of({"name": "a", "type": "custom", "port": 8080, "max_connections": 5})
    assert (made.transport, made.url) == ("http", "http://127.0.0.1:8080/mcp")
    assert (made.concurrency, made.allow_private) == (5, ("127.0.0.1",))
    lines = definition_of({"name": "a", "port": 9, "transport": "tcp"})
    assert lines.url == "tcp://127.0.0.1:9"
    child = definition_of({"name": "a", "command": "x", "port": 9})
    assert (child.transport, child.url) == ("stdio", "")


def test_port_says_nothing_where_the_runner_serves_itself() -> None:
    made = definition_of({"name": "docker", "type": "docker", "port": 8080, "max_connections": 50})
    assert (made.url, made.concurrency) == ("", 50)
    assert definition_of({"name": "p", "type": "prometheus", "port": 9090}).url == (
        "http://127.0.0.1:9090"
    )


def test_other_members_are_settings_of_the_type() -> None:
    made = definition_of({"name": "d", "type": "docker", "read_only": True, "timeout_s": 5})
    assert made.settings == {"read_only": True}
    assert made.timeout_s == 5.0


@pytest.mark.parametrize(
    ("wanted", "named"),
    [
        ({"name": "a", "type": "mainframe"}, "type must be one of custom"),
        ({"name": "a", "port": 0}, "port"),
        ({"name": "a", "port": "80"}, "port"),
        ({"name": "a", "port": 80, "max_connections": True}, "max_connections"),
        ({"name": "a"}, "command"),
        ({"name": "a", "command": "x", "colour": "red"}, "colour"),
        ({"name": "d", "type": "docker", "colour": "red"}, "colour"),
        ({"type": "docker"}, "name"),
    ],
)
def test_bad_deployment_names_what_is_wrong(wanted: dict[str, Any], named: str) -> None:
    with pytest.raises(MeshCallError, match=named) as refused:
        definition_of(wanted)
    assert refused.value.kind is ErrorKind.PARAMS


def test_id_is_the_name_and_has_the_tenant_where_it_is_not_shared() -> None:
    shared = definition_of({"name": "a", "command": "x"})
    own = definition_of({"name": "a", "command": "x", "tenant": "acme"})
    assert (server_id(shared), server_id(own)) == ("a", "acme/a")
    assert split_id("a") == ("_", "a")
    assert split_id("acme/a") == ("acme", "a")
