"""Where a cluster is and how its API server is convinced: of a kubeconfig, or inside a pod.

Plug-in programs of a kubeconfig (``exec``, ``auth-provider``) are not run: they would run with the
runner's rights. Who needs them gives the runner a service account's token.
"""

import base64
import binascii
import os
import ssl
import tempfile
import time
from pathlib import Path

import msgspec
import yaml

from mcp_proto.server_types.kubernetes import KubernetesSettings
from tool_runner.upstreams.http_link import Credential, Denied

__all__ = ["Cluster", "ClusterError", "cluster_of"]

KUBECONFIG_BYTES_MAX = 1024 * 1024
TOKEN_S = 10.0
"""How long a token file is not read again; the kubelet renews it well before it expires."""
SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
"""Where a pod finds its token, its namespace and the authority of its cluster."""


class ClusterError(Exception):
    """It cannot be found out; the text is public."""


class Cluster(msgspec.Struct, frozen=True, kw_only=True):
    """One API server.

    Attributes:
        url: of it.
        namespace: where things are that name none; "" = not said.
        tls: authorities and client certificate.
        credential: gives ``Authorization``; None = the certificate is all.
    """

    url: str
    namespace: str = ""
    tls: ssl.SSLContext | None = None
    credential: Credential | None = None


class _Where(msgspec.Struct, frozen=True, rename="kebab"):
    server: str = ""
    certificate_authority: str = ""
    certificate_authority_data: str = ""
    insecure_skip_tls_verify: bool = False
    tls_server_name: str = ""
    proxy_url: str = ""


class _NamedCluster(msgspec.Struct, frozen=True):
    name: str
    cluster: _Where


class _User(msgspec.Struct, frozen=True, rename="kebab"):
    token: str = ""
    token_file: str = msgspec.field(name="tokenFile", default="")
    client_certificate: str = ""
    client_certificate_data: str = ""
    client_key: str = ""
    client_key_data: str = ""
    exec: dict[str, object] | None = None
    auth_provider: dict[str, object] | None = None
    username: str = ""


class _NamedUser(msgspec.Struct, frozen=True):
    name: str
    user: _User | None = None


class _Context(msgspec.Struct, frozen=True):
    cluster: str
    user: str = ""
    namespace: str = ""


class _NamedContext(msgspec.Struct, frozen=True):
    name: str
    context: _Context


class _Kubeconfig(msgspec.Struct, frozen=True):
    clusters: tuple[_NamedCluster, ...] = ()
    contexts: tuple[_NamedContext, ...] = ()
    users: tuple[_NamedUser, ...] = ()
    current: str = msgspec.field(name="current-context", default="")


def cluster_of(settings: KubernetesSettings) -> Cluster:
    """The cluster that settings name; reads small files.

    Raises:
        ClusterError: it cannot be found out, and why.
    """
    return _in_cluster() if settings.in_cluster else _of_kubeconfig(settings)


def _in_cluster() -> Cluster:
    host = os.environ.get("KUBERNETES_SERVICE_HOST", "")
    port = os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    folder = Path(SERVICE_ACCOUNT)
    if not host:
        raise ClusterError("in_cluster: this runner is no pod (KUBERNETES_SERVICE_HOST is not set)")
    token = folder / "token"
    if not token.is_file():
        raise ClusterError("in_cluster: this pod has no service account token")
    namespace = folder / "namespace"
    return Cluster(
        url=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
        namespace=namespace.read_text().strip() if namespace.is_file() else "",
        tls=_tls(authorities=(folder / "ca.crt").read_text()),
        credential=_of_file(token),
    )


