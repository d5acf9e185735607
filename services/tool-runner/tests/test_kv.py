"""The ``kv`` tools over a store in memory; the real store is tested with a broker."""

import msgspec
import pytest

from tool_runner.core.toolbox import Toolbox, ToolResult
from tool_runner.drivers.storage import VALUE_BYTES_MAX, Page, Stored
from tool_runner.toolsets import kv


class MemoryStorage:
    """``Storage`` without expiry."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, str], tuple[bytes, int, int]] = {}

    async def get(self, tenant: str, key: str) -> Stored | None:
        found = self.values.get((tenant, key))
        return found and Stored(value=msgspec.Raw(found[0]), revision=found[1], created_ms=5)

    async def set(self, tenant: str, key: str, value: bytes, ttl_s: int = 0) -> int:
        self.values[tenant, key] = (value, len(self.values) + 1, ttl_s)
        return self.values[tenant, key][1]

    async def delete(self, tenant: str, key: str) -> bool:
        return self.values.pop((tenant, key), None) is not None

    async def keys(self, tenant: str, prefix: str, limit: int, cursor: str) -> Page:
        keys = sorted(k for t, k in self.values if t == tenant and k.startswith(prefix))
        left = [key for key in keys if key > cursor]
        return Page(keys=tuple(left[:limit]), cursor=left[limit - 1] if len(left) > limit else "")


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
def run(storage):
    toolset = kv.toolset(storage)
    toolbox = Toolbox(tool.spec for tool in toolset.tools)
    handlers = {tool.spec.name: tool.handler for tool in toolset.tools}

    async def call(name: str, arguments: bytes, tenant: str = "acme") -> ToolResult:
        assert toolbox.problem(name, arguments) is None
        return await handlers[name](tenant, msgspec.Raw(arguments))

    return call


async def test_value_comes_back_byte_for_byte(run):
    await run("kv_set", b'{"key":"a","value":{"z":1.50, "a":[ ]}}')
    result = await run("kv_get", b'{"key":"a"}')
    assert bytes(result.structured_content) == (
        b'{"key":"a","found":true,"value":{"z":1.50, "a":[ ]},"revision":1,"createdMs":5}'
    )


async def test_missing_key_is_an_answer_and_no_error(run):
    result = await run("kv_get", b'{"key":"a"}')
    assert msgspec.json.decode(result.structured_content) == {
        "key": "a",
        "found": False,
        "value": None,
    }
    assert not result.is_error


async def test_tenants_do_not_see_each_other(run):
    await run("kv_set", b'{"key":"a","value":1}', "acme")
    assert b'"found":false' in bytes(
        (await run("kv_get", b'{"key":"a"}', "other")).structured_content
    )


async def test_delete_says_whether_there_was_something(run):
    await run("kv_set", b'{"key":"a","value":1}')
    first = await run("kv_delete", b'{"key":"a"}')
    second = await run("kv_delete", b'{"key":"a"}')
    assert b'"deleted":true' in bytes(first.structured_content)
    assert b'"deleted":false' in bytes(second.structured_content)


async def test_list_goes_on_from_its_cursor(run):
    for n in range(5):
        await run("kv_set", b'{"key":"k%d","value":%d}' % (n, n))
    first = msgspec.json.decode((await run("kv_list", b'{"limit":3}')).structured_content)
    assert first["keys"] == ["k0", "k1", "k2"]
    more = msgspec.json.encode({"cursor": first["cursor"], "limit": 3})
    assert msgspec.json.decode((await run("kv_list", more)).structured_content) == {
        "keys": ["k3", "k4"]
    }


async def test_whole_ttl_may_be_written_as_a_decimal(run, storage):
    await run("kv_set", b'{"key":"a","value":1,"ttl":6e1}')
    assert storage.values["acme", "a"][2] == 60


@pytest.mark.parametrize(("size", "fails"), [(VALUE_BYTES_MAX, False), (VALUE_BYTES_MAX + 1, True)])
async def test_value_over_the_limit_is_refused_with_both_figures(run, storage, size, fails):
    value = b'"' + b"x" * (size - 2) + b'"'
    result = await run("kv_set", b'{"key":"a","value":' + value + b"}")
    assert result.is_error is fails
    assert bool(storage.values) is not fails
    if fails:
        assert str(VALUE_BYTES_MAX) in result.content[0].text
