"""What ``mesh up`` writes for agent hosts and coordinators is what they read."""

import msgspec

from mesh_agents.config import AgentHostConfig
from mesh_cli.user_file import MeshFile
from swarm_coordinator.config import SwarmCoordinatorConfig


def test_what_mesh_writes_for_hosts_and_coordinators_is_what_they_read() -> None:
    content = msgspec.convert(
        {
            "agents": {
                "types": ["tester"],
                "roots": ["/a"],
                "functions": [{"name": "f", "call": "m:f"}],
                "commands": [{"name": "c", "argv": ["true", "{x}"]}],
                "models": [{"name": "m", "kind": "scripted", "replies": [{"text": "hi"}]}],
            },
            "swarm": {"max_agents": 5, "agent_timeout_seconds": 60},
        },
        MeshFile,
    )
    service = {"service": {"instance": "x-1"}}
    host = msgspec.convert({**service, **content.agents.for_host("agents")}, AgentHostConfig)
    assert host.host.work_dir == "agents"
    assert (host.types.builtin, host.types.roots) == (("tester",), ("/a",))
    assert (host.functions[0].call, host.commands[0].argv) == ("m:f", ("true", "{x}"))
    assert host.models[0].replies[0].text == "hi"
    tables = content.swarm.for_coordinator(allow_unsigned=True)
    coordinator = msgspec.convert({**service, **tables}, SwarmCoordinatorConfig)
    swarm = coordinator.swarm
    assert (swarm.allow_unsigned, swarm.max_agents, swarm.agent_timeout_s) == (True, 5, 60)
