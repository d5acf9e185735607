"""First Python of a machine: it has no site, so it says where our packages are."""

import sys

sys.path.append("/mesh/lib")
sys.argv[0] = "guest"

from mesh_sdk.guest.__main__ import main  # noqa: E402 - the path comes first

main()
