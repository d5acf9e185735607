"""What a child may know of its service's environment: almost nothing.

The service's environment holds broker credentials and whatever the operator exported. A child
gets what programs need to find files, speak the right language and reach the network, plus what
is declared for it.
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
        own: the service's environment.
        declared: what it is given; wins.
    """
    kept = {
        name: value for name, value in own.items() if name in INHERITED or name.startswith(_PREFIX)
    }
    return {**kept, **declared}
