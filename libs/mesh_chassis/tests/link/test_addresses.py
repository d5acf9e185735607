"""Addresses of links."""

import pytest

from mcp_proto.errors import MeshError
from mesh_chassis.link.addresses import LinkAddress, is_link, parse


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("unix:/run/mesh/link.sock", LinkAddress(scheme="unix", path="/run/mesh/link.sock")),
        ("serial:/dev/vport0p1", LinkAddress(scheme="serial", path="/dev/vport0p1")),
        ("vsock:2:4222", LinkAddress(scheme="vsock", host="2", port=4222)),
        ("tcp:10.0.2.100:4222", LinkAddress(scheme="tcp", host="10.0.2.100", port=4222)),
    ],
)  # fmt: skip
def test_an_address_is_read_and_written_alike(text: str, expected: LinkAddress) -> None:
    assert is_link(text)
    assert parse(text) == expected
    assert str(expected) == text


def test_a_tcp_address_may_be_of_version_six() -> None:
    assert parse("tcp:[::1]:4222") == LinkAddress(scheme="tcp", host="::1", port=4222)


@pytest.mark.parametrize(
    "text",
    ["unix:relative", "unix:", f"unix:/{'x' * 107}", "serial:nats.0", "vsock:2", "vsock:host:1",
     "vsock:2:-1", "vsock:99999999999:1", "tcp:host:", "tcp::1", "tcp:host:65536", "tcp:host:٤",
     "nats://127.0.0.1:4222", "tcp://127.0.0.1:9500", "", "unix"],
)  # fmt: skip
def test_what_is_no_link_address_is_refused_with_the_reason(text: str) -> None:
    with pytest.raises(MeshError) as caught:
        parse(text)
    assert caught.value.kind == "params"


def test_urls_of_brokers_and_edges_are_no_links() -> None:
    assert not is_link("tcp://127.0.0.1:9500")
    assert not is_link("nats://host:1")
