"""``mesh up`` as a user runs it: a real process, real services, real signals."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import msgspec
import pytest

from mcp_proto.contracts.registry import InstanceRecord
from mesh_chassis.broker_config import new_nkey
from mesh_cli import rpc
from mesh_cli.failure import Exit, Failure
from mesh_cli.state import DIRECTORY, RunRecord, StateDir

READY_MAX_S = 40.0
"""Bound of a start on a machine that does other things; alone it takes about 2 s."""
END_MAX_S = 40.0

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(120),
    pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc"),
]


class Mesh:
    """A running ``mesh up`` in a folder of its own."""

    def __init__(self, folder: Path, *options: str, config: str = "", ports: bool = True) -> None:
        self.folder = folder
        self.state = StateDir(folder / DIRECTORY)
        self.out = folder / "out.txt"
        self.err = folder / "err.txt"
        if config:
            (folder / "mesh.toml").write_text(config)
        any_ports = ("--nats-port", "0", "--http-port", "0", "--tcp-port", "0") if ports else ()
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("MCP_", "NATS_"))}
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mesh_cli", "up", *any_ports, *options],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=environment,
            )

    @property
    def told(self) -> str:
        return self.out.read_text() + self.err.read_text()

    @property
    def record(self) -> RunRecord:
        record = self.state.read_run()
        assert record is not None
        return record

    def wait_ready(self) -> "Mesh":
        def ready() -> bool:
            assert self.process.poll() is None, self.told
            return "\nready\n" in self.out.read_text()

        until(ready, READY_MAX_S, lambda: self.told + self.logs())
        return self

    def logs(self) -> str:
        return "\n".join(
            f"== {path.name}\n{path.read_text()[-1500:]}" for path in self.state.logs.glob("*.log")
        )

    def pids(self) -> set[int]:
        """Every process below ``mesh up``, at any depth."""
        return descendants(self.process.pid)

    def run(self, *argv: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "mesh_cli", *argv],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            stdin=subprocess.DEVNULL,
        )

    def end(self) -> None:
        """End at once; the ordered stop has tests of its own."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            until(lambda: "draining" in self.err.read_text(), END_MAX_S)
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGTERM)
            self.process.wait(END_MAX_S)


def until(condition: Callable[[], bool], limit_s: float, why: Callable[[], str] = str) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, why()
        time.sleep(0.02)


def descendants(pid: int) -> set[int]:
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if stat[0] != "Z":
            parents[int(folder.name)] = int(stat[1])
    found: set[int] = set()
    fresh = {pid}
    while fresh:
        fresh = {child for child, parent in parents.items() if parent in fresh} - found
        found |= fresh
    return found


def alive(pids: set[int]) -> set[int]:
    left: set[int] = set()
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z":
            left.add(pid)
    return left


Start = Callable[..., Mesh]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Mesh] = []

    def make(*options: str, config: str = "", ports: bool = True) -> Mesh:
        mesh = Mesh(tmp_path, *options, config=config, ports=ports)
        started.append(mesh)
        return mesh

    yield make
    for mesh in started:
        mesh.end()


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """One mesh for the tests that only look and call."""
    made = Mesh(tmp_path_factory.mktemp("mesh"))
    try:
        yield made.wait_ready()
    finally:
        made.end()


def echo(base: str, token: str = "") -> bytes:
    params = {"name": "echo", "arguments": {"message": "hello"}}
    return rpc.post(base, "tools/call", params, token=token, timeout_s=10)


def over_stdio(mesh: Mesh, **environment: str) -> "subprocess.CompletedProcess[bytes]":
    """One session of a client that starts ``mesh stdio`` and calls echo."""
    opening = {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "t", "version": "1"},
    }
    call = {"name": "echo", "arguments": {"message": "pipe"}}
    lines = [
        {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": opening},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": "b", "method": "tools/call", "params": call},
    ]
    return subprocess.run(
        [sys.executable, "-m", "mesh_cli", "stdio", "--state", str(mesh.state.root)],
        input=b"\n".join(msgspec.json.encode(line) for line in lines) + b"\n",
        capture_output=True,
        check=False,
        timeout=30,
        env={**os.environ, **environment},
    )


