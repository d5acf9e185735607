"""What a server tries to become, and how much it tries to take: all of it is refused.

One attempt a test, as in ``test_escapes_outwards.py``.
"""

# ruff: noqa: ASYNC240 - small files of the tests themselves

import os
from pathlib import Path

import msgspec
import pytest

from mcp_proto.errors import MeshError
from mesh_chassis.sandbox.seccomp import filter_for

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]


# Rights


async def test_a_server_does_not_mount_or_unmount(inside):
    await inside.is_refused(f"result = call({inside.number('mount')}, 0, 0, 0, 0, 0)")
    await inside.is_refused(f"result = call({inside.number('umount2')}, 0, 2)")


async def test_a_server_does_not_mount_by_the_newer_calls(inside):
    for name in ("fsopen", "fsconfig", "fsmount", "fspick", "open_tree", "move_mount"):
        await inside.is_refused(f"result = call({inside.number(name)}, 0, 0, 0, 0, 0)")
    await inside.is_refused(f"result = call({inside.number('mount_setattr')}, 0, 0, 0, 0, 0)")


async def test_a_server_does_not_change_its_root(inside):
    await inside.is_refused("result = os.chroot('/tmp')")
    await inside.is_refused(f"result = call({inside.number('pivot_root')}, 0, 0)")


async def test_a_server_makes_no_user_namespace_inside_its_own(inside):
    await inside.is_refused(f"result = call({inside.number('unshare')}, 0x10000000)")
    await inside.is_refused(f"result = call({inside.machine.clone}, 0x10000000 | 17, 0, 0, 0, 0)")
    await inside.is_refused(f"result = call({inside.machine.clone3}, 0, 0)", "ENOSYS")


async def test_a_server_enters_no_other_namespace(inside):
    await inside.is_refused(
        "fd = os.open('/proc/self/ns/net', os.O_RDONLY)\n"
        f"result = call({inside.number('setns')}, fd, 0)"
    )


async def test_a_server_does_not_become_root(inside):
    await inside.is_refused("result = os.setuid(0)", "EPERM", "EINVAL")
    await inside.is_refused("result = os.setgroups([0])", "EPERM", "EINVAL")


async def test_a_server_gains_nothing_by_a_setuid_program(inside):
    said = await inside.does(
        "import subprocess\n"
        "out = subprocess.run(['/usr/bin/su', '-c', 'id -u'], capture_output=True, text=True,"
        " stdin=subprocess.DEVNULL)\n"
        "status = Path('/proc/self/status').read_text()\n"
        "result = [out.stdout, 'NoNewPrivs:\\t1' in status, 'CapEff:\\t' + '0' * 16 in status,"
        " 'CapBnd:\\t' + '0' * 16 in status]"
    )
    assert said == ["", True, True, True]


async def test_a_server_of_a_runner_that_is_root_is_not_root_of_the_host(inside, prison):
    outside = Path(f"/proc/{prison.below(prison.lives[0].pid)[-1]}/status").read_text()
    uids = next(line for line in outside.splitlines() if line.startswith("Uid:")).split()[1:]
    assert set(uids) == {"65534" if os.geteuid() == 0 else str(os.geteuid())}


async def test_a_server_does_not_use_the_kernels_keyring(inside):
    for name in ("keyctl", "add_key", "request_key"):
        await inside.is_refused(f"result = call({inside.number(name)}, 0, 0, 0, 0, 0)")


async def test_a_server_does_not_load_a_bpf_program(inside):
    await inside.is_refused(f"result = call({inside.number('bpf')}, 0, 0, 0)")


async def test_a_server_does_not_load_a_module(inside):
    for name in ("init_module", "finit_module", "delete_module"):
        await inside.is_refused(f"result = call({inside.number(name)}, 0, 0, 0)")


async def test_a_server_does_not_start_another_kernel_or_reboot(inside):
    for name in ("kexec_load", "kexec_file_load", "reboot"):
        await inside.is_refused(f"result = call({inside.number(name)}, 0, 0, 0, 0, 0)")


async def test_a_server_does_not_set_the_clock(inside):
    await inside.is_refused("import time; result = time.clock_settime(time.CLOCK_REALTIME, 0)")
    for name in ("settimeofday", "adjtimex", "clock_adjtime"):
        await inside.is_refused(f"result = call({inside.number(name)}, 0, 0)")


async def test_a_server_does_not_rename_its_host(inside):
    await inside.is_refused("import socket; result = socket.sethostname('owned')")
    assert await inside.does("import socket; result = socket.gethostname()") == "sandbox"


async def test_a_server_makes_no_device_node(inside):
    for kind in ("S_IFCHR", "S_IFBLK"):
        await inside.is_refused(
            f"import stat; result = os.mknod('/tmp/{kind}', stat.{kind} | 0o666, os.makedev(8, 0))"
        )


async def test_a_server_sees_no_device_but_the_harmless_ones(inside):
    said = await inside.does(
        "import stat\n"
        "result = [n for n in os.listdir('/dev')"
        " if stat.S_IFMT(os.lstat('/dev/' + n).st_mode) in (stat.S_IFCHR, stat.S_IFBLK)]"
    )
    assert set(said) <= {"null", "zero", "full", "random", "urandom", "tty", "console"}


async def test_a_server_types_nothing_into_a_terminal(inside):
    for request in (0x5412, 0x541C):
        await inside.is_refused(f"result = call({inside.machine.ioctl}, 0, {request}, 0)")


async def test_a_server_writes_no_setting_of_the_kernel(inside):
    for path in ("/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/sys/kernel/x"):
        await inside.is_refused(
            f"result = Path({path!r}).write_text('x')", "EROFS", "EACCES", "ENOENT", "EPERM"
        )


