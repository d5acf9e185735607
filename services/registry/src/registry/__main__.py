"""Run the registry: ``python -m registry --config FILE``."""

from mesh_chassis.runtime import run
from registry.config import RegistryConfig
from registry.service import NAME, build

if __name__ == "__main__":
    run(build, RegistryConfig, NAME)
