"""The isolation matrix again, with the runners' storage on AWS, and what crosses both backends."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
from tests.aws_bench import AwsBench, aws_bench
from tests.aws_peer import ENVIRONMENT, moto_server
from tests.integration.storage_rig import ACME, OTHER, StorageMesh, storage_mesh

# Collected here, these run against this module's ``mesh``.
from tests.integration.test_storage_isolation import (  # noqa: F401
    test_no_name_reaches_what_another_tenant_stored,
    test_no_uri_cursor_or_position_leads_to_another_tenant,
    test_no_write_or_deletion_changes_what_another_tenant_stored,
)

from tool_runner.config import StorageConfig

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def aws_url() -> Iterator[str]:
    with moto_server() as url:
        yield url


@pytest_asyncio.fixture
async def aws(aws_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AwsBench]:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    async with aws_bench(aws_url) as bench:
        yield bench


@pytest_asyncio.fixture
async def mesh(aws: AwsBench, broker, connect_bus, tmp_path: Path) -> AsyncIterator[StorageMesh]:
    storage = StorageConfig(backend="aws", aws=aws.config)
    async with storage_mesh(connect_bus, tmp_path, runners=2, storage=storage) as made:
        yield made


async def test_what_a_tool_stores_is_on_aws_under_its_tenant(
    mesh: StorageMesh, aws: AwsBench
) -> None:
    for tenant in (ACME, OTHER):
        caller = mesh.caller(tenant)
        await caller.use("kv_set", key="k", value={"of": tenant})
        await caller.use("artifacts_put", key="a/b", content=f"of {tenant}")
        await caller.use("events_send", topic="done", data=tenant)
        (item,) = await aws.items(tenant)
        assert msgspec.json.decode(item["value"]["B"]) == {"of": tenant}
        assert (await caller.use("artifacts_get", key="a/b"))["text"] == f"of {tenant}"
        page = await caller.use("events_read")
        assert [one["data"] for one in page["events"]] == [tenant]
    assert await aws.objects() == [f"{ACME}/a-2fb", f"{OTHER}/a-2fb"]


async def test_fault_of_aws_reaches_the_caller_as_one_clear_error(
    mesh: StorageMesh, aws: AwsBench
) -> None:
    await aws.drop_table()
    caller = mesh.caller(ACME)
    answer = await caller.ask("tools/call", name="kv_get", arguments={"key": "k"})
    assert "AWS DynamoDB does not have what is configured" in str(answer)
    assert "not_executed" in str(answer)
