"""The effective configuration shows everything but secrets."""

import tomllib
from pathlib import Path

from mesh_cli import user_file
from mesh_cli.config_check.effective import MASK, effective

TEXT = """
[security]
auth_token = "hunter2-hunter2-hunter2"
[[mcp_servers]]
name = "one"
command = "python"
args = ["--token", "hunter2", "--api-key=hunter2", "--verbose", "x"]
env = { GITHUB_TOKEN = "hunter2", LEVEL = "info" }
[[mcp_servers]]
name = "two"
transport = "http"
url = "https://mcp.example.com/mcp?key=hunter2"
bearer = "env:TWO_TOKEN"
headers = { X-Plain = "hunter2", X-Key = "file:/run/key" }
"""


def test_secrets_are_masked_and_references_and_defaults_are_shown(tmp_path: Path) -> None:
    path = tmp_path / "mesh.toml"
    path.write_text(TEXT)
    shown = effective(user_file.read(str(path), {}).content)

    assert "hunter2" not in shown
    table = tomllib.loads(shown)
    one, two = table["mcp_servers"]
    assert table["security"]["auth_token"] == MASK
    assert table["performance"]["max_connections"] == 1000
    assert one["args"] == ["--token", MASK, f"--api-key={MASK}", "--verbose", "x"]
    assert one["env"] == {"GITHUB_TOKEN": MASK, "LEVEL": "info"}
    assert two["bearer"] == "env:TWO_TOKEN"
    assert two["headers"] == {"X-Plain": MASK, "X-Key": "file:/run/key"}
    assert two["url"].startswith("https://mcp.example.com/mcp")
