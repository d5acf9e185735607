"""The ``kubernetes`` tools against answers in the form of an API server's, replayed.

No cluster can run on the machines that run these tests: an API server is in no Debian or PyPI
package, and neither images nor binaries can be fetched. ``kubernetes_api.json`` was therefore
written by hand after the API reference and published answers (1.31), with the fields that are
not read here too; requests must match to the letter. Every answer was read by the official Python
client (31.0.0, made from the OpenAPI description of 1.31): none lacks a required member, none has
one that the description does not know. A run against a real cluster is still owed.
"""

import asyncio
import base64
import json
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml
from aiohttp import web
from tests.certificates import self_signed

from mcp_proto.errors import ErrorKind, MeshError, Outcome
from tool_runner.upstreams import clusters

RECORDED: dict[str, Any] = json.loads((Path(__file__).parent / "kubernetes_api.json").read_text())
TOKEN = "reader-token"


class Replay:
    """Answers as recorded; anything not recorded is 404 and written down."""

    def __init__(self) -> None:
        self.unknown: list[str] = []
        self.bodies: list[tuple[str, bytes]] = []
        self.token = TOKEN
        self.url = ""
        self.broken = 0

    async def answer(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            refused = {"kind": "Status", "message": "Unauthorized", "code": 401}
            return web.json_response(refused, status=401)
        asked = f"{request.method} {request.raw_path}"
        if self.broken:
            return web.json_response({"message": "etcdserver: timed out"}, status=self.broken)
        if request.method == "PATCH":
            self.bodies.append((request.headers["Content-Type"], await request.read()))
        if asked not in RECORDED:
            self.unknown.append(asked)
            return web.Response(status=404, text="404 page not found")
        status, body = RECORDED[asked]
        if isinstance(body, str):
            return web.Response(status=status, text=body)
        return web.json_response(body, status=status)


@pytest.fixture
async def replay() -> AsyncIterator[Callable[..., Any]]:
    runners: list[web.AppRunner] = []

    async def start(tls: ssl.SSLContext | None = None) -> Replay:
        made = Replay()
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", made.answer)
        runner = web.AppRunner(app)
        runners.append(runner)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        scheme = "https" if tls else "http"
        made.url = f"{scheme}://127.0.0.1:{runner.addresses[0][1]}"
        return made

    yield start
    for runner in runners:
        await runner.cleanup()


@pytest.fixture
async def api(replay: Any) -> Replay:
    return await replay()


@pytest.fixture
def cluster(deploy: Any, api: Replay, tmp_path: Path) -> Callable[..., Any]:
    async def start(**settings: Any) -> Any:
        token = tmp_path / "token"
        token.write_text(TOKEN)
        settings.setdefault("default_namespace", "shop")
        return await deploy("kubernetes", url=api.url, bearer=f"file:{token}", settings=settings)

    return start


async def test_pods_are_listed_page_by_page_in_the_words_of_kubectl(cluster: Any) -> None:
    k8s = await cluster()
    first = await k8s("list_pods", limit=2)
    assert [(pod["status"], pod["ready"], pod["restarts"]) for pod in first["pods"]] == [
        ("Running", "2/2", 1),
        ("CrashLoopBackOff", "0/1", 7),
    ]
    assert first["remaining"] == 2
    second = await k8s("list_pods", limit=2, cursor=first["cursor"])
    assert [pod["status"] for pod in second["pods"]] == ["Pending", "Terminating"]
    assert "cursor" not in second
    jsonschema_rs.validate(k8s.tools["list_pods"]["outputSchema"], first)
    said = await k8s.refusal("list_pods", limit=2, cursor="old")
    assert said == "The cursor has expired: read the list again from its beginning."


async def test_selectors_travel_as_they_are(cluster: Any) -> None:
    k8s = await cluster()
    found = await k8s("list_pods", label_selector="app=web", field_selector="status.phase=Running")
    assert [pod["name"] for pod in found["pods"]] == ["web-6d4cf56db6-7xk2p"]
    said = await k8s.refusal("list_pods", label_selector="app web")
    assert said.startswith("The API server refuses: unable to parse requirement")


async def test_pod_tells_why_it_does_not_run_and_no_secret(cluster: Any) -> None:
    k8s = await cluster()
    (worker,) = (await k8s("get_pod", name="worker-5f7b9c-q9d8s"))["containers"]
    assert (worker["state"], worker["reason"]) == ("waiting", "CrashLoopBackOff")
    assert (worker["lastReason"], worker["lastExitCode"]) == ("OOMKilled", 137)
    web_pod = await k8s("get_pod", name="web-6d4cf56db6-7xk2p")
    assert [one["name"] for one in web_pod["containers"]] == ["migrate", "web", "sidecar"]
    assert web_pod["containers"][0]["init"] is True
    assert web_pod["owner"] == "ReplicaSet/web-6d4cf56db6"
    assert "hidden" not in json.dumps(web_pod)
    jsonschema_rs.validate(k8s.tools["get_pod"]["outputSchema"], web_pod)
    said = await k8s.refusal("get_pod", name="nobody")
    assert said == 'The API server refuses: pods "nobody" not found'


async def test_logs_of_a_container(cluster: Any) -> None:
    k8s = await cluster()
    told = await k8s("pod_logs", name="web-6d4cf56db6-7xk2p", container="web", since_seconds=3600)
    assert told["lines"][1] == {
        "text": "listening on 8080",
        "time": "2026-11-20T08:15:07.340000000Z",
    }
    said = await k8s.refusal("pod_logs", name="web-6d4cf56db6-7xk2p")
    assert "choose one of: [web sidecar]" in said


async def test_deployments_tell_what_is_wrong(cluster: Any) -> None:
    k8s = await cluster()
    good, bad = (await k8s("list_deployments"))["deployments"]
    assert (good["replicas"], good["ready"], good["images"]) == (2, 2, ["acme/web:9"])
    assert "conditions" not in good
    assert [one["reason"] for one in bad["conditions"]] == [
        "MinimumReplicasUnavailable",
        "ProgressDeadlineExceeded",
    ]


async def test_deployment_is_scaled(cluster: Any, api: Replay) -> None:
    k8s = await cluster()
    assert await k8s("scale_deployment", name="web", replicas=5) == {
        "name": "web",
        "namespace": "shop",
        "replicas": 5,
        "before": 2,
        "running": 2,
    }
    assert api.bodies == [("application/merge-patch+json", b'{"spec":{"replicas":5}}')]
    said = await k8s.refusal("scale_deployment", name="idle", replicas=1)
    assert "the object has been modified" in said
    assert "more than the 100" in await k8s.refusal("scale_deployment", name="web", replicas=101)
    assert len(api.bodies) == 2
    assert k8s.tools["scale_deployment"]["annotations"]["destructiveHint"] is True


async def test_events_are_the_newest_first(cluster: Any) -> None:
    k8s = await cluster()
    events = (await k8s("list_events"))["events"]
    assert [(one["reason"], one["count"]) for one in events] == [
        ("FailedScheduling", 12),
        ("BackOff", 31),
        ("Pulled", 8),
    ]
    assert events[0]["object"] == "Pod/big-0"
    found = await k8s("list_events", name="big-0", field_selector="type=Warning")
    assert len(found["events"]) == 1


async def test_whole_cluster_is_listed_where_no_namespaces_are_set(cluster: Any) -> None:
    k8s = await cluster()
    assert len((await k8s("list_pods", namespace="*"))["pods"]) == 2
    names = (await k8s("list_namespaces"))["namespaces"]
    assert names[1] == {"name": "shop", "status": "Active"}
    said = await k8s.refusal("list_pods", namespace="other")
    assert "cannot list resource" in said


async def test_namespaces_that_are_not_allowed_are_not_asked_for(cluster: Any, api: Replay) -> None:
    k8s = await cluster(namespaces=["shop", "web"], default_namespace="")
    before = len(api.unknown)
    for tool, more in (
        ("list_pods", {}),
        ("list_events", {}),
        ("list_deployments", {}),
        ("get_pod", {"name": "a"}),
        ("pod_logs", {"name": "a"}),
        ("scale_deployment", {"name": "a", "replicas": 1}),
    ):
        said = await k8s.refusal(tool, namespace="kube-system", **more)
        assert said == "namespace 'kube-system' is not one of them; allowed: shop, web."
        assert "name a namespace" in await k8s.refusal(tool, **more)
    assert "allowed: shop" in await k8s.refusal("list_pods", namespace="*")
    assert (await k8s("list_namespaces"))["namespaces"] == [{"name": "shop"}, {"name": "web"}]
    assert (await k8s("list_pods", namespace="shop", limit=2))["remaining"] == 2
    assert len(api.unknown) == before


@pytest.mark.parametrize("name", ["..", "a/b", "a%2fb", "A", "", "a?b", "a\n", "-a", "."])
async def test_no_name_leaves_its_place(cluster: Any, api: Replay, name: str) -> None:
    k8s = await cluster()
    for tool, more in (("get_pod", {}), ("pod_logs", {}), ("scale_deployment", {"replicas": 1})):
        assert "Invalid arguments" in await k8s.refusal(tool, name=name, **more)
    if name:
        assert "Invalid arguments" in await k8s.refusal("list_pods", namespace=name)
    assert api.unknown == []


async def test_read_only_scales_nothing(cluster: Any) -> None:
    k8s = await cluster(read_only=True)
    assert "scale_deployment" not in k8s.tools
    assert all(tool["annotations"]["readOnlyHint"] for tool in k8s.tools.values())


async def test_wrong_credential_and_broken_server_are_faults_not_answers(
    cluster: Any, api: Replay
) -> None:
    api.token = "another"
    with pytest.raises(MeshError) as raised:
        await cluster()
    assert "refuses the credential" in raised.value.message
    api.token = TOKEN
    k8s = await cluster()
    api.broken = 500
    with pytest.raises(MeshError) as raised:
        await k8s("list_pods")
    assert raised.value.outcome is Outcome.UNKNOWN
    assert "etcdserver: timed out" in raised.value.message
    api.broken = 429
    with pytest.raises(MeshError) as raised:
        await k8s("list_pods")
    assert raised.value.kind is ErrorKind.OVERLOADED


# Clusters by kubeconfig and inside a pod


def kubeconfig(url: str, *, cluster: dict[str, Any], user: dict[str, Any]) -> str:
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "preferences": {},
            "clusters": [{"name": "c", "cluster": {"server": url, **cluster}}],
            "users": [{"name": "u", "user": user}],
            "contexts": [
                {"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "shop"}}
            ],
        }
    )


