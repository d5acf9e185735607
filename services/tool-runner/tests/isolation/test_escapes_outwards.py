"""What a server tries to see, reach or hit from inside its sandbox: all of it is refused.

One attempt a test. The server is a real one and runs whatever it is told; what it is after is real
too: a secret file, a listening socket, a process, this very test run.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from mcp_proto.errors import MeshError
from mesh_chassis.testing.processes import is_alive

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]

FAMILY_VSOCK, FAMILY_PACKET, FAMILY_ALG = 40, 17, 38


@pytest.fixture(scope="module")
def listening() -> Iterator[int]:
    """A port of the host that accepts: the broker's is no other."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture(scope="module")
def victim() -> Iterator[int]:
    with subprocess.Popen(["/bin/sleep", "1000"]) as process:
        yield process.pid
        assert is_alive(process.pid), "something inside has killed a process of the host"
        process.kill()


# Files


async def test_a_server_does_not_read_a_secret_file_of_the_host(inside, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text(inside.secret)
    await inside.is_refused(f"result = Path({str(secret)!r}).read_text()", "ENOENT", "EACCES")


async def test_a_server_does_not_read_the_password_file_of_the_host(inside):
    await inside.is_refused("result = Path('/etc/shadow').read_text()", "ENOENT")
    assert "root" not in str(await inside.does("result = Path('/etc/passwd').read_text()"))


async def test_a_server_does_not_read_the_keys_of_its_runner(inside, prison):
    await inside.is_refused(f"result = Path({str(prison.seed)!r}).read_text()", "ENOENT", "EACCES")


async def test_a_server_is_not_given_the_folder_with_the_keys_of_its_runner(prison):
    for path in (prison.keys, prison.keys.parent, prison.seed):
        with pytest.raises(MeshError, match="keys of the mesh itself"):
            await prison.start(prison.definition(read_only=(str(path),)))


async def test_a_server_does_not_see_homes_state_or_sockets_of_the_host(inside):
    # The folders above its own program exist, with nothing else in them.
    own = {str(one) for path in (sys.prefix, sys.base_prefix) for one in Path(path).parents}
    hidden = {"/home", "/root", "/var", "/run", "/sys", "/boot", "/mnt", "/opt", "/srv"} - own
    if (beside := Path(sys.prefix).parent) != Path("/"):
        hidden |= {str(one) for one in beside.iterdir() if str(one) != sys.prefix}
    seen = await inside.does(f"result = [p for p in {sorted(hidden)!r} if os.path.exists(p)]")
    assert seen == []


async def test_a_server_does_not_write_where_the_systems_programs_are(inside):
    for path in ("/usr/bin/x", "/usr/lib/x", "/bin/x"):
        await inside.is_refused(f"result = Path({path!r}).write_text('x')", "EROFS")


async def test_a_server_does_not_write_into_the_root_etc_or_dev(inside):
    for path in ("/x", "/etc/x", "/etc/passwd", "/etc/ld.so.preload", "/dev/x"):
        await inside.is_refused(f"result = Path({path!r}).write_text('x')", "EROFS", "EACCES")


async def test_a_server_does_not_change_its_own_program(inside, prison):
    await inside.is_refused(f"result = Path({str(prison.server)!r}).write_text('')", "EROFS")
    await inside.is_refused(f"result = os.chmod({str(prison.server)!r}, 0o777)", "EROFS", "EPERM")


async def test_a_server_does_not_leave_by_the_root_of_another_process(inside):
    said = await inside.does("result = sorted(os.listdir('/proc/1/root'))")
    assert said == await inside.does("result = sorted(os.listdir('/'))") or "refused" in str(said)


async def test_a_server_does_not_leave_by_a_symbolic_link_in_a_folder_it_may_write(
    prison, inside, tmp_path
):
    secret = tmp_path / "secret"
    secret.write_text(inside.secret)
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    life = await prison.start(prison.definition(read_write=(str(shared),)))
    said = await prison.tell(
        life,
        f"link = Path({str(shared)!r}, 'link'); link.symlink_to({str(secret)!r})\n"
        "result = link.read_text()",
    )
    assert said in {"refused: ENOENT", "refused: EACCES"}
    assert (shared / "link").is_symlink()


async def test_a_server_has_no_descriptors_but_its_three_pipes(inside):
    said = await inside.does(
        "result = sorted(int(n) for n in os.listdir('/proc/self/fd'))[:-1]"  # the last lists them
    )
    assert said == [0, 1, 2]


# Processes


async def test_a_server_sees_no_process_but_its_own(inside):
    said = await inside.does(
        "result = [Path('/proc', n, 'cmdline').read_bytes().split(b'\\0')[0].decode()"
        " for n in os.listdir('/proc') if n.isdigit()]"
    )
    assert {Path(one).name for one in said} <= {"bwrap", Path(sys.executable).name}


async def test_a_server_finds_no_secret_in_any_environment(inside):
    said = await inside.does(
        "result = ''\n"
        "for n in os.listdir('/proc'):\n"
        "    try: result += Path('/proc', n, 'environ').read_bytes().decode()\n"
        "    except OSError: pass\n"
        "result += repr(dict(os.environ))"
    )
    assert inside.secret not in said
    assert "MESH_TEST" not in said


async def test_a_server_does_not_kill_a_process_of_the_host(inside, victim):
    await inside.is_refused(f"result = os.kill({victim}, 9)", "ESRCH")


async def test_a_server_does_not_signal_its_runner(inside):
    await inside.is_refused(f"result = os.kill({os.getpid()}, {int(signal.SIGTERM)})", "ESRCH")
    await inside.is_refused(f"result = os.killpg({os.getpgrp()}, 15)", "ESRCH", "EPERM")


async def test_a_server_that_signals_everybody_reaches_nobody_outside(prison, victim):
    life = await prison.start(prison.definition())
    said = await prison.tell(life, "import signal; result = os.kill(-1, signal.SIGUSR2)")
    assert said in {None, "refused: ESRCH"}
    assert is_alive(victim)


async def test_a_server_does_not_trace_other_processes(inside):
    await inside.is_refused(f"result = call({inside.number('ptrace')}, 16, 1, 0, 0)")


async def test_a_server_does_not_read_the_memory_of_other_processes(inside):
    await inside.is_refused("result = open('/proc/1/mem', 'rb').read(1)", "EACCES", "EPERM", "EIO")
    await inside.is_refused(f"result = call({inside.number('process_vm_readv')}, 1, 0, 0, 0, 0, 0)")


async def test_a_server_does_not_take_descriptors_of_other_processes(inside):
    await inside.is_refused(f"result = call({inside.number('pidfd_getfd')}, 0, 0, 0)")


async def test_what_a_server_leaves_running_ends_with_it(prison):
    life = await prison.start(prison.definition())
    await prison.tell(
        life,
        "import subprocess, sys\n"
        "subprocess.Popen(['/usr/bin/setsid', '-f', '/bin/sleep', '77777'], env={})\n"
        "result = 1",
    )
    pid = life.pid
    below = prison.below(pid)
    assert below
    await life.close()
    assert not any(is_alive(one) for one in below)


# Network


async def test_a_server_does_not_reach_the_broker_or_anything_on_the_hosts_loopback(
    inside, listening
):
    for host in ("127.0.0.1", "localhost"):
        await inside.is_refused(
            f"import socket; result = socket.create_connection(({host!r}, {listening}), 2)",
            "ECONNREFUSED",
        )


async def test_a_server_does_not_reach_the_metadata_address(inside):
    await inside.is_refused(
        "import socket; result = socket.create_connection(('169.254.169.254', 80), 2)",
        "ENETUNREACH",
    )


async def test_a_server_does_not_reach_the_network_over_either_protocol(inside):
    for host in ("192.0.2.1", "2001:db8::1"):
        await inside.is_refused(
            f"import socket; result = socket.create_connection(({host!r}, 443), 2)",
            "ENETUNREACH", "EADDRNOTAVAIL",
        )  # fmt: skip


async def test_a_server_does_not_resolve_names(inside):
    said = await inside.does("import socket; result = socket.getaddrinfo('example.com', 80)")
    assert "refused" in said


async def test_a_server_does_not_send_datagrams(inside):
    await inside.is_refused(
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "result = s.sendto(b'x', ('192.0.2.53', 53))",
        "ENETUNREACH",
    )


async def test_a_server_does_not_reach_abstract_sockets_of_the_host(inside):
    name = f"\0mesh-{uuid.uuid4()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        server.listen()
        await inside.is_refused(
            f"import socket; result = socket.socket(socket.AF_UNIX).connect({name!r})",
            "ECONNREFUSED",
        )


async def test_a_server_opens_no_socket_past_its_network_namespace(inside):
    for family in (FAMILY_VSOCK, FAMILY_PACKET, FAMILY_ALG):
        await inside.is_refused(
            f"result = call({inside.machine.socket}, {family}, 3, 0)", "EAFNOSUPPORT"
        )


async def test_a_server_opens_no_raw_socket(inside):
    await inside.is_refused(
        "import socket; result = socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)"
    )


async def test_a_server_does_not_see_shared_memory_of_the_host(inside):
    libc = ctypes.CDLL(None)
    key = uuid.uuid4().int & 0x7FFFFFFF
    segment = libc.shmget(key, 4096, 0o1600)
    assert segment >= 0
    try:
        said = await inside.does(
            f"libc = ctypes.CDLL(None, use_errno=True); r = libc.shmget({key}, 4096, 0)\n"
            "result = 'refused' if r == -1 else r"
        )
    finally:
        libc.shmctl(segment, 0, None)
    assert said == "refused"
