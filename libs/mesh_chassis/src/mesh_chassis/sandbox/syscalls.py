"""Numbers of the system calls that no program in a sandbox needs, per processor.

Most of them want rights that a sandboxed program does not have: refusing them anyway keeps the
code behind them, where kernels have their holes, out of reach.
"""

from collections.abc import Mapping

__all__ = ["AARCH64", "DENIED", "MACHINES", "X86_64", "Machine"]

import msgspec


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """One processor as the kernel's filter sees it.

    Attributes:
        audit: value of ``arch`` in the filter's data.
        numbers: of the calls in ``DENIED`` that it has.
        clone: number of ``clone``, whose first argument are the flags.
        clone3: its flags lie in memory, where a filter cannot look.
        ioctl: the second argument is the request.
        socket: the first argument is the family.
        x32: whether numbers above 0x40000000 are a second set of the same calls.
    """

    audit: int
    numbers: Mapping[str, int]
    clone: int
    clone3: int
    ioctl: int
    socket: int
    x32: bool = False


_NEW = {
    # One number everywhere since 5.0.
    "io_uring_setup": 425,
    "io_uring_enter": 426,
    "io_uring_register": 427,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "pidfd_getfd": 438,
    "process_madvise": 440,
    "mount_setattr": 442,
    "quotactl_fd": 443,
    "process_mrelease": 448,
}

X86_64 = Machine(
    audit=0xC000003E,
    clone=56,
    clone3=435,
    ioctl=16,
    socket=41,
    x32=True,
    numbers=_NEW
    | {
        "ptrace": 101,
        "syslog": 103,
        "uselib": 134,
        "vhangup": 153,
        "modify_ldt": 154,
        "pivot_root": 155,
        "_sysctl": 156,
        "adjtimex": 159,
        "chroot": 161,
        "acct": 163,
        "settimeofday": 164,
        "mount": 165,
        "umount2": 166,
        "swapon": 167,
        "swapoff": 168,
        "reboot": 169,
        "sethostname": 170,
        "setdomainname": 171,
        "iopl": 172,
        "ioperm": 173,
        "create_module": 174,
        "init_module": 175,
        "delete_module": 176,
        "get_kernel_syms": 177,
        "query_module": 178,
        "quotactl": 179,
        "nfsservctl": 180,
        "lookup_dcookie": 212,
        "clock_settime": 227,
        "kexec_load": 246,
        "add_key": 248,
        "request_key": 249,
        "keyctl": 250,
        "migrate_pages": 256,
        "unshare": 272,
        "move_pages": 279,
        "perf_event_open": 298,
        "fanotify_init": 300,
        "name_to_handle_at": 303,
        "open_by_handle_at": 304,
        "clock_adjtime": 305,
        "setns": 308,
        "process_vm_readv": 310,
        "process_vm_writev": 311,
        "kcmp": 312,
        "finit_module": 313,
        "kexec_file_load": 320,
        "bpf": 321,
        "userfaultfd": 323,
    },
)

AARCH64 = Machine(
    audit=0xC00000B7,
    clone=220,
    clone3=435,
    ioctl=29,
    socket=198,
    numbers=_NEW
    | {
        "lookup_dcookie": 18,
        "umount2": 39,
        "mount": 40,
        "pivot_root": 41,
        "nfsservctl": 42,
        "chroot": 51,
        "vhangup": 58,
        "quotactl": 60,
        "acct": 89,
        "unshare": 97,
        "kexec_load": 104,
        "init_module": 105,
        "delete_module": 106,
        "clock_settime": 112,
        "syslog": 116,
        "ptrace": 117,
        "reboot": 142,
        "sethostname": 161,
        "setdomainname": 162,
        "settimeofday": 170,
        "adjtimex": 171,
        "add_key": 217,
        "request_key": 218,
        "keyctl": 219,
        "swapon": 224,
        "swapoff": 225,
        "migrate_pages": 238,
        "move_pages": 239,
        "perf_event_open": 241,
        "fanotify_init": 262,
        "name_to_handle_at": 264,
        "open_by_handle_at": 265,
        "clock_adjtime": 266,
        "setns": 268,
        "process_vm_readv": 270,
        "process_vm_writev": 271,
        "kcmp": 272,
        "finit_module": 273,
        "bpf": 280,
        "userfaultfd": 282,
        "kexec_file_load": 294,
    },
)

MACHINES: Mapping[str, Machine] = {"x86_64": X86_64, "aarch64": AARCH64}
"""By the name that ``uname -m`` gives."""

DENIED = frozenset(X86_64.numbers)
"""Calls that are refused with EPERM; some are of one processor only."""
