"""The command line of QEMU for one small machine: pure, and in one place, because each word counts.

No network card, no disk, no clock but the processor's: one serial line for the console and two
virtio ports, of which one carries the link's streams and one the handshake. Measured reasons stand
beside the words that look odd.
"""

from typing import Literal

import msgspec

__all__ = ["BOOT_S", "OVERHEAD_MIB", "Accel", "MicroVm", "arguments", "kernel_words"]

Accel = Literal["kvm", "tcg"]

OVERHEAD_MIB: dict[Accel, int] = {"kvm": 128, "tcg": 224}
"""What QEMU takes beside the machine's memory."""
BOOT_S: dict[Accel, float] = {"kvm": 5.0, "tcg": 30.0}
"""From start to hello; emulated it takes 4 to 5 s, and several times that on a busy host."""
TB_MIB = 64
"""Translated code that is kept; 64 boots as fast as 128."""
MODULES = "virtio_console"
LINK = "serial:/dev/virtio-ports/nats.0"
CONTROL = "serial:/dev/virtio-ports/ctl.0"


class MicroVm(msgspec.Struct, frozen=True, kw_only=True):
    """One machine, with paths as QEMU sees them.

    Attributes:
        binary: QEMU.
        accel: hardware or emulation.
        memory_mib: of the machine.
        vcpu: processors.
        kernel: ELF kernel. ``initrd``: its initramfs.
        image: digest, told to the guest.
        tsc_khz: rate of the host's time stamp counter; 0 = the kernel finds it out.
        link: socket that the link's port is led to. ``control``: that of the handshake.
        monitor: socket on which the driver waits for QEMU's monitor.
        memory: file that is the machine's memory; "" = none.
        shared: the machine writes into that file (it becomes a template), else it has copies of
            what it changes.
        incoming: it starts from a template's state, which the monitor will be told of.
    """

    binary: str
    accel: Accel
    memory_mib: int
    vcpu: int
    kernel: str
    initrd: str
    image: str
    tsc_khz: int
    link: str
    control: str
    monitor: str
    memory: str = ""
    shared: bool = False
    incoming: bool = False


def kernel_words(machine: MicroVm) -> list[str]:
    """The kernel's command line; everybody in the guest can read it, so no secret stands there."""
    words = [
        "console=ttyS0", "quiet", "loglevel=0", "panic=-1", "reboot=t",
        "random.trust_cpu=on", "cryptomgr.notests",
    ]  # fmt: skip
    if machine.accel == "tcg":
        # The jail is the wall here, so what protects a real processor only costs 0.3 s.
        words += ["nokaslr", "mitigations=off"]
        if machine.tsc_khz:
            # Without it the kernel measures the counter against a timer that an emulated machine
            # on a busy host does not have in time, and waits for ever.
            words += ["tsc=reliable", f"tsc_early_khz={machine.tsc_khz}"]
    words += [f"mods={MODULES}", f"link={LINK}", f"control={CONTROL}", f"image={machine.image}"]
    return words


def arguments(machine: MicroVm) -> list[str]:
    """Program and arguments."""
    accel = f"tcg,tb-size={TB_MIB}" if machine.accel == "tcg" else "kvm"
    cpu = "qemu64,+rdrand" if machine.accel == "tcg" else "host"
    board, memory = "microvm", list[str]()
    if machine.memory:
        board = "microvm,memory-backend=m0"
        share = "on" if machine.shared else "off"
        size = f"size={machine.memory_mib}M,mem-path={machine.memory}"
        memory = ["-object", f"memory-backend-file,id=m0,{size},share={share}"]
    return [
        machine.binary, *memory, "-M", board, "-accel", accel, "-cpu", cpu,
        "-m", f"{machine.memory_mib}", "-smp", f"{machine.vcpu}",
        "-nodefaults", "-no-user-config", "-nographic", "-no-reboot",
        "-chardev", "stdio,id=s0,signal=off", "-serial", "chardev:s0",
        "-kernel", machine.kernel, "-initrd", machine.initrd,
        "-append", " ".join(kernel_words(machine)),
        "-device", "virtio-serial-device",
        # QEMU dials the sockets, and dials again: who listens there may be replaced.
        "-chardev", f"socket,id=l0,path={machine.link},reconnect=1",
        "-device", "virtserialport,chardev=l0,name=nats.0",
        "-chardev", f"socket,id=c0,path={machine.control},reconnect=1",
        "-device", "virtserialport,chardev=c0,name=ctl.0",
        "-chardev", f"socket,id=q0,path={machine.monitor},reconnect=1",
        "-mon", "chardev=q0,mode=control",
        "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        *(("-incoming", "defer") if machine.incoming else ()),
    ]  # fmt: skip
