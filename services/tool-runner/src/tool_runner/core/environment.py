"""What a child may know of the runner's environment: almost nothing.

The runner's environment holds broker credentials and whatever the operator exported. A child
gets what programs need to find files, speak the right language and reach the network, plus what
its definition declares.
"""

from collections.abc import Mapping

__all__ = ["INHERITED", "child_environment"]

INHERITED = (
    "PATH",
    "HOME",
    "LANG",
    "LANGUAGE",
    "LOGNAME",
    "SHELL",
    "TERM",
    "TMPDIR",
    "TZ",
    "USER",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_RUNTIME_DIR",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
)
_PREFIX = "LC_"


def child_environment(own: Mapping[str, str], declared: Mapping[str, str]) -> dict[str, str]:
    """Environment of a child.

    Args:
        own: the runner's environment.
        declared: ``env`` of the server's definition; wins.
    """
    kept = {
        name: value for name, value in own.items() if name in INHERITED or name.startswith(_PREFIX)
    }
    return {**kept, **declared}
