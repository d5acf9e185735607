"""The official JavaScript client, with nothing of ours, calls tools and reads discovery."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.running_mesh import RunningMesh

FOLDER = Path(__file__).parent / "js"
NO_NODE = "node is not installed: the JavaScript client cannot be tried (Node 20+ brings npm)"
NO_NETWORK = "the JavaScript client cannot be installed (npm reached no registry)"


@pytest.fixture(scope="module")
def packages() -> None:
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip(NO_NODE)
    installed = subprocess.run(
        [str(FOLDER / "install")],
        capture_output=True,
        text=True,
        timeout=50,
        env={**os.environ, "npm_config_fetch_retries": "1"},
        check=False,
    )
    if installed.returncode != 0:
        print(installed.stdout, installed.stderr)
        pytest.skip(NO_NETWORK)


@pytest.fixture(scope="module")
def told(packages: None, mesh: RunningMesh) -> dict[str, Any]:
    ran = subprocess.run(
        ["node", "call.mjs", mesh.nats, mesh.seed("demo"), mesh.seed("operator")],
        cwd=FOLDER,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def test_javascript_calls_tools_by_subject(told: dict[str, Any]) -> None:
    assert not told["set"]["result"].get("isError")
    assert told["get"]["result"]["structuredContent"]["value"] == {"from": "javascript"}
    assert not told["time"]["result"].get("isError")


def test_javascript_reads_service_discovery(told: dict[str, Any]) -> None:
    names = {"gateway", "registry", "tenant-auth", "tool-runner"}
    for verb in ("ping", "info", "stats"):
        assert {one["name"] for one in told[verb]} >= names, verb
        assert {one["type"] for one in told[verb]} == {f"io.nats.micro.v1.{verb}_response"}
    assert set(told["typed"]) >= names


@pytest.mark.slow
def test_javascript_reads_a_bucket(told: dict[str, Any]) -> None:
    assert len(told["catalog"]) >= 3
    assert told["entry"]["server"]
