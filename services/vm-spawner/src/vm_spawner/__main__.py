"""Run the spawner of machines: ``python -m vm_spawner --config FILE``."""

from mesh_chassis.runtime import run
from vm_spawner.config import VmSpawnerConfig
from vm_spawner.service import NAME, build

if __name__ == "__main__":
    run(build, VmSpawnerConfig, NAME)
