"""Run the swarm coordinator: ``python -m swarm_coordinator --config FILE``."""

from mesh_chassis.runtime import run
from swarm_coordinator.config import SwarmCoordinatorConfig
from swarm_coordinator.service import NAME, build

if __name__ == "__main__":
    run(build, SwarmCoordinatorConfig, NAME)
