"""Run an agent host: ``python -m mesh_agents --config FILE``."""

from mesh_agents.config import AgentHostConfig
from mesh_agents.service import NAME, build
from mesh_chassis.runtime import run

if __name__ == "__main__":
    run(build, AgentHostConfig, NAME)
