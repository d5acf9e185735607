import hashlib
import random

from mcp_proto.errors import MeshError
from mesh_chassis.bus.offers import Offer, Parts

BODY = bytes(range(256)) * 5


def pieces() -> Parts:
    view = memoryview(BODY)
    return Parts((BODY[:3], view[3:700], b"", view[700:]))


def test_range_is_cut_from_whichever_pieces_hold_it() -> None:
    parts = pieces()
    assert len(parts) == len(BODY)
    assert bytes(parts) == BODY
    for start in range(0, len(BODY), 37):
        for end in range(start, len(BODY), 91):
            assert parts.cut(start, end) == BODY[start:end]


def test_digest_comes_with_the_last_range_whatever_the_order_of_asking() -> None:
    ranges = [(at, 100) for at in range(0, len(BODY), 100)]
    for seed in range(20):
        order = [*ranges, *random.Random(seed).choices(ranges, k=5)]
        if seed:
            random.Random(seed).shuffle(order)
        offer = Offer(pieces(), "acme", 0.0)
        got: dict[int, bytes] = {}
        for offset, length in order:

            def taken(
                chunk: bytes,
                digest: str,
                failure: MeshError | None,
                offset: int = offset,
                got: dict[int, bytes] = got,
            ) -> None:
                assert failure is None
                last = offset + len(chunk) == len(BODY)
                assert digest == (hashlib.sha256(BODY).hexdigest() if last else "")
                got[offset] = chunk

            offer.ask(offset, length, taken)
        assert b"".join(got[at] for at in sorted(got)) == BODY