def over_tcp(address: str, *requests: tuple[str, dict[str, object]]) -> list[bytes]:
    """Requests on one connection, each after the answer to the one before."""
    host, _, port = address.rpartition(":")
    answers: list[bytes] = []
    with (
        socket.create_connection((host, int(port)), timeout=10) as connection,
        connection.makefile("rb") as reader,
    ):
        for number, (method, params) in enumerate(requests):
            line = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
            connection.sendall(msgspec.json.encode(line) + b"\n")
            answers.append(reader.readline())
    return answers


class TestRunning:
    def test_ready_is_one_line_of_its_own_and_the_last(self, mesh: Mesh) -> None:
        lines = mesh.out.read_text().splitlines()

        assert lines.count("ready") == 1
        assert lines[-1] == "ready"

    def test_screen_says_where_who_and_how(self, mesh: Mesh) -> None:
        screen = mesh.out.read_text()

        assert mesh.record.http + "/mcp" in screen
        assert mesh.record.tcp in screen
        assert mesh.record.nats in screen
        assert "DEVELOPMENT MODE" in screen
        assert "need no token" in screen
        assert "Try it:" in screen
        assert max(len(line) for line in screen.splitlines()) < 200

    def test_first_calls_succeed_over_http_tcp_and_nats(self, mesh: Mesh) -> None:
        assert b"hello" in echo(mesh.record.http)
        ping = rpc.tcp_line(mesh.record.tcp, b'{"jsonrpc":"2.0","id":1,"method":"ping"}')
        assert b'"status":"ok"' in ping
        body = rpc.request_body("tools/call", {"name": "echo", "arguments": {"message": "bus"}})
        subject = "mesh.v1.demo-tenant.call.echo.echo"
        done = mesh.run("req", "--context", "demo", subject, body.decode(), "--raw")
        assert done.returncode == 0, done.stderr
        assert '"message":"bus"' in done.stdout

    def test_tools_of_the_sample_server_are_listed_and_run(self, mesh: Mesh) -> None:
        listed = mesh.run("tools")
        assert "time__get_current_time" in listed.stdout
        assert "kv_set" in listed.stdout

        called = mesh.run("call", "time:get_current_time", "timezone=UTC")
        assert called.returncode == 0, called.stderr
        assert '"timezone": "UTC"' in called.stdout

    def test_call_gives_words_types_and_exit_codes(self, mesh: Mesh) -> None:
        assert mesh.run("call", "kv_set", "key=n", "value:=7").returncode == Exit.OK
        over_http = mesh.run("call", "--url", mesh.record.http, "kv_get", '{"key":"n"}', "--raw")
        result = msgspec.json.decode(over_http.stdout)
        assert result["structuredContent"]["value"] == 7

        assert mesh.run("call", "time:get_current_time", "timezone=No").returncode == Exit.FAILED
        unknown = mesh.run("call", "nothing_like_it")
        assert unknown.returncode == Exit.REFUSED
        assert "nothing_like_it" in unknown.stderr
        assert mesh.run("call", "echo", "word").returncode == Exit.USAGE
        away = mesh.run("call", "--url", "http://127.0.0.1:1", "echo")
        assert away.returncode == Exit.UNREACHABLE

    def test_second_mesh_up_on_the_same_directory_is_refused(self, mesh: Mesh) -> None:
        second = mesh.run("up")

        assert second.returncode == Exit.FAILED
        assert f"mesh up, pid {mesh.process.pid}" in second.stderr
        assert "mesh down" in second.stderr
        assert b"hello" in echo(mesh.record.http)

    def test_doctor_finds_nothing_wrong(self, mesh: Mesh) -> None:
        done = mesh.run("doctor")

        assert done.stdout.startswith("nothing is wrong\n"), done.stdout
        assert done.returncode == Exit.OK

    def test_status_shows_every_process(self, mesh: Mesh) -> None:
        record = msgspec.json.decode(mesh.run("status", "--json").stdout, type=RunRecord)
        assert record.ready
        names = [point.instance for point in record.endpoints]
        started = "nats-server registry-1 tenant-auth-1 runner-1 swarm-1 agent-host-1 gateway-1"
        assert names == started.split()
        assert alive({point.pid for point in record.endpoints}) == {
            point.pid for point in record.endpoints
        }

    def test_server_is_added_called_restarted_and_removed(self, mesh: Mesh) -> None:
        argv = (sys.executable, "-m", "mcp_server_time", "--local-timezone", "Asia/Tokyo")
        added = mesh.run("server", "add", "clock", "--", *argv)
        assert added.returncode == 0, added.stderr
        assert "2 tools" in added.stdout

        assert mesh.run("call", "clock:get_current_time", "timezone=UTC").returncode == 0
        assert mesh.run("server", "restart", "clock").returncode == 0
        assert "clock" in mesh.run("server", "list").stdout
        assert mesh.run("server", "remove", "clock").returncode == 0
        assert "clock" not in mesh.run("server", "list").stdout

    @pytest.mark.slow
    def test_server_that_is_no_mcp_server_is_reported_with_its_error(self, mesh: Mesh) -> None:
        added = mesh.run("server", "add", "bad", "--", "echo", "hello")
        assert added.returncode == Exit.FAILED
        assert "before it spoke MCP" in added.stderr

        found = mesh.run("doctor", "--json")
        assert found.returncode == Exit.FAILED
        (finding,) = msgspec.json.decode(found.stdout)
        assert finding["check"] == "upstream"
        assert "bad" in finding["what"]
        assert "exited with status 0" in finding["what"]
        assert mesh.run("server", "remove", "bad").returncode == 0
        assert b"hello" in echo(mesh.record.http)

    def test_keys_are_created_used_and_revoked(self, mesh: Mesh) -> None:
        assert mesh.run("tenant", "add", "acme").returncode == 0
        assert mesh.run("principal", "add", "bob", "--tenant", "acme").returncode == 0
        made = mesh.run("key", "create", "--tenant", "acme", "--principal", "bob", "--json")
        key = msgspec.json.decode(made.stdout)
        assert "hello" in echo(mesh.record.http, key["key"]).decode()
        assert "acme" in mesh.run("tenant", "list").stdout
        assert key["id"] in mesh.run("key", "list", "--tenant", "acme").stdout

        assert mesh.run("key", "revoke", key["id"]).returncode == 0

        def refused() -> bool:
            try:
                echo(mesh.record.http, key["key"])
            except Failure:
                return True
            return False

        until(refused, 3.0, lambda: "the revoked key still works")

    def test_client_config_names_this_mesh(self, mesh: Mesh) -> None:
        shown = mesh.run("client-config", "cursor").stdout

        assert f"{mesh.record.http}/mcp" in shown
        assert str(mesh.state.root) in shown

    def test_stdio_serves_a_client_and_writes_nothing_else(self, mesh: Mesh) -> None:
        done = over_stdio(mesh)

        assert done.returncode == 0, done.stderr
        answers = [msgspec.json.decode(line) for line in done.stdout.splitlines()]
        assert [answer["id"] for answer in answers] == [1, "b"]
        assert answers[1]["result"]["structuredContent"] == {"message": "pipe"}

    def test_doctor_finds_a_service_whose_clock_is_off(self, mesh: Mesh) -> None:
        late = InstanceRecord(
            service="tool-runner",
            instance="far-1",
            version="1.0.0",
            node="far",
            now_ms=int(time.time() * 1000) - 5_000,
        )
        key = "tool-runner.far-1"
        value = msgspec.json.encode(late).decode()
        assert mesh.run("kv", "put", "mesh_instances", key, value, "--ttl", "20s").returncode == 0

        found = mesh.run("doctor")
        mesh.run("kv", "del", "mesh_instances", key, "--force")

        assert found.returncode == Exit.FAILED
        assert re.search(r"clock of far-1 on far is [45]\.\d s behind the broker's", found.stdout)

    def test_doctor_finds_a_key_that_the_broker_refuses(self, mesh: Mesh) -> None:
        seed = mesh.state.seed("runner-1")
        right = seed.read_text()
        seed.write_text(new_nkey()[0])
        try:
            found = mesh.run("doctor")
        finally:
            seed.write_text(right)

        assert "the broker refuses the key of runner-1" in found.stdout

    @pytest.mark.slow
    def test_doctor_finds_a_service_that_does_not_answer(self, mesh: Mesh) -> None:
        (pid,) = (point.pid for point in mesh.record.endpoints if point.instance == "registry-1")
        os.kill(pid, signal.SIGSTOP)
        try:
            found = mesh.run("doctor")
        finally:
            os.kill(pid, signal.SIGCONT)

        assert "registry-1 does not answer on the bus" in found.stdout
        until(lambda: mesh.run("doctor").returncode == 0, 20.0, mesh.logs)

    def test_logs_are_prefixed_by_instance(self, mesh: Mesh) -> None:
        shown = mesh.run("logs", "gateway-1", "registry-1", "-n", "1").stdout

        assert re.match(r"gateway-1  \| \{", shown)
        assert "registry-1 | {" in shown


