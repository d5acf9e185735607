import pytest

from mcp_proto import broker_rights, buckets, subjects
from mcp_proto.broker_rights import Rights, rights_of


def covers(pattern: str, subject: str) -> bool:
    wanted, tokens = pattern.split("."), subject.split(".")
    for index, token in enumerate(wanted):
        if token == ">":
            return len(tokens) > index
        if index >= len(tokens) or token not in {"*", tokens[index]}:
            return False
    return len(wanted) == len(tokens)


def may_publish(rights: Rights, subject: str) -> bool:
    return any(covers(p, subject) for p in rights.publish) and not any(
        covers(p, subject) for p in rights.publish_deny
    )


def may_subscribe(rights: Rights, subject: str) -> bool:
    return any(covers(p.split(" ")[0], subject) for p in rights.subscribe)


OWNERS = {
    buckets.CATALOG: "registry",
    buckets.SERVERS: "registry",
    buckets.CONFIG: "tenant-auth",
    buckets.KEYS: "tenant-auth",
    buckets.LOGINS: "tenant-auth",
    buckets.SESSIONS: "gateway",
}


@pytest.mark.parametrize("service", broker_rights.SERVICES)
def test_a_bucket_is_written_by_its_owner_alone(service: str) -> None:
    rights = rights_of(service, f"{service}-1")
    for bucket, owner in OWNERS.items():
        assert may_publish(rights, f"$KV.{bucket.name}.a.b") is (service == owner), bucket.name
        assert may_publish(rights, f"$JS.API.STREAM.CREATE.{bucket.stream}") is (service == owner)
        assert not may_publish(rights, f"$JS.API.STREAM.DELETE.{bucket.stream}")


@pytest.mark.parametrize("service", broker_rights.SERVICES)
def test_a_service_hears_only_its_own_inbox(service: str) -> None:
    rights = rights_of(service, f"{service}-1")
    assert may_subscribe(rights, broker_rights.inbox_prefix(service, f"{service}-1") + ".x")
    assert not may_subscribe(rights, broker_rights.inbox_prefix(service, f"{service}-2") + ".x")
    assert may_publish(rights, f"$KV.mesh_instances.{service}.{service}-1")
    assert may_publish(rights, f"$KV.mesh_instances.{service}.{service}-2") is (
        service == "registry"
    )


def test_calls_go_from_gateways_to_runners() -> None:
    gateway, runner = rights_of("gateway", "g"), rights_of("tool-runner", "r")
    call = subjects.call("acme", "notes", "get")
    assert may_publish(gateway, call)
    assert not may_subscribe(gateway, call)
    assert may_subscribe(runner, call)
    assert not may_publish(runner, call)


def test_a_client_stays_in_its_tenant() -> None:
    client = broker_rights.client_rights("acme")
    assert may_publish(client, subjects.call("acme", "notes", "get"))
    assert not may_publish(client, subjects.call("other", "notes", "get"))
    assert not may_publish(client, subjects.service("tenant-auth", "key-create"))
    assert not may_publish(client, "$KV.mesh_config.x")
    assert not may_subscribe(client, "mesh.v1.other.evt.updated.a")


def test_a_stdio_edge_hears_nobodys_events() -> None:
    edge = rights_of("stdio", "stdio-1")
    assert may_publish(edge, subjects.gateway("acme", "tools/list"))
    assert not may_subscribe(edge, subjects.event("acme", "list_changed", "notes"))


def test_an_unknown_service_has_no_rights() -> None:
    with pytest.raises(KeyError):
        rights_of("nobody", "n-1")
