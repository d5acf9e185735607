"""The filter of system calls, as classic BPF, made here so that no library is needed.

Refused calls get an error and no signal: a program that only tries, and has another way, goes on.
``clone3`` answers ENOSYS, because its flags lie in memory that a filter cannot read; the C library
then falls back to ``clone``, whose flags are looked at. Another processor's calls kill.
"""

import errno
import struct

from mesh_chassis.sandbox.syscalls import MACHINES, Machine

__all__ = ["FAMILIES", "filter_for", "is_supported", "program"]

FAMILIES = (1, 2, 10, 16)
"""Address families that may be opened: unix, inet, inet6, netlink (which the resolver asks).

The others are seldom used code, and vsock would reach the hypervisor past the network namespace.
"""
NAMESPACES = 0x7E020000
"""CLONE_NEW…: mount, cgroup, uts, ipc, user, pid, net (a time one cannot be had by ``clone``)."""
TERMINAL_IOCTLS = (0x5412, 0x541C)
"""TIOCSTI and TIOCLINUX put words into the mouth of whoever sits at the terminal."""

_LOAD, _RETURN = 0x20, 0x06
_EQUAL, _GREATER_OR_EQUAL, _SET = 0x15, 0x35, 0x45
_NUMBER, _ARCH, _ARG0, _ARG1 = 0, 4, 16, 24
_ALLOW = 0x7FFF0000
_KILL = 0x80000000
_ERRNO = 0x00050000
_X32 = 0x40000000


def is_supported(machine: str) -> bool:
    """Whether there is a filter for a processor (``uname -m``)."""
    return machine in MACHINES


def filter_for(machine: str) -> bytes:
    """The filter as bubblewrap takes it: an array of ``struct sock_filter``.

    Raises:
        KeyError: none is known for this processor.
    """
    rows = program(MACHINES[machine])
    return b"".join(struct.pack("=HBBI", *row) for row in rows)


def program(machine: Machine) -> list[tuple[int, int, int, int]]:
    """The instructions: code, jump if true, jump if false, operand."""
    rows = [
        (_LOAD, 0, 0, _ARCH),
        (_EQUAL, 1, 0, machine.audit),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
    ]
    if machine.x32:
        rows += [(_GREATER_OR_EQUAL, 0, 1, _X32), _refuse(errno.ENOSYS)]
    rows += [(_EQUAL, 0, 1, machine.clone3), _refuse(errno.ENOSYS)]
    for number in sorted(machine.numbers.values()):
        rows += [(_EQUAL, 0, 1, number), _refuse(errno.EPERM)]
    # An argument is 64 bits, its lower half first; what is looked at is 32 bits wide in the kernel.
    rows += [
        (_EQUAL, 0, 4, machine.clone),
        (_LOAD, 0, 0, _ARG0),
        (_SET, 0, 1, NAMESPACES),
        _refuse(errno.EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]
    requests = [(_EQUAL, 0, 1, one) for one in TERMINAL_IOCTLS]
    rows += [(_EQUAL, 0, 2 * len(requests) + 2, machine.ioctl), (_LOAD, 0, 0, _ARG1)]
    for row in requests:
        rows += [row, _refuse(errno.EPERM)]
    rows.append((_RETURN, 0, 0, _ALLOW))
    rows += [(_EQUAL, 0, 2 * len(FAMILIES) + 2, machine.socket), (_LOAD, 0, 0, _ARG0)]
    for family in FAMILIES:
        rows += [(_EQUAL, 0, 1, family), (_RETURN, 0, 0, _ALLOW)]
    rows += [_refuse(errno.EAFNOSUPPORT), (_RETURN, 0, 0, _ALLOW)]
    return rows


def _refuse(number: int) -> tuple[int, int, int, int]:
    return (_RETURN, 0, 0, _ERRNO | number)
