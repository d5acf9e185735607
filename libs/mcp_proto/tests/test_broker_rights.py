import pytest

from mcp_proto import broker_rights, buckets, subjects
from mcp_proto.broker_rights import Rights, rights_of
from mcp_proto.contracts import machine_tokens, provision, tasks, vm_spawner


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
    buckets.SWARMS: "swarm-coordinator",
    buckets.VMS: "vm-spawner",
    buckets.VM_QUOTA: "vm-spawner",
}


@pytest.mark.parametrize("service", broker_rights.SERVICES)
def test_a_bucket_is_written_by_its_owner_alone(service: str) -> None:
    rights = rights_of(service, f"{service}-1")
    for bucket, owner in OWNERS.items():
        assert may_publish(rights, f"$KV.{bucket.name}.a.b") is (service == owner), bucket.name
        assert not may_publish(rights, f"$JS.API.STREAM.DELETE.{bucket.stream}")


MESH = (
    "gateway",
    "tenant-auth",
    "tool-runner",
    "swarm-coordinator",
    "agent-host",
    "vm-spawner",
    "stdio",
)


@pytest.mark.parametrize(
    "rights",
    [
        *(rights_of(service, f"{service}-1") for service in MESH),
        broker_rights.client_rights("acme"),
        broker_rights.agent_rights("acme", "agent-1"),
    ],
    ids=[*MESH, "client", "agent"],
)
def test_only_the_registry_makes_or_changes_streams(rights: Rights) -> None:
    names = ("KV_mesh_sessions", "KV_mesh_config", "KV_mesh_t_acme", "OBJ_mesh_t_acme", "X")
    for name in names:
        for verb in ("CREATE", "UPDATE", "DELETE", "PURGE", "RESTORE", "SNAPSHOT"):
            assert not may_publish(rights, f"$JS.API.STREAM.{verb}.{name}")
            assert not may_publish(rights, f"$JS.API.STREAM.TEMPLATE.{verb}.{name}")
    registry = rights_of("registry", "r")
    for verb in ("CREATE", "UPDATE"):
        assert may_publish(registry, f"$JS.API.STREAM.{verb}.KV_mesh_sessions")


def test_only_who_keeps_something_for_tenants_asks_for_their_storage() -> None:
    subject = provision.ensure.subject
    for service in (*broker_rights.SERVICES, "stdio"):
        rights = rights_of(service, f"{service}-1")
        assert may_publish(rights, subject) is (service in {"tool-runner", "swarm-coordinator"})
    assert not may_publish(broker_rights.client_rights("acme"), subject)
    assert not may_publish(broker_rights.agent_rights("acme", "agent-1"), subject)


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
    # The runner that owns a durable task makes its call, as a gateway would.
    assert may_publish(runner, call)
    for service in ("registry", "tenant-auth"):
        assert not may_publish(rights_of(service, "s"), call)


def test_tasks_are_made_for_gateways_and_kept_by_runners() -> None:
    gateway, runner = rights_of("gateway", "g"), rights_of("tool-runner", "r")
    create = tasks.create.subject
    assert may_publish(gateway, create)
    assert may_subscribe(runner, create)
    assert not may_publish(broker_rights.client_rights("acme"), create)
    for bucket in (buckets.TASKS, buckets.IDEMPOTENCY):
        key = f"$KV.{bucket.name}.a.b.c"
        assert may_publish(runner, key)
        assert not may_publish(gateway, key)
    assert may_publish(gateway, f"$JS.API.DIRECT.GET.{buckets.TASKS.stream}.x")
    assert not may_publish(gateway, f"$JS.API.DIRECT.GET.{buckets.IDEMPOTENCY.stream}.x")
    assert may_publish(runner, subjects.event("acme", "task", "task_1_a"))
    assert not may_publish(gateway, subjects.event("acme", "task", "task_1_a"))


def test_stored_results_are_the_runners_alone() -> None:
    for service in broker_rights.SERVICES:
        rights = rights_of(service, f"{service}-1")
        for subject in ("$O.mesh_t_acme.C.x", "$O.mesh_t_acme.M.x"):
            assert may_publish(rights, subject) is (service == "tool-runner")
        theirs = "$O.mesh_swarm_acme.C.swarm_1.x"
        assert may_publish(rights, theirs) is (service == "swarm-coordinator")
    runner = rights_of("tool-runner", "r")
    assert may_publish(runner, "$JS.API.DIRECT.GET.OBJ_mesh_t_acme")
    for bucket in (buckets.CONFIG, buckets.LOGINS, buckets.SESSIONS):
        assert not may_publish(runner, f"$JS.API.DIRECT.GET.{bucket.stream}")
    assert not may_publish(broker_rights.client_rights("acme"), "$O.mesh_t_acme.C.x")


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


def test_only_spawners_get_credentials_for_machines_and_only_tenant_auth_says_who_they_are() -> (
    None
):
    question = "$SYS.REQ.USER.AUTH"
    for service in broker_rights.SERVICES:
        rights = rights_of(service, "one-1")
        spawns = service == "vm-spawner"
        assert may_publish(rights, machine_tokens.issue.subject) is spawns
        assert may_publish(rights, machine_tokens.revoke.subject) is spawns
        assert may_subscribe(rights, question) is (service == "tenant-auth")
        assert not may_publish(rights, question)
    agent = broker_rights.agent_rights("acme", "mcp-agent-1", ("weather",))
    assert not may_publish(agent, machine_tokens.issue.subject)
    assert not may_publish(agent, vm_spawner.spawn.subject)
    assert not may_publish(agent, vm_spawner.log_subject("acme", "mcp-agent-2"))


