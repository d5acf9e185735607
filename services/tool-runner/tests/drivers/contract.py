"""What every storage driver must do, whatever technology is behind it.

Plain coroutine functions over a ``Bench``, so that each backend's tests run the very same list:

    contract = import_module("services.tool-runner.tests.drivers.contract")

    @pytest.mark.parametrize("check", contract.VALUES, ids=contract.title)
    async def test_values(bench, check):
        await check(bench)

Each check works in tenants of its own, so that all may share one store.
"""

from tests.storage_contract.artifacts import ARTIFACTS
from tests.storage_contract.bench import Bench, Check, Stores, fresh_tenant, title
from tests.storage_contract.events import EVENTS
from tests.storage_contract.values import VALUES

__all__ = ["ARTIFACTS", "EVENTS", "VALUES", "Bench", "Check", "Stores", "fresh_tenant", "title"]
