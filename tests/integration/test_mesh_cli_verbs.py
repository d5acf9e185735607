"""The verbs of the ``nats`` tool against a real broker, with its rights and context files."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import nats
import pytest
from nats.js.api import StreamConfig

from mesh_chassis.testing.broker import Broker
from mesh_cli.contexts import Context, folder_of
from mesh_cli.failure import Exit
from mesh_cli.main import run
from mesh_cli.state import DIRECTORY, StateDir

REPLIER = """
import asyncio, sys, nats, nats.micro
from pathlib import Path

async def main():
    nc = await nats.connect(sys.argv[1], nkeys_seed_str=Path(sys.argv[2]).read_text().strip())
    async def one(m):
        headers = {"X-Got": (m.headers or {}).get("X", "")}
        await nc.publish(m.reply, b"pong:" + m.data, headers=headers)
    async def many(m):
        for n in range(3):
            await nc.publish(m.reply, b"%d" % n)
        await nc.publish(m.reply, b"")
    await nc.subscribe("svc.one", cb=one)
    await nc.subscribe("svc.many", cb=many)
    service = await nats.micro.add_service(nc, name="demo", version="1.2.3", description="a demo")
    await service.add_endpoint(name="hi", subject="svc.hi", handler=lambda r: r.respond(b"hello"))
    await nc.flush()
    print("up", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    made = Broker(tmp_path_factory.mktemp("broker"))
    made.start_blocking()
    try:
        yield made
    finally:
        made.stop_blocking()


@pytest.fixture(scope="module")
def replier(broker: Broker) -> Iterator[None]:
    argv = [sys.executable, "-c", REPLIER, broker.url, broker.seed_for("operator", "operator")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        yield
        process.kill()


@pytest.fixture(autouse=True)
def here(broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state directory as ``mesh up`` writes it; commands find it from the working directory."""
    state = StateDir(tmp_path / DIRECTORY)
    state.create()
    folder = folder_of(state)
    operator = broker.seed_for("operator", "operator")
    demo = broker.seed_for("client", "demo-tenant")
    folder.write(
        "operator",
        Context(url=broker.url, nkey=operator, inbox_prefix="_MESH.operator.cli"),
    )
    folder.write("demo", Context(url=broker.url, nkey=demo))
    monkeypatch.chdir(tmp_path)
    for name in ("NATS_URL", "NATS_CONTEXT", "NATS_NKEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path


Shown = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def bucket(broker: Broker) -> str:
    seed = Path(broker.seed_for("operator", "operator")).read_text().strip()

    async def make() -> None:
        client = await nats.connect(broker.url, nkeys_seed_str=seed)
        config = StreamConfig(
            name="KV_things",
            subjects=["$KV.things.>"],
            max_msgs_per_subject=5,
            allow_msg_ttl=True,
            allow_rollup_hdrs=True,
            deny_delete=True,
        )
        await client.jetstream().add_stream(config)
        await client.close()

    asyncio.run(make())
    return "things"


@pytest.mark.usefixtures("replier")
class TestRequests:
    def test_req_prints_headers_and_body_of_one_reply(self, capsys: Shown) -> None:
        assert run(["req", "svc.one", "ping", "-H", "X:7"]) == Exit.OK

        shown = capsys.readouterr().out
        assert "Received with rtt" in shown
        assert "X-Got: 7" in shown
        assert "pong:ping" in shown

    def test_req_raw_prints_the_body_alone(self, capsys: Shown) -> None:
        assert run(["req", "svc.one", "ping", "--raw"]) == Exit.OK
        assert capsys.readouterr().out == "pong:ping\n"

    def test_req_collects_as_many_replies_as_asked_for(self, capsys: Shown) -> None:
        assert run(["req", "svc.many", "x", "--replies", "2", "--raw"]) == Exit.OK
        assert capsys.readouterr().out == "0\n1\n"

    def test_req_collects_until_an_empty_reply(self, capsys: Shown) -> None:
        assert run(["req", "svc.many", "x", "--wait-for-empty", "--raw"]) == Exit.OK
        assert capsys.readouterr().out == "0\n1\n2\n"

    def test_req_says_when_nobody_listens(self, capsys: Shown) -> None:
        assert run(["req", "svc.none", "x"]) == Exit.REFUSED
        assert "nobody listens on svc.none" in capsys.readouterr().err

    def test_req_says_what_the_broker_forbids(self, capsys: Shown) -> None:
        assert run(["req", "svc.one", "x", "--context", "demo"]) == Exit.REFUSED
        assert "refused svc.one" in capsys.readouterr().err

    def test_flags_may_stand_before_the_verb(self, capsys: Shown) -> None:
        assert run(["--context", "demo", "req", "svc.one", "x"]) == Exit.REFUSED
        assert "refused" in capsys.readouterr().err

    def test_micro_ls_info_stats_and_ping_show_the_service(self, capsys: Shown) -> None:
        assert run(["micro", "ls"]) == Exit.OK
        assert "demo  1.2.3" in capsys.readouterr().out
        assert run(["service", "info", "demo"]) == Exit.OK
        assert "svc.hi" in capsys.readouterr().out
        assert run(["micro", "stats", "demo", "--json"]) == Exit.OK
        (stats,) = msgspec.json.decode(capsys.readouterr().out)
        assert stats["endpoints"][0]["name"] == "hi"
        assert run(["micro", "ping"]) == Exit.OK
        assert "rtt=" in capsys.readouterr().out

    def test_micro_req_finds_the_subject_by_name(self, capsys: Shown) -> None:
        assert run(["micro", "req", "demo", "hi", "", "--raw"]) == Exit.OK
        assert capsys.readouterr().out == "hello\n"
        assert run(["micro", "req", "demo", "nope", ""]) == Exit.FAILED
        assert "it has: hi" in capsys.readouterr().err

    def test_micro_of_an_unknown_service_is_refused(self, capsys: Shown) -> None:
        assert run(["micro", "info", "nobody"]) == Exit.REFUSED
        assert "no service answers as nobody" in capsys.readouterr().err


def test_sub_prints_what_pub_sends(here: Path) -> None:
    argv = [sys.executable, "-m", "mesh_cli", "sub", "news.>", "--count", "2"]
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=here, text=True
    ) as sub:
        assert sub.stderr is not None
        assert "Subscribing on news.>" in sub.stderr.readline()
        assert run(["pub", "news.a", "first", "-H", "K:v"]) == Exit.OK
        assert run(["pub", "news.b", "second"]) == Exit.OK
        shown, _ = sub.communicate(timeout=10)

    assert '[#1] Received on "news.a"\nK: v\n\nfirst' in shown
    assert '[#2] Received on "news.b"' in shown
    assert sub.returncode == 0


def test_sub_that_is_forbidden_ends(capsys: Shown) -> None:
    assert run(["sub", "mesh.v1.other.evt.>", "--context", "demo"]) == Exit.REFUSED
    assert "permissions violation" in capsys.readouterr().err.lower()


def test_pub_that_is_forbidden_fails(capsys: Shown) -> None:
    assert run(["pub", "mesh.v1.other.call.kv.kv_get", "x", "--context", "demo"]) == Exit.REFUSED
    assert "permissions violation" in capsys.readouterr().err.lower()


def test_reply_echoes_requests(here: Path, capsys: Shown) -> None:
    argv = [sys.executable, "-m", "mesh_cli", "reply", "svc.echo", "--echo", "--count", "1"]
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=here, text=True
    ) as reply:
        assert reply.stderr is not None
        assert 'Listening on "svc.echo"' in reply.stderr.readline()
        assert run(["req", "svc.echo", "around", "--raw"]) == Exit.OK
        reply.communicate(timeout=10)

    assert capsys.readouterr().out == "around\n"
    assert reply.returncode == 0


def test_kv_put_get_ls_del(bucket: str, capsys: Shown) -> None:
    assert run(["kv", "put", bucket, "a.b", "one"]) == Exit.OK
    assert run(["kv", "put", bucket, "c", "two", "--ttl", "60s"]) == Exit.OK
    capsys.readouterr()

    assert run(["kv", "get", bucket, "a.b", "--raw"]) == Exit.OK
    assert capsys.readouterr().out == "one\n"
    assert run(["kv", "get", bucket, "c"]) == Exit.OK
    assert "Nats-TTL: 60s" in capsys.readouterr().out
    assert run(["kv", "ls", bucket]) == Exit.OK
    assert capsys.readouterr().out.split() == ["a.b", "c"]
    assert run(["kv", "del", bucket, "c", "--force"]) == Exit.OK
    capsys.readouterr()
    assert run(["kv", "ls", bucket, "-v"]) == Exit.OK
    assert capsys.readouterr().out == "a.b: one\n"
    assert run(["kv", "get", bucket, "c"]) == Exit.FAILED
    assert "no key c" in capsys.readouterr().err
    assert run(["kv", "ls", "-n"]) == Exit.OK
    assert "things" in capsys.readouterr().out
    assert run(["kv", "status", bucket]) == Exit.OK
    assert "per key" in capsys.readouterr().out


def test_kv_put_into_no_bucket_is_refused(capsys: Shown) -> None:
    assert run(["kv", "put", "nowhere", "a", "b"]) == Exit.REFUSED
    assert "nowhere" in capsys.readouterr().err


def test_kv_watch_shows_keys_and_changes(bucket: str, capsys: Shown) -> None:
    assert run(["kv", "put", bucket, "w", "1"]) == Exit.OK
    later = threading.Timer(0.3, run, args=[["kv", "put", bucket, "w", "2"]])
    later.start()
    assert run(["kv", "watch", bucket, "w", "--count", "2"]) == Exit.OK
    later.join()

    shown = capsys.readouterr().out
    assert "PUT things > w: 1" in shown
    assert "PUT things > w: 2" in shown


def test_stream_ls_info_view(bucket: str, capsys: Shown) -> None:
    assert run(["kv", "put", bucket, "v", "seen"]) == Exit.OK
    assert run(["stream", "ls", "-a", "-n"]) == Exit.OK
    assert "KV_things" in capsys.readouterr().out
    assert run(["stream", "info", "KV_things", "--json"]) == Exit.OK
    assert msgspec.json.decode(capsys.readouterr().out)["config"]["name"] == "KV_things"
    assert run(["stream", "view", "KV_things", "1", "--raw"]) == Exit.OK
    assert capsys.readouterr().out == "seen\n"
    assert run(["stream", "view", "KV_things", "--subject", "$KV.things.v", "--raw"]) == Exit.OK
    assert capsys.readouterr().out == "seen\n"
    assert run(["consumer", "ls", "KV_things"]) == Exit.OK
    assert run(["stream", "info", "NONE"]) == Exit.REFUSED
    assert "stream not found" in capsys.readouterr().err


def test_forbidden_looks_end_at_once(capsys: Shown) -> None:
    assert run(["kv", "ls", "--context", "demo", "--timeout", "30s"]) == Exit.REFUSED
    assert "--context operator" in capsys.readouterr().err


def test_server_info_names_the_broker(broker: Broker, capsys: Shown) -> None:
    assert run(["server", "info"]) == Exit.OK

    shown = capsys.readouterr().out
    assert f"127.0.0.1:{broker.port}" in shown
    assert "nats-server 2." in shown


def test_context_ls_select_and_info(capsys: Shown) -> None:
    assert run(["context", "ls"]) == Exit.OK
    assert "operator*" in capsys.readouterr().out
    assert run(["context", "select", "demo"]) == Exit.OK
    capsys.readouterr()
    assert run(["context", "ls"]) == Exit.OK
    assert "demo*" in capsys.readouterr().out
    assert run(["context", "info", "operator"]) == Exit.OK
    assert "inbox_prefix: _MESH.operator.cli" in capsys.readouterr().out
    assert run(["context", "select", "nope"]) == Exit.USAGE


def test_no_broker_is_named_by_its_url(capsys: Shown) -> None:
    assert run(["req", "a", "b", "--server", "nats://127.0.0.1:1"]) == Exit.UNREACHABLE
    assert "no broker answers at nats://127.0.0.1:1" in capsys.readouterr().err


def test_unknown_key_is_told_from_no_broker(broker: Broker, capsys: Shown, tmp_path: Path) -> None:
    from mesh_chassis.broker_config import new_nkey

    stranger = tmp_path / "stranger.nk"
    stranger.write_text(new_nkey()[0])
    argv = ["req", "a", "b", "--server", broker.url, "--nkey", str(stranger)]

    assert run(argv) == Exit.REFUSED
    assert "refused the credential" in capsys.readouterr().err