def test_interrupt_drains_everything_and_exits_0(start: Start) -> None:
    mesh = start().wait_ready()
    pids = mesh.pids()
    http = mesh.record.http
    assert len(pids) >= 6, "broker, four services, the sample server"

    mesh.process.send_signal(signal.SIGINT)

    assert mesh.process.wait(END_MAX_S) == Exit.OK, mesh.told
    assert alive(pids) == set()
    assert mesh.state.read_run() is None
    with pytest.raises(Failure):
        echo(http)


def test_second_interrupt_ends_everything_at_once(start: Start) -> None:
    mesh = start().wait_ready()
    pids = mesh.pids()
    mesh.process.send_signal(signal.SIGINT)
    until(lambda: "draining" in mesh.err.read_text(), 5.0)

    mesh.process.send_signal(signal.SIGINT)

    assert mesh.process.wait(10) == Exit.INTERRUPTED
    until(lambda: not alive(pids), 5.0, lambda: f"left behind: {alive(pids)}")


@pytest.mark.slow
def test_killed_mesh_up_leaves_no_process_behind(start: Start) -> None:
    mesh = start().wait_ready()
    pids = mesh.pids()

    mesh.process.kill()
    mesh.process.wait()

    until(lambda: not alive(pids), END_MAX_S, lambda: f"left behind: {alive(pids)}")
    found = msgspec.json.decode(mesh.run("doctor", "--json").stdout)
    assert "stale-pid" in {finding["check"] for finding in found}


