import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_proto.contracts.tenant_auth import (
    DELEGATION_DEPTH_MAX,
    CallerContext,
    Grant,
    GrantRecord,
    Identity,
)
from mcp_proto.errors import ErrorKind, MeshError
from tenant_auth.core.grants import GRANT_MAX_S, Submitter, delegated, inherited, new_id

NOW = 1_000_000
HOUR = 3_600_000
ANN = Identity(
    tenant="acme",
    principal="ann",
    roles=("User",),
    grant=Grant(permissions=frozenset({"ReadKV", "CallTools"})),
    credential_id="login:l1",
)


def context(*chain: str, gid: str = "") -> CallerContext:
    return CallerContext(
        tid="acme", sub="ann", roles=("User",), exp=NOW + 1, iss="g", chain=chain, gid=gid
    )


def made(
    asked: CallerContext,
    *,
    parent: GrantRecord | None = None,
    task: str = "task_1",
    deadline_ms: int = NOW + HOUR,
    expires_ms: int = 0,
) -> GrantRecord:
    submitter = Submitter(identity=ANN, cid="key:k1", expires_ms=expires_ms)
    return delegated(
        asked,
        submitter,
        parent,
        grant_id=f"grant_of_{task}",
        task=task,
        deadline_ms=deadline_ms,
        now_ms=NOW,
    )


def test_task_inherits_the_key_behind_a_login_and_no_permission() -> None:
    record = made(context())
    assert (record.cid, record.chain, record.parents) == ("key:k1", ("task_1",), ())
    assert record.expires_ms == NOW + HOUR
    assert "CallTools" not in str(record)


@given(st.integers(1, 10**9), st.integers(0, 10**9), st.integers(1, 10**9))
def test_grant_outlives_neither_its_task_nor_its_key_nor_its_parent(
    deadline: int, key: int, parent: int
) -> None:
    before = GrantRecord(
        id="grant_0", tenant="acme", principal="ann", cid="key:k1", roles=("User",),
        chain=("task_0",), expires_ms=NOW + parent,
    )  # fmt: skip
    record = made(
        context("task_0", gid="grant_0"),
        parent=before,
        deadline_ms=NOW + deadline,
        expires_ms=NOW + key if key else 0,
    )
    bounds = [deadline, parent, GRANT_MAX_S * 1000, *([key] if key else [])]
    assert record.expires_ms == NOW + min(bounds)
    assert record.parents == ("grant_0",)


def test_tasks_that_make_tasks_go_so_deep_and_no_deeper() -> None:
    record: GrantRecord | None = None
    asked = context()
    for depth in range(1, DELEGATION_DEPTH_MAX + 1):
        record = made(asked, parent=record, task=f"task_{depth}")
        assert len(record.chain) == depth
        asked = context(*record.chain, gid=record.id)
    assert record is not None
    assert record.parents == ("grant_of_task_1", "grant_of_task_2", "grant_of_task_3")
    with pytest.raises(MeshError, match="4 deep") as caught:
        made(asked, parent=record, task="task_5")
    assert caught.value.kind is ErrorKind.DENIED
    assert caught.value.data["reason"] == "delegation_depth"


def test_task_in_its_own_name_is_refused() -> None:
    with pytest.raises(MeshError) as caught:
        made(context("task_1", "task_2"), task="task_1")
    assert caught.value.kind is ErrorKind.DENIED
    assert caught.value.data["reason"] == "delegation_cycle"


@pytest.mark.parametrize(
    ("task", "deadline_ms"), [("", NOW + 1), ("t" * 200, NOW + 1), ("t", NOW), ("t", 0), ("t", -1)]
)
def test_grant_without_a_task_or_a_future_is_refused(task: str, deadline_ms: int) -> None:
    with pytest.raises(MeshError) as caught:
        made(context(), task=task, deadline_ms=deadline_ms)
    assert caught.value.kind is ErrorKind.PARAMS


def test_exchange_says_what_the_submitter_may_now() -> None:
    record = made(context())
    less = Identity(
        tenant="acme", principal="ann", roles=("User",), credential_id="key:k1",
        grant=Grant(permissions=frozenset({"ReadKV"})),
    )  # fmt: skip
    found = inherited(record, less, "tenant-auth-1")
    assert found is not None
    assert found.perms == ("ReadKV",)
    assert (found.cid, found.gid, found.chain) == ("key:k1", record.id, ("task_1",))
    assert found.exp == record.expires_ms


@pytest.mark.parametrize("roles", [("Viewer",), ("User", "Admin"), ("Admin",)])
def test_exchange_ends_with_the_roles_of_the_submission(roles: tuple[str, ...]) -> None:
    now = Identity(
        tenant="acme", principal="ann", roles=roles, grant=Grant(), credential_id="key:k1"
    )
    assert inherited(made(context()), now, "t") is None


def test_ids_of_grants_fit_into_one_token() -> None:
    assert new_id(bytes(16)) == "grant_" + "0" * 32
