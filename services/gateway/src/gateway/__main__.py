"""Run the gateway: ``python -m gateway --config FILE``."""

from gateway.config import GatewayConfig
from gateway.service import NAME, build
from mesh_chassis.runtime import run

if __name__ == "__main__":
    run(build, GatewayConfig, NAME)
