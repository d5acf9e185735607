"""Catalogues become keys and come back the same, in any order of arrival."""

import itertools
import random

import msgspec
import pytest

from mcp_proto import catalogs
from mcp_proto.catalogs import Assembler, Head
from mcp_proto.contracts.registry import Catalog, CatalogTool
from mcp_proto.errors import ErrorKind, MeshError


def catalog(*, tools: int = 1, pad: int = 0, tenant: str = "_", server: str = "notes") -> Catalog:
    made = Catalog(
        tenant=tenant,
        server=server,
        tools=tuple(
            CatalogTool(
                name=f"t{n}",
                definition=msgspec.Raw(b'{"name":"t%d" ,  "description":"%s"}' % (n, b"x" * pad)),
            )
            for n in range(tools)
        ),
    )
    return msgspec.structs.replace(made, hash=catalogs.catalog_hash(made))


def test_hash_ignores_tenant_and_old_hash_and_sees_everything_else() -> None:
    one = catalog()
    assert catalogs.catalog_hash(one) == one.hash
    moved = msgspec.structs.replace(one, tenant="acme", hash="")
    assert catalogs.catalog_hash(moved) == one.hash
    for change in (
        {"server": "other"},
        {"prefixed": False},
        {"tools": ()},
        {"instructions": "i"},
        {"capabilities": msgspec.Raw(b'{"tools":{}}')},
        {"single_instance": True},
    ):
        assert catalogs.catalog_hash(msgspec.structs.replace(one, **change)) != one.hash


def test_hash_is_the_same_after_a_trip_through_bytes() -> None:
    one = catalog(tools=3, pad=5)
    back = msgspec.json.decode(msgspec.json.encode(one), type=Catalog)
    assert catalogs.catalog_hash(back) == one.hash


def test_small_catalogue_is_one_key() -> None:
    one = catalog(tenant="acme", server="a.b")
    stored = catalogs.encode_catalog(one)
    assert stored.key == "acme.a=2Eb"
    assert stored.parts == ()
    change = Assembler().feed(stored.key, stored.head)
    assert change is not None
    assert change.catalog == one


def test_large_catalogue_comes_back_whatever_the_order() -> None:
    one = catalog(tools=3, pad=400_000)
    stored = catalogs.encode_catalog(one)
    assert len(stored.parts) == 3
    assert all(len(value) <= catalogs.PART_BYTES_MAX for _, value in stored.parts)
    assert len(stored.head) < 1000
    entries = [(stored.key, stored.head), *stored.parts]
    for order in itertools.permutations(entries):
        view = Assembler()
        changes = [view.feed(key, value) for key, value in order]
        assert [change is not None for change in changes] == [False, False, False, True]
        assert changes[-1] is not None
        assert changes[-1].catalog == one


def test_new_version_replaces_the_old_one_only_when_whole() -> None:
    view = Assembler()
    old = catalogs.encode_catalog(catalog(tools=2, pad=300_000))
    new = catalogs.encode_catalog(catalog(tools=3, pad=300_000))
    for key, value in (*old.parts, (old.key, old.head)):
        view.feed(key, value)
    assert view.feed(new.key, new.head) is None
    assert [view.feed(k, v) is not None for k, v in new.parts] == [False, False, True]
    assert all(view.feed(key, None) is None for key, _ in old.parts)


def test_deleted_head_says_that_the_server_is_gone() -> None:
    view = Assembler()
    change = view.feed("_.notes", None)
    assert change is not None
    assert (change.tenant, change.server, change.catalog) == ("_", "notes", None)


def test_damaged_values_are_counted_and_change_nothing() -> None:
    view = Assembler()
    stored = catalogs.encode_catalog(catalog(tools=3, pad=400_000))
    for key, value in stored.parts:
        view.feed(key, value[:-1] + b"!")
    assert view.feed(stored.key, stored.head) is None
    assert view.feed("_.notes", b"\xff") is None
    assert view.feed("_.notes", b"[]") is None
    other = catalogs.encode_catalog(catalog(server="else"))
    assert view.feed("_.notes", other.head) is None
    assert view.unreadable == 4


def test_keys_of_others_are_ignored() -> None:
    view = Assembler()
    for key in ("_", "a.b.c", "a.b.c.d", "a b.c", "_.x=2"):
        assert view.feed(key, b"{}") is None
        assert catalogs.parse_key(key) is None
    assert view.unreadable == 0


def test_head_that_names_too_many_parts_is_refused() -> None:
    head = Head(parts=10_000, digest="0" * 16, sha256="0" * 64, size=1)
    with pytest.raises(ValueError, match="too many parts"):
        catalogs.decode_head(msgspec.json.encode(head))


def test_catalogue_above_the_limit_is_refused() -> None:
    with pytest.raises(MeshError) as caught:
        catalogs.encode_catalog(catalog(tools=9, pad=1024 * 1024))
    assert caught.value.kind is ErrorKind.TOO_LARGE


def test_random_streams_of_versions_end_at_the_last_one() -> None:
    rng = random.Random(7)
    versions = [catalog(tools=n, pad=rng.choice((10, 260_000))) for n in range(1, 6)]
    view = Assembler()
    seen: list[str] = []
    for one in versions:
        stored = catalogs.encode_catalog(one)
        entries = [*stored.parts, (stored.key, stored.head)]
        rng.shuffle(entries)
        for key, value in entries:
            change = view.feed(key, value)
            if change is not None and change.catalog is not None:
                seen.append(change.catalog.hash)
    assert seen == [one.hash for one in versions]