def test_a_spawner_reads_no_secrets_and_serves_nobodys_tools() -> None:
    rights = rights_of("vm-spawner", "vm-1")
    for bucket in (buckets.CONFIG, buckets.LOGINS, buckets.GRANTS, buckets.SESSIONS):
        assert not may_publish(rights, f"$JS.API.DIRECT.GET.{bucket.stream}")
        assert not may_publish(rights, f"$JS.API.STREAM.MSG.GET.{bucket.stream}")
    assert may_subscribe(rights, subjects.call("acme", "vm", "vm_spawn"))
    assert not may_subscribe(rights, subjects.call("acme", "kv", "kv_get"))
    assert not may_publish(rights, subjects.call("acme", "kv", "kv_get"))


def test_an_unknown_service_has_no_rights() -> None:
    with pytest.raises(KeyError):
        rights_of("nobody", "n-1")


def test_agent_takes_the_calls_of_its_names_and_asks_for_its_own_tenant_only() -> None:
    rights = broker_rights.agent_rights("acme", "weather-1", ("weather", "a.b"))
    own = ("mesh.v1.acme.", "$SYS.REQ.USER.INFO", "$JS.", "$KV.mesh_instances.agent.weather-1")
    assert all(subject.startswith(own) for subject in rights.publish)
    streams = [one for one in rights.publish if one.startswith("$JS.") and one != "$JS.API.INFO"]
    assert all("KV_mesh_keys" in subject for subject in streams)
    assert not any(".STREAM.CREATE" in one or ".STREAM.UPDATE" in one for one in rights.publish)
    assert not any(".call." in one or ".rpc." in one for one in rights.publish)
    served = {one for one in rights.subscribe if ".call." in one or ".rpc." in one}
    assert served == {
        f"mesh.v1.acme.{kind}.{name}.> w"
        for kind in ("call", "rpc")
        for name in ("weather", "a=2Eb")
    }
    assert rights.subscribe.count("mesh.v1.acme.topic.>") == 1


def test_leaf_has_what_its_agents_have_and_the_inboxes_of_those_who_call_them() -> None:
    agent = broker_rights.agent_rights("acme", "heat-1", ("heat",))
    leaf = broker_rights.leaf_rights("acme", {"heat-1": ("heat",), "door-1": ("door",)})
    beyond = set(leaf.publish) - set(agent.publish)
    others = set(broker_rights.agent_rights("acme", "door-1", ("door",)).publish)
    assert beyond - others == {
        "_MESH.gateway.*.>",
        "_MESH.tool-runner.*.>",
        "_MESH.swarm-coordinator.*.>",
    }
    assert may_subscribe(leaf, "mesh.v1.acme.call.heat.read")
    for subject in (
        "mesh.v1.acme.call.kv.kv_get",
        "mesh.v1.other.call.heat.read",
        "_MESH.gateway.gateway-1.x.1",
        "$SRV.PING",
    ):
        assert not may_subscribe(leaf, subject)
    for subject in (
        "mesh.v1.acme.call.heat.read",
        "mesh.v1.other.gw.tools.list",
        "$KV.mesh_keys.sign.a",
        "$KV.mesh_instances.agent.other-1",
        "_INBOX.a.1",
        "_MESH.registry.registry-1.x.1",
        "$SYS.REQ.USER.INFO",
    ):
        assert not may_publish(leaf, subject)
    assert leaf.replies == 0


@pytest.mark.parametrize(
    ("service", "rights"),
    [
        *((service, rights_of(service, "one-1")) for service in broker_rights.SERVICES),
        ("agent", broker_rights.agent_rights("acme", "one-1", ("weather",))),
    ],
    ids=[*broker_rights.SERVICES, "agent"],
)
def test_a_process_hears_discovery_of_all_and_of_itself_and_of_nobody_else(
    service: str, rights: Rights
) -> None:
    for verb in ("PING", "INFO", "STATS"):
        for asked in ("", f".{service}", f".{service}.one-1"):
            assert may_subscribe(rights, f"$SRV.{verb}{asked}")
        for other in (f".{service}.one-2", ".tenant-authority", ".tenant-authority.one-1"):
            assert not may_subscribe(rights, f"$SRV.{verb}{other}")
    assert "$SRV.>" not in rights.subscribe
    # A gateway also is what it exposes in the Synadia Agent Protocol.
    assert may_subscribe(rights, "$SRV.INFO.agents.x") is (service == "gateway")


def test_a_tenant_prompts_its_own_agents_alone() -> None:
    rights = broker_rights.client_rights("acme")
    assert may_publish(rights, "agents.prompt.helper.acme.ask")
    assert not may_publish(rights, "agents.prompt.helper.other.ask")
    assert not may_publish(rights, "agents.hb.helper.acme.ask")
    assert not may_subscribe(rights, "agents.prompt.helper.acme.ask")
    assert may_subscribe(rights, "agents.hb.helper.acme.ask")


def test_a_gateway_is_prompted_and_a_runner_prompts() -> None:
    gateway, runner = rights_of("gateway", "gateway-1"), rights_of("tool-runner", "runner-1")
    assert may_subscribe(gateway, "agents.prompt.helper.acme.ask")
    assert "agents.prompt.*.*.* agents" in gateway.subscribe
    assert may_publish(gateway, "agents.hb.helper.acme.ask")
    assert not may_publish(gateway, "agents.prompt.helper.acme.ask")
    assert may_publish(runner, "agents.prompt.helper.acme.ask")
    assert may_publish(runner, "$SRV.INFO.agents")
    assert not may_publish(runner, "$SRV.INFO")
    assert not may_subscribe(runner, "agents.prompt.helper.acme.ask")
