"""Tests of tool_runner.core.addresses."""

import pytest

from tool_runner.core.addresses import address_rule

HOME = ("server.test", 443)


def problem(address: str, *, host: str = "server.test", port: int = 443, **rule: object) -> str:
    given = {"trusted": False, "allowed": (), **rule}
    return address_rule([HOME], **given).problem(host, port, address) or ""


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700::1111", "::ffff:1.1.1.1"])
def test_anybody_may_connect_to_the_public_internet(address: str) -> None:
    assert not problem(address)


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("127.0.0.1", "loopback"),
        ("127.8.8.8", "loopback"),
        ("::1", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
        ("::127.0.0.1", "loopback"),
        ("64:ff9b::7f00:1", "loopback"),
        ("2002:7f00:1::", "loopback"),
        ("10.0.0.1", "private"),
        ("172.16.0.1", "private"),
        ("192.168.1.1", "private"),
        ("100.64.0.1", "private"),
        ("fd12::1", "private"),
        ("64:ff9b::a00:1", "private"),
        ("169.254.1.1", "link-local"),
        ("fe80::1%eth0", "link-local"),
        ("169.254.169.254", "metadata"),
        ("::ffff:a9fe:a9fe", "metadata"),
        ("100.100.100.200", "metadata"),
        ("168.63.129.16", "metadata"),
        ("fd00:ec2::254", "metadata"),
        ("0.0.0.0", "reserved"),
        ("::", "reserved"),
        ("224.0.0.1", "reserved"),
        ("ff02::1", "reserved"),
        ("255.255.255.255", "reserved"),
        ("240.0.0.1", "reserved"),
    ],
)
def test_tenant_may_not_connect_to_special_addresses(address: str, kind: str) -> None:
    assert f"{kind} address" in problem(address)


def test_operator_may_connect_to_this_machine_only_where_the_definition_says() -> None:
    assert not problem("127.0.0.1", trusted=True)
    assert not problem("127.0.0.1", trusted=True, host="SERVER.test.")
    assert problem("127.0.0.1", trusted=True, port=8443)
    assert problem("127.0.0.1", trusted=True, host="elsewhere.test")


def test_operator_may_spell_a_private_address_out_but_a_name_must_be_allowed() -> None:
    rule = address_rule([("10.0.0.5", 80)], trusted=True, allowed=())
    assert rule.problem("10.0.0.5", 80, "10.0.0.5") is None
    assert problem("10.0.0.5", trusted=True)
    assert not problem("10.0.0.5", trusted=True, allowed=("server.test",))
    assert not problem("10.0.0.5", trusted=True, allowed=("10.0.0.0/8",))
    assert problem("10.0.0.5", trusted=True, allowed=("10.1.0.0/16",))


@pytest.mark.parametrize("allowed", ["server.test", "10.0.0.0/8"])
def test_nobody_may_connect_to_metadata_unless_that_address_is_listed(allowed: str) -> None:
    assert problem("169.254.169.254", trusted=True, allowed=(allowed,))
    assert not problem("169.254.169.254", allowed=("169.254.169.254",))


def test_what_is_no_address_is_refused() -> None:
    assert problem("localhost", trusted=True)