async def test_a_server_does_not_make_itself_safe_from_the_kernels_memory_killer(inside):
    await inside.is_refused("result = Path('/proc/self/oom_score_adj').write_text('-1000')",
                            "EACCES", "EPERM")  # fmt: skip


async def test_a_server_does_not_raise_its_priority_or_its_limits(inside):
    await inside.is_refused("result = os.nice(-5)", "EPERM", "EACCES")
    await inside.is_refused(
        "result = os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))", "EPERM"
    )
    said = await inside.does(
        "import resource\n"
        "try: result = resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))\n"
        "except ValueError as error: result = str(error)"
    )
    assert "not allowed" in said


async def test_every_call_of_the_deny_list_is_refused(inside):
    numbers = dict(inside.machine.numbers)
    said = await inside.does(
        f"result = {{n: call(v, -1, 0, 0, 0, 0, 0) for n, v in {numbers!r}.items()}}"
    )
    assert {name: one for name, one in said.items() if one != "refused: EPERM"} == {}
    assert len(said) >= 33
    assert len(filter_for(os.uname().machine)) % 8 == 0


# What it may use


async def test_a_server_that_forks_without_end_is_stopped_by_its_limit(prison):
    life = await prison.start(prison.definition(pids=24))
    said = await prison.tell(
        life,
        "import time\n"
        "made = 0\n"
        "try:\n"
        "    while made < 200:\n"
        "        pid = os.fork()\n"
        "        if pid == 0:\n"
        "            time.sleep(1000); os._exit(0)\n"
        "        made += 1\n"
        "except OSError as error: result = [made, error.errno]",
    )
    assert said[1] == 11  # EAGAIN
    assert 10 < said[0] < 24


async def test_a_server_that_takes_too_much_memory_is_ended_and_the_reason_is_said(prison):
    life = await prison.start(prison.definition(memory_mb=64))
    report = await prison.sandboxes.probe()
    bomb = prison.tell(life, "x = bytearray(200 * 1024 * 1024); result = len(x)")
    if "memory" in report.limits:
        # No control group: the process is refused the memory, and lives or not as it likes.
        with pytest.raises(MeshError):
            await bomb
        return
    with pytest.raises(MeshError):
        await bomb
    assert await life.wait_ended() == "was killed: its sandbox has 64 MiB of memory"


async def test_a_server_gets_no_more_processor_than_its_share(prison):
    report = await prison.sandboxes.probe()
    if "cpu" in report.limits:
        pytest.skip(f"no control group for processors here: {report.limits}")
    life = await prison.start(prison.definition(cpus=0.25))
    said = await prison.tell(
        life,
        "import time\n"
        "until = time.monotonic() + 1; spent = time.process_time()\n"
        "while time.monotonic() < until: pass\n"
        "result = time.process_time() - spent",
    )
    assert said < 0.6


async def test_a_server_does_not_fill_the_disk_or_the_memory_by_files(inside):
    for place in ("/tmp", "/dev/shm"):
        await inside.is_refused(
            f"f = open({place + '/fill'!r}, 'wb')\n"
            "try:\n"
            "    for _ in range(64): f.write(b'x' * 1048576)\n"
            f"finally: os.truncate({place + '/fill'!r}, 0); f.close = None\n"
            "result = 'filled'",
            "ENOSPC",
        )


async def test_a_server_writes_no_file_larger_than_its_limit(prison, tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    life = await prison.start(prison.definition(read_write=(str(shared),), file_mb=1))
    said = await prison.tell(
        life,
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"with open({str(shared / 'big')!r}, 'wb', 0) as f:\n"
        "    for _ in range(4): f.write(b'x' * 1048576)\n"
        "result = 'written'",
    )
    assert said == "refused: EFBIG"
    assert (shared / "big").stat().st_size == 1024 * 1024


async def test_a_server_does_not_open_more_files_than_its_limit(prison):
    life = await prison.start(prison.definition(files=64))
    said = await prison.tell(life, "result = [os.open('/dev/null', 0) for _ in range(200)]")
    assert said == "refused: EMFILE"


# The definition


async def test_a_tenants_server_is_given_no_path_network_variable_or_share_it_may_not_have(
    prison, tmp_path
):
    for options, words in (
        ({"read_only": ("/etc/ssl",)}, "tenant_paths"),
        ({"read_write": ("/usr/lib/x",)}, "tenant_paths"),
        ({"network": "host"}, "tenant_network"),
        ({"environment": ("HOME",)}, "variables of the runner"),
        ({"memory_mb": 1024}, "memory_mb"),
        ({"pids": 1000}, "pids"),
    ):
        definition = msgspec.structs.replace(
            prison.definition(**options),
            tenant="acme",
            args=("-c", "pass"),
        )
        with pytest.raises(MeshError, match=words):
            await prison.start(definition, trusted=False)


async def test_a_tenants_server_does_not_choose_to_run_without_a_sandbox(prison):
    definition = msgspec.structs.replace(
        prison.definition(), tenant="acme", isolation="none", sandbox=None
    )
    with pytest.raises(MeshError, match="may not run without isolation"):
        await prison.start(definition, trusted=False)


async def test_a_tenants_server_does_not_name_a_program_of_the_host_that_is_not_for_tenants(
    prison, tmp_path
):
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    definition = msgspec.structs.replace(
        prison.definition(), tenant="acme", isolation="", sandbox=None, command=str(program)
    )
    with pytest.raises(MeshError, match="tenant_paths"):
        await prison.start(definition, trusted=False)
