"""Text of tenants as names in S3: reversible, in the same order, and never a path.

Letters and digits stay. Every other byte becomes a mark and two hexadecimal digits, and the mark
is chosen so that it sorts where the byte does: listing encoded names lists the texts in their
order, and the encoding of a prefix is a prefix of the encoding. No ``/``, ``.`` or ``%`` comes
out, so ``..``, an encoded separator or another tenant's prefix is ordinary text.
"""

__all__ = ["decoded", "encoded"]


def encoded(text: str) -> str:
    """The name of a text; "" for "".

    Raises:
        ValueError: it is no Unicode text (a lone surrogate).
    """
    return "".join(map(_NAMES.__getitem__, text.encode()))


def decoded(name: str) -> str:
    """Invert ``encoded``.

    Raises:
        ValueError: not something ``encoded`` writes.
    """
    out = bytearray()
    at = 0
    while at < len(name):
        width = 1 if name[at].isalnum() else 3
        byte = _BYTES.get(name[at : at + width])
        if byte is None:
            raise ValueError("not an encoded name")
        out.append(byte)
        at += width
    return out.decode()


def _name(byte: int) -> str:
    if byte < 0x80 and chr(byte).isalnum():
        return chr(byte)
    if byte < ord("0"):
        mark = "-"
    elif byte < ord("A"):
        mark = "="
    elif byte < ord("a"):
        mark = "_"
    else:
        mark = "~"
    return f"{mark}{byte:02x}"


_NAMES = tuple(_name(byte) for byte in range(256))
_BYTES = {name: byte for byte, name in enumerate(_NAMES)}