def test_interrupt_during_the_start_leaves_nothing_behind(start: Start) -> None:
    mesh = start()
    until(lambda: mesh.state.read_run() is not None, READY_MAX_S, lambda: mesh.told)
    pids = mesh.pids()

    mesh.process.send_signal(signal.SIGTERM)

    assert mesh.process.wait(END_MAX_S) == Exit.OK, mesh.told
    assert alive(pids | mesh.pids()) == set()
    assert "\nready\n" not in mesh.out.read_text()


def test_killed_service_and_broker_are_started_again(start: Start) -> None:
    mesh = start().wait_ready()
    for name in ("gateway-1", "runner-1", "registry-1", "nats-server"):
        before = {point.instance: point.pid for point in mesh.record.endpoints}
        os.kill(before[name], signal.SIGKILL)

        def works(name: str = name, pid: int = before[name]) -> bool:
            now = {point.instance: point.pid for point in mesh.record.endpoints}
            if now[name] == pid:
                return False
            try:
                return b"hello" in echo(mesh.record.http)
            except Failure:
                return False

        until(works, 20.0, lambda name=name: f"after {name}: {mesh.told}\n{mesh.logs()}")
    assert mesh.process.poll() is None


def test_two_gateways_and_two_runners_all_work(start: Start) -> None:
    mesh = start("--gateways", "2", "--runners", "2", "--json").wait_ready()
    first = mesh.out.read_text().splitlines()[0]
    record = msgspec.json.decode(first, type=RunRecord)
    gateways = [point for point in record.endpoints if point.http]

    assert len(gateways) == 2
    assert len({point.http for point in gateways} | {point.tcp for point in gateways}) == 4
    for point in gateways:
        assert b"hello" in echo(point.http)
        assert b"ok" in rpc.tcp_line(point.tcp, b'{"jsonrpc":"2.0","id":1,"method":"ping"}')


@pytest.mark.slow
def test_down_stops_the_mesh_of_the_directory(start: Start) -> None:
    mesh = start().wait_ready()
    pids = mesh.pids()

    done = mesh.run("down")

    assert done.stdout == "stopped\n"
    assert mesh.process.wait(5) == Exit.OK
    assert alive(pids) == set()
    assert mesh.run("down").stdout == "no mesh runs here\n"


def test_port_that_was_asked_for_and_is_taken_is_refused(start: Start) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        mesh = start("--nats-port", "0", "--tcp-port", "0", "--http-port", str(port), ports=False)

        assert mesh.process.wait(20) == Exit.FAILED
    assert f"port {port} of 127.0.0.1 (HTTP) is taken" in mesh.err.read_text()


