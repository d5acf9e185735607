"""``python -m mesh_sdk.guest``: the first program of a machine."""

import argparse
import sys

from mesh_sdk.guest.stage import Settings, run


def main() -> None:
    """Read the command line, run, leave with the program's status."""
    parser = argparse.ArgumentParser(prog="mesh_sdk.guest", description=__doc__)
    parser.add_argument(
        "--control", required=True, metavar="ADDRESS", help="unix:, serial:, vsock:"
    )
    parser.add_argument("--link", default="", metavar="ADDRESS")
    parser.add_argument("--image", default="", metavar="DIGEST")
    parser.add_argument("--program", default="", metavar="FILE", help="unless the host names one")
    parser.add_argument("--preload", default="", metavar="MODULE,…", help="import before hello")
    parser.add_argument("--work", default="/tmp", metavar="FOLDER")  # noqa: S108 - of the machine
    whose = parser.add_mutually_exclusive_group()
    whose.add_argument("--own-kernel", action="store_true", help="this is a virtual machine")
    whose.add_argument(
        "--shared", action="store_true", help="kernel and user are the host's (usual)"
    )
    given = parser.parse_args()
    settings = Settings(
        control=given.control,
        link=given.link,
        image=given.image,
        program=given.program,
        preload=tuple(name for name in given.preload.split(",") if name),
        work=given.work,
        own_kernel=given.own_kernel,
    )
    sys.exit(run(settings))


if __name__ == "__main__":
    main()
