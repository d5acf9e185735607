import subprocess
from pathlib import Path

import msgspec
import nats
import pytest

from mcp_proto import broker_rights
from mesh_chassis.broker_config import (
    SYSTEM_ACCOUNT,
    BrokerSettings,
    BrokerUser,
    issuer_pair,
    new_issuer,
    new_nkey,
    public_of,
    render,
    write_seed,
)
from mesh_chassis.testing.broker import Broker
from mesh_chassis.testing.broker_engine import find_binary


def user(name: str, service: str = "gateway") -> BrokerUser:
    rights = broker_rights.rights_of(service, f"{service}-1")
    return BrokerUser(name=name, public_nkey=new_nkey()[1], rights=rights)


def accepted(tmp_path: Path, text: str) -> bool:
    path = tmp_path / "nats.conf"
    path.write_text(text)
    run = subprocess.run(
        [find_binary(), "-t", "-c", str(path)], capture_output=True, timeout=20, check=False
    )
    return run.returncode == 0


def test_broker_accepts_a_configuration_with_every_service(tmp_path: Path) -> None:
    users = [user(f"{service}/1", service) for service in (*broker_rights.SERVICES, "stdio")]
    system = BrokerUser(
        name="system", public_nkey=new_nkey()[1], rights=None, account=SYSTEM_ACCOUNT
    )
    settings = BrokerSettings(
        store_dir=str(tmp_path / 'odd "name" $HOME'),
        monitor_port=8222,
        server_name="mesh",
        logfile=str(tmp_path / "nats.log"),
        sync_always=False,
    )
    assert accepted(tmp_path, render(settings, [*users, system]))


async def test_users_of_the_file_connect_as_before_when_others_are_asked_about(
    tmp_path: Path,
) -> None:
    """Nobody answers the broker's question here, so whoever is asked about would wait."""
    _, issuer = new_issuer()
    broker = Broker(tmp_path / "broker", in_memory=True, callout_issuer=issuer)
    async with broker:
        for service, instance in (
            ("gateway", "gateway-1"),
            ("operator", "operator"),
            ("system", "system"),
            ("client", "demo-tenant"),
        ):
            client = await nats.connect(
                broker.url,
                nkeys_seed=broker.seed_for(service, instance),
                connect_timeout=1,
                max_reconnect_attempts=0,
            )
            await client.flush()
            await client.close()
    broker.remove_store()


def test_issuer_is_an_account_and_nothing_else() -> None:
    seed, public = new_issuer()
    assert seed.startswith("SA")
    assert bytes(issuer_pair(seed).public_key).decode() == public
    for wrong in ("", "SAXX", new_nkey()[0]):
        with pytest.raises(ValueError, match="seed"):
            issuer_pair(wrong)


def test_comment_of_a_user_cannot_break_out_of_its_line(tmp_path: Path) -> None:
    odd = user("gateway\n}\nport: 1")
    assert accepted(tmp_path, render(BrokerSettings(store_dir=str(tmp_path / "js")), [odd]))


def test_configuration_is_refused_when_two_users_share_a_key() -> None:
    one = user("a")
    with pytest.raises(ValueError, match="share"):
        render(BrokerSettings(store_dir="js"), [one, one])


def test_configuration_is_refused_when_a_platform_user_has_no_rights() -> None:
    everything = BrokerUser(name="a", public_nkey=new_nkey()[1], rights=None)
    with pytest.raises(ValueError, match="needs rights"):
        render(BrokerSettings(store_dir="js"), [everything])


def test_public_key_follows_from_the_seed() -> None:
    seed, public = new_nkey()
    assert seed.startswith("SU")
    assert public.startswith("U")
    assert public_of(f"{seed}\n") == public
    with pytest.raises(ValueError, match="seed"):
        public_of("SUnonsense")


def test_seed_file_is_private_also_when_it_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "a.nk"
    for seed in ("one", "two"):
        write_seed(path, seed)
        assert path.read_text() == f"{seed}\n"
        assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["a.nk"]


class _JetStream(msgspec.Struct):
    sync_always: bool = False
    max_storage: int = 0


class _Data(msgspec.Struct):
    config: _JetStream


class _Jsz(msgspec.Struct):
    data: _Data


class _Varz(msgspec.Struct):
    max_payload: int
    ping_interval: int
    ping_max: int


class _VarzAnswer(msgspec.Struct):
    data: _Varz


async def test_broker_runs_with_the_durability_and_the_pings_it_was_given(
    shared_broker: Broker,
) -> None:
    system = await nats.connect(
        shared_broker.url, nkeys_seed=shared_broker.seed_for("system", "system")
    )
    jsz = await system.request("$SYS.REQ.SERVER.PING.JSZ", b"{}", timeout=3)
    jetstream = msgspec.json.decode(jsz.data, type=_Jsz).data.config
    assert jetstream.sync_always
    assert jetstream.max_storage == 4096 * 1024 * 1024
    varz = await system.request("$SYS.REQ.SERVER.PING.VARZ", b"{}", timeout=3)
    server = msgspec.json.decode(varz.data, type=_VarzAnswer).data
    assert server.max_payload == 1024 * 1024
    assert (server.ping_interval, server.ping_max) == (2_000_000_000, 2)
    await system.close()
