"""JSON pointers (RFC 6901) into decoded values."""

from mesh_agents.contract import Json

__all__ = ["Missing", "at", "placed"]


class Missing(LookupError):  # noqa: N818 - an answer, not a fault
    """Nothing stands there; the text says how far the way went."""


def at(value: Json, pointer: str) -> Json:
    """What stands at a pointer; "" = the whole.

    Raises:
        Missing: nothing does, or the pointer is none.
    """
    if not pointer:
        return value
    if not pointer.startswith("/"):
        raise Missing(f"{pointer} is no JSON pointer")
    way = ""
    for token in pointer[1:].split("/"):
        name = token.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict) and name in value:
            value = value[name]
        elif (
            isinstance(value, list)
            and name.isascii()
            and name.isdigit()
            and (int(name) < len(value) and (name == "0" or name[0] != "0"))
        ):
            value = value[int(name)]
        else:
            raise Missing(f"nothing at {way}/{token}")
        way += f"/{token}"
    return value


def placed(pointer: str, value: Json) -> Json:
    """Objects around a value, so that it stands at the pointer."""
    for token in reversed(pointer.split("/")[1:]):
        value = {token.replace("~1", "/").replace("~0", "~"): value}
    return value
