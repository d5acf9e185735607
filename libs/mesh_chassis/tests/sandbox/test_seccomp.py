"""The filter of system calls, run by a machine of a dozen lines, for both processors."""

import errno
import struct

import pytest

from mesh_chassis.sandbox.seccomp import filter_for, is_supported, program
from mesh_chassis.sandbox.syscalls import AARCH64, DENIED, MACHINES, X86_64, Machine

ALLOW, KILL = 0x7FFF0000, 0x80000000
MUST = {
    "acct",
    "add_key",
    "bpf",
    "delete_module",
    "finit_module",
    "fsopen",
    "init_module",
    "io_uring_enter",
    "io_uring_register",
    "io_uring_setup",
    "kexec_load",
    "keyctl",
    "mount",
    "mount_setattr",
    "move_mount",
    "open_by_handle_at",
    "open_tree",
    "perf_event_open",
    "pivot_root",
    "process_vm_readv",
    "process_vm_writev",
    "ptrace",
    "quotactl",
    "reboot",
    "request_key",
    "setns",
    "swapon",
    "umount2",
    "unshare",
    "userfaultfd",
    "fsconfig",
    "fsmount",
    "fspick",
    "kexec_file_load",
    "swapoff",
}


def judge(machine: Machine, number: int, *args: int, arch: int | None = None) -> int:
    """What the kernel would do with a call."""
    data = struct.pack("<iI", number - (1 << 32 if number >= 1 << 31 else 0), arch or machine.audit)
    data += struct.pack("<7Q", 0, *args, *(0,) * (6 - len(args)))
    rows, at, value = program(machine), 0, 0
    while True:
        code, yes, no, operand = rows[at]
        at += 1
        if code == 0x06:
            return operand
        if code == 0x20:
            value = int.from_bytes(data[operand : operand + 4], "little")
        else:
            true = {0x15: value == operand, 0x35: value >= operand, 0x45: bool(value & operand)}
            at += yes if true[code] else no


def refused(number: int) -> int:
    return 0x00050000 | number


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
def test_every_call_of_the_list_is_refused_and_the_usual_ones_are_not(machine):
    for number in machine.numbers.values():
        assert judge(machine, number) == refused(errno.EPERM)
    listed = {*machine.numbers.values(), machine.clone3}
    for number in set(range(330)) - listed - {machine.clone, machine.socket, machine.ioctl}:
        assert judge(machine, number) == ALLOW


def test_what_the_specification_names_is_on_both_lists():
    assert MUST <= set(AARCH64.numbers) <= DENIED
    assert {"iopl", "ioperm"} <= set(X86_64.numbers)


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
def test_calls_whose_arguments_decide_are_judged_by_them(machine):
    assert judge(machine, machine.clone3) == refused(errno.ENOSYS)
    assert judge(machine, machine.clone, 0x3D0F00) == ALLOW  # a thread
    for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert judge(machine, machine.clone, flag | 17) == refused(errno.EPERM)
    assert judge(machine, machine.ioctl, 0, 0x5401) == ALLOW
    for request in (0x5412, 0x541C, 0x100005412):
        assert judge(machine, machine.ioctl, 0, request) == refused(errno.EPERM)
    for family in (1, 2, 10, 16):
        assert judge(machine, machine.socket, family) == ALLOW
    for family in (17, 38, 40, 0x28 | 1 << 40):
        assert judge(machine, machine.socket, family) == refused(errno.EAFNOSUPPORT)


def test_calls_of_another_processor_kill_and_those_of_x32_do_not_exist():
    assert judge(X86_64, 0, arch=0x40000003) == KILL
    assert judge(X86_64, 0x40000000 | 101) == refused(errno.ENOSYS)
    assert judge(AARCH64, 117, arch=X86_64.audit) == KILL


def test_the_filter_is_an_array_that_the_kernel_takes():
    for name in MACHINES:
        rows = filter_for(name)
        assert len(rows) % 8 == 0
        assert len(rows) // 8 < 4096
        assert is_supported(name)
    assert not is_supported("pdp11")