async def test_kubeconfig_gives_address_authorities_token_and_namespace(
    deploy: Any, replay: Any, tmp_path: Path
) -> None:
    tls, certificate, private = self_signed(tmp_path)
    tls.verify_mode = ssl.CERT_REQUIRED
    api = await replay(tls)
    data = {"certificate-authority-data": base64.b64encode(certificate).decode()}
    user = {
        "token": TOKEN,
        "client-certificate-data": base64.b64encode(certificate).decode(),
        "client-key-data": base64.b64encode(private).decode(),
    }
    path = tmp_path / "config"
    path.write_text(kubeconfig(api.url, cluster=data, user=user))
    k8s = await deploy("kubernetes", settings={"kubeconfig": str(path)})
    assert len((await k8s("list_pods", limit=2))["pods"]) == 2


async def test_cluster_with_another_authority_is_not_talked_to(
    deploy: Any, replay: Any, tmp_path: Path
) -> None:
    tls, _, _ = self_signed(tmp_path)
    api = await replay(tls)
    path = tmp_path / "config"
    path.write_text(kubeconfig(api.url, cluster={}, user={"token": TOKEN}))
    with pytest.raises(MeshError) as raised:
        await deploy("kubernetes", settings={"kubeconfig": str(path)})
    assert "certificate" in raised.value.message


