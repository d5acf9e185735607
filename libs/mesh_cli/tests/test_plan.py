"""What runs, as whom, with which tables."""

import tomllib
from pathlib import Path

import msgspec
import tomlkit

from mcp_proto.contracts.registry import OAuthClient, ServerDefinition
from mcp_proto.discovery import KnownAgent
from mesh_cli import plan
from mesh_cli.bootstrap import write_toml
from mesh_cli.plan import Ports, Where
from mesh_cli.tables.agents import AgentsHereTable
from mesh_cli.tables.machines import VmTable
from mesh_cli.tables.swarm import SwarmTable
from mesh_cli.user_file import (
    MeshFile,
    PerformanceTable,
    SecurityTable,
    ServerTable,
    UpstreamsTable,
)


def where(names: list[str]) -> Where:
    return Where(seeds={name: f"{name}.nk" for name in names}, kek_file="kek", pepper_file="pepper")


def planned(content: MeshFile, *, gateways: int = 1, runners: int = 1) -> list[plan.Instance]:
    size = plan.size_of(content)
    names = [user.name for user in plan.users(gateways, runners, size=size)]
    ports = Ports(
        nats=4222,
        http=tuple(3000 + n for n in range(gateways)),
        tcp=tuple(9500 + n for n in range(gateways)),
    )
    return plan.instances(
        content,
        [plan.sample_server("python")],
        ports=ports,
        where=where(names),
        runners=runners,
        size=size,
    )


def test_order_of_start_is_registry_tenant_auth_runners_swarms_gateways() -> None:
    names = [instance.name for instance in planned(MeshFile(), gateways=2, runners=2)]

    assert names == [
        "registry-1",
        "tenant-auth-1",
        "runner-1",
        "runner-2",
        "swarm-1",
        "agent-host-1",
        "gateway-1",
        "gateway-2",
    ]


def test_file_says_how_many_coordinators_and_hosts_there_are_or_none() -> None:
    several = MeshFile(
        swarm=SwarmTable(coordinators=2), agents=AgentsHereTable(hosts=2, types=("tester",))
    )
    found = {one.name: one for one in planned(several)}
    assert {"swarm-1", "swarm-2", "agent-host-1", "agent-host-2"} <= found.keys()
    assert found["agent-host-2"].tables["host"]["work_dir"] == "agents/agent-host-2"
    assert found["agent-host-2"].tables["types"]["builtin"] == ["tester"]
    assert found["swarm-1"].module == "swarm_coordinator"
    without = planned(MeshFile(swarm=SwarmTable(enabled=False)))
    assert {one.service for one in without} == {"registry", "tenant-auth", "tool-runner", "gateway"}


def test_spawner_of_machines_runs_only_where_the_file_says_so() -> None:
    assert "vm-1" not in {one.name for one in planned(MeshFile())}
    content = MeshFile(vm=VmTable(enabled=True, ttl_seconds=60, image="agent"))
    found = {one.name: one for one in planned(content)}
    tables = found["vm-1"].tables
    assert found["vm-1"].module == "vm_spawner"
    assert tables["vm"]["state_dir"] == "vm"
    assert (tables["vm"]["ttl_s"], tables["vm"]["image"]) == (60, "agent")
    assert "enabled" not in tables["vm"]
    assert tables["vm"]["allow_unsigned"] is True
    assert tables["process"] == {"enabled": False, "allow_unsafe": False}


def test_tenant_auth_gets_the_key_of_machines_where_there_are_some() -> None:
    content = MeshFile(vm=VmTable(enabled=True))
    size = plan.size_of(content)
    seeds = where([user.name for user in plan.users(1, 1, size=size)])
    made = plan.instances(
        content,
        [],
        ports=Ports(nats=4222, http=(3000,), tcp=(9500,)),
        where=msgspec.structs.replace(seeds, issuer_file="issuer.nk"),
        runners=1,
        size=size,
    )
    (auth,) = (one for one in made if one.service == "tenant-auth")
    assert auth.tables["machines"] == {"issuer_seed_file": "issuer.nk"}
    (plain,) = (one for one in planned(MeshFile()) if one.service == "tenant-auth")
    assert "machines" not in plain.tables


def test_registry_is_told_of_agents_elsewhere_and_not_of_hosts() -> None:
    known = KnownAgent(name="far", url="https://far.example")
    content = MeshFile(agents=AgentsHereTable(known=(known,), hosts=2))
    (registry,) = (one for one in planned(content) if one.service == "registry")
    assert set(registry.tables["agents"]) <= {"known"}
    assert registry.tables["agents"]["known"][0]["name"] == "far"


