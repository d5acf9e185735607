import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_proto import buckets
from mcp_proto.buckets import Bucket, key, tenant_kv

FIXED = [value for value in vars(buckets).values() if isinstance(value, Bucket)]


def test_every_bucket_has_one_writer_and_its_own_name() -> None:
    assert len({bucket.name for bucket in FIXED}) == len(FIXED) == 15
    assert all(bucket.stream == f"KV_{bucket.name}" for bucket in FIXED)
    assert all(re.fullmatch(r"[a-zA-Z0-9_-]+", bucket.name) for bucket in FIXED)


def test_a_tenants_bucket_is_named_after_it() -> None:
    assert tenant_kv("acme-1").name == "mesh_t_acme-1"
    for name in ("", "Acme", "a.b", "a*", "x" * 41, "a_b"):
        with pytest.raises(ValueError, match="tenant id"):
            tenant_kv(name)


@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=10),
        min_size=1,
        max_size=3,
    )
)
def test_keys_hold_exactly_their_tokens(names: list[str]) -> None:
    written = key(*names)
    assert re.fullmatch(r"[-/_=.a-zA-Z0-9]+", written)
    assert written.count(".") == len(names) - 1


def test_what_swarms_keep_is_told_from_what_tenants_keep_by_its_tokens() -> None:
    memory = buckets.swarm_memory("acme-1")
    assert memory.name == "mesh_memory_acme-1"
    assert memory.per_key_ttl
    assert buckets.memory_key("swarm_1_a", "a.b", "c d") == "swarm_1_a.a=2Eb.c=20d"
    assert buckets.memory_key("_", "*", ">").count(".") == 2
    written = buckets.swarm_object("acme-1", "swarm_1_a", "x.y")
    assert written == "$O.mesh_swarm_acme-1.C.swarm_1_a.x=2Ey"
    assert buckets.swarm_lease_key("acme", "s").split(".") == ["swarm", "acme", "s"]
    for name in ("", "Acme", "a.b", "a*"):
        with pytest.raises(ValueError, match="tenant id"):
            buckets.swarm_memory(name)
        with pytest.raises(ValueError, match="tenant id"):
            buckets.swarm_objects(name)


def test_the_platform_keeps_its_own_token() -> None:
    assert key("_", "a.b") == "_.a=2Eb"
    with pytest.raises(ValueError, match="empty"):
        key("a", "")