def _of_kubeconfig(settings: KubernetesSettings) -> Cluster:
    path = Path(settings.kubeconfig).expanduser()
    config = _read(path)
    name = settings.context or config.current
    contexts = {one.name: one.context for one in config.contexts}
    context = contexts.get(name)
    if context is None:
        raise ClusterError(
            f"kubeconfig: no context {name!r}; it has {', '.join(contexts) or 'none'}"
        )
    where = {one.name: one.cluster for one in config.clusters}.get(context.cluster)
    if where is None or not where.server.startswith(("http://", "https://")):
        raise ClusterError(f"kubeconfig: no cluster {context.cluster!r} with a server")
    user = {one.name: one.user for one in config.users}.get(context.user) or _User()
    if where.insecure_skip_tls_verify:
        raise ClusterError(
            "kubeconfig: insecure-skip-tls-verify is not honoured; give certificate-authority"
        )
    if where.tls_server_name or where.proxy_url:
        raise ClusterError("kubeconfig: tls-server-name and proxy-url are not known here")
    if user.exec is not None or user.auth_provider is not None:
        raise ClusterError(
            f"kubeconfig: user {context.user!r} needs a plug-in program, which is not run; "
            "use a token (kubectl create token) or a client certificate"
        )
    if user.username:
        raise ClusterError("kubeconfig: no API server takes user names and passwords any more")
    return Cluster(
        url=where.server.rstrip("/"),
        namespace=context.namespace,
        tls=_tls_of(where, user, path.parent),
        credential=_credential(user, path.parent),
    )


def _read(path: Path) -> _Kubeconfig:
    try:
        if path.stat().st_size > KUBECONFIG_BYTES_MAX:
            raise ClusterError(f"kubeconfig: more than {KUBECONFIG_BYTES_MAX} bytes")
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else "no text"
        raise ClusterError(f"kubeconfig cannot be read: {said}") from None
    try:
        return msgspec.convert(yaml.safe_load(text) or {}, _Kubeconfig)
    except yaml.YAMLError:
        raise ClusterError("kubeconfig is no YAML") from None  # the error would quote secrets
    except msgspec.ValidationError as error:
        raise ClusterError(f"kubeconfig: {error}") from None


def _tls_of(where: _Where, user: _User, folder: Path) -> ssl.SSLContext | None:
    if not where.server.startswith("https://"):
        return None
    authorities = _text("certificate-authority", where.certificate_authority_data,
                        where.certificate_authority, folder)  # fmt: skip
    certificate = _text("client-certificate", user.client_certificate_data,
                        user.client_certificate, folder)  # fmt: skip
    key = _text("client-key", user.client_key_data, user.client_key, folder)
    return _tls(authorities=authorities, certificate=certificate, key=key)


def _tls(*, authorities: str, certificate: str = "", key: str = "") -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cadata=authorities or None)
        if certificate:
            # The ssl module takes a client certificate from a file only.
            with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
                file.write(f"{certificate}\n{key}\n")
                file.flush()
                context.load_cert_chain(file.name)
    except (ssl.SSLError, OSError, ValueError) as error:
        said = getattr(error, "reason", None) or "not readable"
        raise ClusterError(f"certificates of the cluster cannot be used ({said})") from None
    return context


def _text(field: str, data: str, path: str, folder: Path) -> str:
    """What stands in the file itself, or in one that it names."""
    try:
        if data:
            return base64.b64decode(data, validate=True).decode()
        return (folder / path).read_text() if path else ""
    except (binascii.Error, UnicodeDecodeError, OSError):
        raise ClusterError(f"kubeconfig: {field} cannot be read") from None


def _credential(user: _User, folder: Path) -> Credential | None:
    if user.token_file:
        return _of_file(folder / user.token_file)
    if not user.token:
        return None

    async def fixed(denied: Denied | None) -> str:
        return f"Bearer {user.token}" if denied is None else ""

    return fixed


def _token(path: Path) -> str:
    """A small file: reading it is shorter than handing it to a thread."""
    try:
        return f"Bearer {path.read_text().strip()}"
    except (OSError, UnicodeDecodeError):
        return ""


def _of_file(path: Path) -> Credential:
    known = ("", 0.0)

    async def read(denied: Denied | None) -> str:
        nonlocal known
        if denied is not None and denied.status == 403:
            return ""  # known and not allowed: no other token is there
        now = time.monotonic()
        if denied is not None or not known[0] or now - known[1] > TOKEN_S:
            known = (_token(path) or known[0], now)
        return known[0]

    return read
