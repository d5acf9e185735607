"""Run tenant-auth: ``python -m tenant_auth --config FILE``."""

from mesh_chassis.runtime import run
from tenant_auth.config import TenantAuthConfig
from tenant_auth.service import NAME, build

if __name__ == "__main__":
    run(build, TenantAuthConfig, NAME)
