"""Which libraries a program needs, from its own header, so that none is there for nothing."""

import struct

__all__ = ["is_elf", "needed", "vmlinux"]

_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_NEEDED, _DT_STRTAB = 1, 5
_LZ4_LEGACY = b"\x02\x21\x4c\x18"


def is_elf(data: bytes) -> bool:
    return data[:5] == b"\x7fELF\x02"


def needed(data: bytes) -> list[str]:
    """Names of the libraries that a 64-bit ELF file asks for."""
    offset, size, count = (
        struct.unpack_from("<Q", data, 0x20)[0],
        *struct.unpack_from("<HH", data, 0x36),
    )
    if not count:
        return []  # an object file, such as a kernel module
    loads: list[tuple[int, int, int]] = []
    dynamic = (0, 0)
    for at in range(offset, offset + size * count, size):
        kind, _, where, address, _, length = struct.unpack_from("<IIQQQQ", data, at)
        if kind == _PT_LOAD:
            loads.append((address, where, length))
        elif kind == _PT_DYNAMIC:
            dynamic = (where, length)
    names: list[int] = []
    strings = 0
    for at in range(dynamic[0], sum(dynamic), 16):
        tag, value = struct.unpack_from("<QQ", data, at)
        if tag == _DT_NEEDED:
            names.append(value)
        elif tag == _DT_STRTAB:
            strings = next(w + value - a for a, w, n in loads if a <= value < a + n)
        elif tag == 0:
            break
    return [data[strings + one : data.index(b"\0", strings + one)].decode() for one in names]


def vmlinux(image: bytes) -> bytes:
    """The LZ4 payload of a bzImage, which unpacked is the ELF kernel.

    Raises:
        ValueError: the kernel is packed otherwise.
    """
    start = (image[0x1F1] + 1) * 512 + struct.unpack_from("<I", image, 0x248)[0]
    length: int = struct.unpack_from("<I", image, 0x24C)[0]
    payload = image[start : start + length]
    if payload[:4] != _LZ4_LEGACY:
        raise ValueError("the kernel of this distribution is not packed with LZ4")
    return payload[:-4]  # the last four bytes are the unpacked size
