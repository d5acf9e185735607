"""The line of a key is found whatever TOML allows around it."""

import tomllib

from mesh_cli.config_check.positions import key_lines, line_of

TEXT = '''# comment [not.a.table]
top = 1
[server]   # a comment
"port" = 3000
name = """
[not.a.table]
port = 1
"""
list = [
  "a", # ]
  "[b]",
]
a.b = { c = "]", d = '#' }

[[mcp_servers]]
name = "one"
[mcp_servers.env]
A = "1"
[[mcp_servers]]
name = 'two'
[[mcp_servers.settings.tools]]
name = "x"
[[mcp_servers.settings.tools]]
name = "y"
'''


def test_keys_have_the_lines_on_which_they_stand() -> None:
    tomllib.loads(TEXT)
    lines = key_lines(TEXT)
    assert {
        key: lines[key]
        for key in (
            "top",
            "server",
            "server.port",
            "server.name",
            "server.list",
            "server.a.b",
            "mcp_servers[0].name",
            "mcp_servers[0].env.A",
            "mcp_servers[1]",
            "mcp_servers[1].name",
            "mcp_servers[1].settings.tools[1].name",
        )
    } == {
        "top": 2,
        "server": 3,
        "server.port": 4,
        "server.name": 5,
        "server.list": 9,
        "server.a.b": 13,
        "mcp_servers[0].name": 16,
        "mcp_servers[0].env.A": 18,
        "mcp_servers[1]": 19,
        "mcp_servers[1].name": 20,
        "mcp_servers[1].settings.tools[1].name": 24,
    }
    assert "not.a.table" not in lines


def test_key_without_a_line_gets_that_of_what_holds_it() -> None:
    lines = key_lines(TEXT)
    assert line_of(lines, "mcp_servers[0].command") == 15
    assert line_of(lines, "server.a.b.c") == 13
    assert line_of(lines, "server.list[1]") == 9
    assert line_of(lines, "nowhere") == 0


def test_odd_text_ends() -> None:
    for text in ("", "=", "[", "[[", "a", 'a = "', "a = '''x", '"', "[[a]]\n[a.b]\nc", "\x00=1"):
        key_lines(text)