def test_bad_key_in_the_file_is_refused_with_78(start: Start) -> None:
    mesh = start(config="[server]\nprot = 3000\n")

    assert mesh.process.wait(20) == Exit.CONFIG
    assert "server.prot" in mesh.err.read_text()
    assert "did you mean port" in mesh.err.read_text()


def test_open_mesh_on_a_foreign_address_is_refused(start: Start) -> None:
    mesh = start(config='[server]\nhost = "0.0.0.0"\n')

    assert mesh.process.wait(20) == Exit.CONFIG
    assert "auth_enabled" in mesh.err.read_text()


@pytest.mark.slow
def test_broken_server_of_the_user_does_not_keep_the_mesh_from_being_ready(start: Start) -> None:
    config = f"""
[[mcp_servers]]
name = "clock"
command = "{sys.executable}"
args = ["-m", "mcp_server_time", "--local-timezone", "UTC"]

[[mcp_servers]]
name = "bad"
command = "echo"
"""
    mesh = start(config=config).wait_ready()

    assert "bad (no tools yet: mesh doctor)" in mesh.out.read_text()
    assert "clock__get_current_time" in mesh.run("tools").stdout
    found = mesh.run("doctor")
    assert "MCP server bad does not serve" in found.stdout


def test_mesh_with_authentication_serves_only_who_has_a_key(start: Start) -> None:
    mesh = start(config="[security]\nauth_enabled = true\n").wait_ready()
    key = (mesh.state.keys / "admin.key").read_text().strip()

    assert "DEVELOPMENT" not in mesh.out.read_text()
    with pytest.raises(Failure, match="-31001"):
        echo(mesh.record.http)
    assert b"hello" in echo(mesh.record.http, key)
    assert "echo" in mesh.run("tools").stdout
    # The operator hears why a server does not start, without a credential of any tenant.
    added = mesh.run("server", "add", "bogus", "--", "echo", "hello")
    assert added.returncode != 0
    assert "is it an MCP server?" in added.stderr
    assert "MCP server bogus does not serve" in mesh.run("doctor").stdout
    assert key not in mesh.told + mesh.logs()


def status_of(url: str, token: str, body: bytes) -> int:
    """HTTP status of one POST."""
    headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    try:
        with urlopen(Request(url, body, headers), timeout=10) as answer:
            return int(answer.status)
    except HTTPError as error:
        with error:
            return error.code


def test_token_of_the_user_is_asked_for_and_accepted_on_every_edge(start: Start) -> None:
    token = "of-my-own-choosing"
    mesh = start(config=f'[security]\nauth_token = "{token}"\n').wait_ready()
    http, tcp = mesh.record.http, mesh.record.tcp
    call = rpc.request_body("tools/call", {"name": "echo", "arguments": {"message": "hello"}})
    arguments = b'{"message":"hello"}'

    for wrong in ("", f"{token}x"):
        assert status_of(f"{http}/tools/echo", wrong, arguments) == 401
        with pytest.raises(Failure, match="-31001"):
            echo(http, wrong)
    assert status_of(f"{http}/mcp", "", call) == 401
    assert status_of(f"{http}/tools/echo", token, arguments) == 200
    assert b"hello" in echo(http, token)

    hello = ("tools/call", {"name": "echo", "arguments": {"message": "hello"}})
    assert b"-31001" in over_tcp(tcp, hello)[0]
    refused = over_tcp(tcp, ("authenticate", {"token": f"{token}x"}), hello)
    assert all(b"-31001" in answer for answer in refused), refused
    accepted = over_tcp(tcp, ("authenticate", {"token": token}), hello)
    assert b"admin" in accepted[0]
    assert b"hello" in accepted[1]

    for environment in ({}, {"MCP_AUTH_TOKEN": token}):
        assert b"pipe" in over_stdio(mesh, **environment).stdout
    assert b"pipe" not in over_stdio(mesh, MCP_AUTH_TOKEN=f"{token}x").stdout

    # The commands of the directory's owner use it too, and no key was made.
    assert "echo" in mesh.run("tools").stdout
    assert not (mesh.state.keys / "admin.key").exists()
    assert "auth_enabled counts as true" in mesh.out.read_text()
    assert "DEVELOPMENT" not in mesh.out.read_text()
    assert token not in mesh.told + mesh.logs()
