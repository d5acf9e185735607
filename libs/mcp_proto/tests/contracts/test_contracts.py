import msgspec
import pytest

from mcp_proto import subjects
from mcp_proto.broker_rights import rights_of
from mcp_proto.contracts import Operation, registry, tenant_auth

OPERATIONS = [
    value
    for module in (registry, tenant_auth)
    for value in vars(module).values()
    if isinstance(value, Operation)
]


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda op: f"{op.service}.{op.name}")
def test_an_operation_has_a_subject_its_service_hears(
    operation: Operation[msgspec.Struct, msgspec.Struct],
) -> None:
    parsed = subjects.parse(operation.subject)
    assert (parsed.tenant, parsed.names) == ("_", (operation.service, operation.name))
    heard = {right.split(" ")[0] for right in rights_of(operation.service, "x-1").subscribe}
    assert subjects.service(operation.service, subjects.ANY) in heard
    msgspec.json.Decoder(operation.params)
    msgspec.json.Decoder(operation.result)


def test_no_two_operations_share_a_subject() -> None:
    assert len({operation.subject for operation in OPERATIONS}) == len(OPERATIONS) >= 15


def test_a_caller_context_survives_its_token() -> None:
    context = tenant_auth.CallerContext(
        tid="acme", sub="ann", roles=("User",), exp=5, iss="gateway-1", perms=("ReadKV",)
    )
    assert msgspec.json.decode(msgspec.json.encode(context), type=type(context)) == context


def test_a_catalogue_keeps_definitions_byte_for_byte() -> None:
    raw = b'{"name":"t", "inputSchema": {"type":"object","x":1.0}}'
    catalog = registry.Catalog(
        tenant="_",
        server="s",
        tools=(registry.CatalogTool(name="t", definition=msgspec.Raw(raw)),),
    )
    stored = msgspec.json.decode(msgspec.json.encode(catalog), type=registry.Catalog)
    assert bytes(stored.tools[0].definition) == raw
    assert stored.prefixed