def test_every_process_and_person_is_a_user_of_its_own() -> None:
    users = plan.users(2, 2)
    names = [user.name for user in users]

    assert len(set(names)) == len(names)
    assert {"registry-1", "runner-2", "gateway-2", "stdio-1", "operator", "demo"} <= set(names)


def test_demo_user_may_only_call_its_own_tenant() -> None:
    (demo,) = (user for user in plan.users(1, 1) if user.name == "demo")

    shared = ("$SRV.>", "$SYS.REQ.USER.INFO")  # who answers; the broker's clock
    agents = ("agents.prompt.*.demo-tenant.*", "agents.status.*.demo-tenant.*")
    assert all(
        subject.startswith("mesh.v1.demo-tenant.") or subject in (*shared, *agents)
        for subject in demo.rights.publish
    )


def test_gateways_listen_on_ports_of_their_own() -> None:
    gateways = [one for one in planned(MeshFile(), gateways=2) if one.service == "gateway"]

    assert [one.http for one in gateways] == ["http://127.0.0.1:3000", "http://127.0.0.1:3001"]
    assert [one.tables["tcp"]["port"] for one in gateways] == [9500, 9501]


def test_development_is_on_without_authentication() -> None:
    tables = {one.service: one.tables for one in planned(MeshFile())}

    assert tables["gateway"]["security"]["development"] is True
    assert tables["tenant-auth"]["security"]["development"] is True
    assert tables["tool-runner"]["runner"]["allow_unsigned"] is True
    assert tables["swarm-coordinator"]["swarm"]["allow_unsigned"] is True


def test_authentication_switches_development_off_everywhere() -> None:
    content = MeshFile(security=SecurityTable(auth_enabled=True))
    tables = {one.service: one.tables for one in planned(content)}

    assert tables["gateway"]["security"]["development"] is False
    assert tables["tenant-auth"]["security"]["development"] is False
    assert tables["tool-runner"]["runner"]["allow_unsigned"] is False
    assert tables["swarm-coordinator"]["swarm"]["allow_unsigned"] is False


def test_token_of_the_user_switches_development_off_and_stands_in_no_table() -> None:
    content = MeshFile(security=SecurityTable(auth_token="of-my-own-choosing"))
    tables = {one.service: one.tables for one in planned(content)}

    assert tables["gateway"]["security"]["development"] is False
    assert tables["tenant-auth"]["security"]["development"] is False
    assert tables["tool-runner"]["runner"]["allow_unsigned"] is False
    assert "of-my-own-choosing" not in str(tables)


def test_tenant_auth_alone_is_told_where_the_token_lies() -> None:
    names = [user.name for user in plan.users(1, 1)]
    told = plan.instances(
        MeshFile(),
        [],
        ports=Ports(nats=4222, http=(3000,), tcp=(9500,)),
        where=msgspec.structs.replace(where(names), static_token_file="a/static.token"),
        runners=1,
    )

    naming = {one.service for one in told if "static.token" in str(one.tables)}
    assert naming == {"tenant-auth"}


def test_edge_on_every_address_is_reached_over_loopback() -> None:
    content = MeshFile(server=ServerTable(host="0.0.0.0"))
    (gateway,) = (one for one in planned(content) if one.service == "gateway")

    assert gateway.http == "http://127.0.0.1:3000"
    assert gateway.tables["http"]["host"] == "0.0.0.0"


def test_tables_are_plain_documents() -> None:
    for instance in planned(MeshFile()):
        assert tomllib.loads(tomlkit.dumps(dict(instance.tables))) == instance.tables


def test_servers_over_the_network_are_written_as_the_runner_reads_them(tmp_path: Path) -> None:
    server = ServerDefinition(
        name="far",
        transport="http",
        url="https://mcp.example.com/mcp",
        headers={"X-Team": "${not a variable}"},
        oauth=OAuthClient(
            token_url="https://auth.example.com/t",
            client_id="me",
            client_secret="env:SECRET",
            scopes=("a", "b"),
        ),
        allow_private=("10.0.0.0/8",),
    )
    content = MeshFile(
        upstreams=UpstreamsTable(allow_networks=("10.1.0.0/16",)),
        performance=PerformanceTable(connection_pool_size=7),
    )
    instance = next(
        one
        for one in plan.instances(
            content,
            [server],
            ports=Ports(nats=4222, http=(3000,), tcp=(9500,)),
            where=where([user.name for user in plan.users(1, 1)]),
            runners=1,
        )
        if one.service == "tool-runner"
    )
    write_toml(tmp_path / "runner.toml", instance)
    text = (tmp_path / "runner.toml").read_text()
    written = tomllib.loads(text.replace("$${", "${"))

    assert written["upstreams"]["connections"] == 7
    assert written["upstreams"]["allow_networks"] == ["10.1.0.0/16"]
    assert msgspec.convert(written["mcp_servers"][0], ServerDefinition) == server
