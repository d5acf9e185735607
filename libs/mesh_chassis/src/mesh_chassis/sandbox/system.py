"""What of the host every sandbox sees: programs and libraries, never configuration with secrets."""

from pathlib import Path

from mesh_chassis.sandbox.arguments import INSIDE, System

__all__ = ["DATA", "SEARCH_PATH", "host_system"]

SEARCH_PATH = "/usr/local/bin:/usr/bin:/bin"
"""``PATH`` inside, before that of the program's own folder."""

_TOP = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_WHOLE = (
    "/usr",
    "/nix/store",
    "/etc/alternatives",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/ca-certificates",
    "/etc/pki/tls",
)
_WITH_NETWORK = ("/etc/resolv.conf", "/etc/nsswitch.conf", "/etc/services")

DATA = {
    "/etc/passwd": f"nobody:x:{INSIDE}:{INSIDE}:nobody:/tmp:/usr/sbin/nologin\n",
    "/etc/group": f"nogroup:x:{INSIDE}:\n",
    "/etc/hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n",
}
"""Files made anew in every sandbox: those of the host name its users and its neighbours."""


def host_system(*, network: bool) -> System:
    """Look at the host.

    Args:
        network: the sandbox shares the host's network, and so needs the way to its resolver.
    """
    binds: list[str] = []
    links: list[tuple[str, str]] = []
    for path in (*_TOP, *_WHOLE, *(_WITH_NETWORK if network else ())):
        at = Path(path)
        if path in _TOP and at.is_symlink():
            links.append((str(at.readlink()), path))
        elif at.exists():
            binds.append(path)
    return System(binds=tuple(binds), links=tuple(links))