async def test_pod_uses_its_service_account_and_reads_a_renewed_token(
    deploy: Any, replay: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls, certificate, _ = self_signed(tmp_path)
    api = await replay(tls)
    (tmp_path / "token").write_text("first\n")
    (tmp_path / "ca.crt").write_bytes(certificate)
    (tmp_path / "namespace").write_text("shop")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", api.url.rpartition(":")[2])
    monkeypatch.setattr(clusters, "SERVICE_ACCOUNT", str(tmp_path))
    api.token = "first"
    k8s = await deploy("kubernetes", settings={"in_cluster": True})
    assert len((await k8s("list_pods", limit=2))["pods"]) == 2
    (tmp_path / "token").write_text("second\n")
    api.token = "second"
    assert len((await k8s("list_pods", limit=2))["pods"]) == 2


@pytest.mark.parametrize(
    ("cluster", "user", "said"),
    [
        ({}, {"exec": {"command": "aws"}}, "needs a plug-in program, which is not run"),
        ({}, {"auth-provider": {"name": "gcp"}}, "needs a plug-in program"),
        ({}, {"username": "a", "password": "b"}, "user names and passwords"),
        ({"insecure-skip-tls-verify": True}, {}, "not honoured"),
        ({"proxy-url": "http://x"}, {}, "not known here"),
        ({"certificate-authority": "none.pem"}, {}, "certificate-authority cannot be read"),
        ({"certificate-authority-data": "hidden!"}, {}, "cannot be read"),
        ({"server": "ftp://x"}, {}, "no cluster 'c' with a server"),
    ],
)
async def test_kubeconfig_that_cannot_be_used_says_why(
    deploy: Any, tmp_path: Path, cluster: dict[str, Any], user: dict[str, Any], said: str
) -> None:
    path = tmp_path / "config"
    path.write_text(kubeconfig("https://127.0.0.1:1", cluster=cluster, user=user))
    with pytest.raises(MeshError) as raised:
        await deploy("kubernetes", settings={"kubeconfig": str(path)})
    assert said in raised.value.message
    assert "hidden" not in raised.value.message


@pytest.mark.parametrize(
    ("text", "said"),
    [("{", "no YAML"), ("clusters: 3", "kubeconfig: "), ("", "no context")],
)
async def test_files_that_are_no_kubeconfig_are_refused(
    deploy: Any, tmp_path: Path, text: str, said: str
) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(MeshError, match=said):
        await deploy("kubernetes", settings={"kubeconfig": str(path)})
    path.write_text(kubeconfig("https://a", cluster={}, user={}))
    with pytest.raises(MeshError, match="no context 'b'"):
        await deploy("kubernetes", settings={"kubeconfig": str(path), "context": "b"})
    with pytest.raises(MeshError, match="No such file"):
        await deploy("kubernetes", settings={"kubeconfig": str(tmp_path / "none")})


async def test_no_file_of_the_runner_serves_a_tenants_own_server(
    deploy: Any, tmp_path: Path
) -> None:
    for settings in ({"in_cluster": True}, {"kubeconfig": str(tmp_path / "config")}):
        with pytest.raises(MeshError, match="tenant's own"):
            await deploy("kubernetes", trusted=False, settings=settings)


async def test_its_life_ends_when_the_api_server_is_gone(
    deploy: Any, api: Replay, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    k8s = await deploy("kubernetes", url=api.url, bearer=f"file:{token}", check_s=0.05)
    api.broken = 503
    assert "503" in await asyncio.wait_for(k8s.server.wait_ended(), 5)
