"""Tests of gateway.config."""

import msgspec
import pytest

from gateway.config import (
    GatewayConfig,
    HttpConfig,
    KeysConfig,
    LimitsConfig,
    SecurityConfig,
    TcpConfig,
    check_config,
)
from mesh_chassis.config import ConfigError, ServiceSection

GOOD = GatewayConfig(service=ServiceSection(instance="gateway-1"), keys=KeysConfig(kek_file="kek"))


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (
            {"security": SecurityConfig(development=True), "http": HttpConfig(host="0.0.0.0")},
            "http.host",
        ),
        ({"security": SecurityConfig(development=True), "tcp": TcpConfig(host="::")}, "tcp.host"),
        ({"http": HttpConfig(cors_origins=("*",))}, "http.cors_origins"),
        ({"tcp": TcpConfig(tls_cert_file="a")}, "tcp.tls_cert_file"),
        ({"keys": KeysConfig()}, "keys.kek_file"),
        ({"limits": LimitsConfig(call_timeout_s=301.0)}, "limits.call_timeout_s"),
    ],
)
def test_an_unsafe_combination_does_not_start(change: dict[str, object], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_config(msgspec.structs.replace(GOOD, **change))
    assert caught.value.key == key


def test_the_shipped_values_start() -> None:
    check_config(GOOD)
    check_config(msgspec.structs.replace(GOOD, security=SecurityConfig(development=True)))
    assert (GOOD.http.port, GOOD.tcp.port, GOOD.http.host) == (3000, 9500, "127.0.0.1")
