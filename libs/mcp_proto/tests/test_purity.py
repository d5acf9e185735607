import ast
from pathlib import Path

import mcp_proto

FORBIDDEN = {
    "asyncio",
    "socket",
    "time",
    "random",
    "os",
    "logging",
    "nats",
    "secrets",
    "threading",
    "datetime",
    "json",
    "mcp_types",
}


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


def test_no_module_reaches_for_clock_network_or_chance() -> None:
    (root,) = mcp_proto.__path__
    modules = list(Path(root).rglob("*.py"))
    assert len(modules) > 30
    for path in modules:
        tops = {name.split(".")[0] for name in imported(path)}
        assert not tops & FORBIDDEN, path.name
        assert len(path.read_text().splitlines()) <= 500, path.name
