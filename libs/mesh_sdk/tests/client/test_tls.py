"""Lines over TLS: to a certificate that is trusted, and to one that is not."""

import datetime as dt
import ipaddress
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gateway.config import TcpConfig
from gateway.testing import running_gateway, surrounded
from mesh_chassis.bus.connection import Bus
from mesh_chassis.testing.broker import Broker
from mesh_sdk.client import Client, ClientSettings, MeshCallError

ONCE = ClientSettings(retry_attempts=0)


def certificate(folder: Path) -> tuple[str, str]:
    """A self-signed certificate for loopback and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gateway")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "cert.pem").write_bytes(made.public_bytes(pem))
    (folder / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return str(folder / "cert.pem"), str(folder / "key.pem")


async def test_lines_over_tls_need_a_certificate_that_is_trusted(
    connect_bus: Callable[..., Awaitable[Bus]],
    broker: Broker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cert, key = certificate(tmp_path)
    async with (
        surrounded(connect_bus, tmp_path) as around,
        running_gateway(
            around, connect_bus, tcp=TcpConfig(port=0, tls_cert_file=cert, tls_key_file=key)
        ) as gateway,
    ):
        url = f"tcps://127.0.0.1:{gateway.tcp}"
        with pytest.raises(MeshCallError, match="certificate") as refused:
            await Client(url, settings=ONCE).open()
        assert refused.value.safe_to_repeat
        monkeypatch.setenv("SSL_CERT_FILE", cert)
        async with Client(url, settings=ONCE) as client:
            assert isinstance(await client.list_tools(), tuple)
