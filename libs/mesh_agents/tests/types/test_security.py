"""Dangerous calls and secrets in real files."""

from pathlib import Path
from typing import Any

import pytest

from mesh_agents.contract import StepFailedError
from mesh_agents.types import security
from mesh_agents.types.code_rules import code_findings
from mesh_agents.types.secret_rules import entropy, secret_findings

CALLS = [
    ("eval(x)", "eval"),
    ("import builtins as b; b.exec(x)", "exec"),
    ("import subprocess as sp; sp.run(x, shell=True)", "shell"),
    ("from subprocess import Popen as P; P(x, shell=1)", "shell"),
    ("import os; os.system(x)", "shell"),
    ("from os import popen; popen(x)", "shell"),
    ("import pickle; pickle.loads(x)", "pickle"),
    ("from pickle import Unpickler; Unpickler(f)", "pickle"),
    ("import marshal; marshal.load(f)", "marshal"),
    ("import yaml; yaml.load(x)", "yaml-load"),
    ("import yaml; yaml.load(x, Loader=yaml.Loader)", "yaml-load"),
    ("import yaml; yaml.load(x, yaml.UnsafeLoader)", "yaml-load"),
    ("import hashlib; hashlib.md5(x)", "weak-hash"),
    ("import hashlib; hashlib.new('SHA1', x)", "weak-hash"),
    ("import requests; requests.get(x, verify=False)", "certificates-not-verified"),
    ("import httpx; httpx.AsyncClient(verify=False)", "certificates-not-verified"),
    ("import ssl; ssl._create_unverified_context()", "certificates-not-verified"),
    ("import tempfile; tempfile.mktemp()", "temporary-name"),
    ("import tarfile; tarfile.open(x).extractall(y)", "archive-extraction"),
    ("import tarfile\nwith tarfile.open(x) as t: t.extractall(y)", "archive-extraction"),
    ("def f(:", "syntax-error"),
]
FINE = [
    "model.eval()",
    "import subprocess; subprocess.run(['ls'])",
    "import subprocess; subprocess.run(x, shell=False)",
    "import yaml; yaml.load(x, Loader=yaml.SafeLoader)",
    "import yaml; yaml.safe_load(x)",
    "import hashlib; hashlib.md5(x, usedforsecurity=False)",
    "import hashlib; hashlib.sha256(x)",
    "import requests; requests.get(x)",
    "import tarfile\nwith tarfile.open(x) as t: t.extractall(y, filter='data')",
    "import mypickle as pickle; pickle.loads(x)",
    "# eval(x)\n'eval(x)'",
]


@pytest.mark.parametrize(("code", "kind"), CALLS)
def test_dangerous_call_is_found(code: str, kind: str) -> None:
    assert [one.rule for one in code_findings("a.py", code)] == [kind]


@pytest.mark.parametrize("code", FINE)
def test_harmless_call_is_not_found(code: str) -> None:
    assert code_findings("a.py", code) == []


def _token(prefix: str, length: int) -> str:
    """Made here, so that this file has no secret in it."""
    return prefix + "".join("A7b9Zq2Xk4mD8sRw3GhT6p"[(i * 7 + i // 22) % 22] for i in range(length))


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("-----BEGIN RSA " + "PRIVATE KEY-----", "private-key"),
        ("key = " + "AKIA" + "Q7B9ZX2K4W8E1RTY", "aws-key"),
        (_token("ghp_", 36), "github-token"),
        (_token("xoxb-", 20), "slack-token"),
        (_token("AIza", 35), "google-key"),
        (_token("eyJ", 12) + _token(".eyJ", 12) + _token(".", 20), "jwt"),
        (_token("mk_live_", 12) + _token("_", 43) + "_0a1b2c3d", "mesh-key"),
        ("postgres://user:" + "s3cr3tw0rd" + "@db/x", "url-password"),
        (f'api_key = "{_token("", 30)}"', "high-entropy"),
        (f'"session-token": "{"0a9f4c7be1d2" * 3}"', "high-entropy"),
    ],
)
def test_secret_is_found_and_not_repeated(text: str, rule: str) -> None:
    found = secret_findings("a.cfg", f"x\n{text}\n")
    assert [(one.rule, one.line) for one in found] == [(rule, 2)]
    assert len(found[0].message) < 60
    secret = text.split('"')[-2] if rule == "high-entropy" else text
    assert secret not in found[0].message


@pytest.mark.parametrize(
    "text",
    [
        'api_key = "your_api_key_goes_here_1"',
        'password = "aaaaaaaaaaaaaaaaaaaaaaaa1"',
        'token = os.environ["THE_TOKEN_OF_MINE_12"]',
        "postgres://user:{password}@db/x",
        'secret_name = "projects/alpha/secrets"',
        "AKIA" + "IOSFODNN7EXAMPLE",
    ],
)
def test_placeholder_is_no_secret(text: str) -> None:
    assert secret_findings("a.cfg", text) == []


def test_entropy_is_that_of_shannon() -> None:
    assert entropy("") == 0
    assert entropy("aaaa") == 0
    assert entropy("abcd") == 2


def test_security_agrees_with_bandit_on_the_same_lines(root: Path, do: Any) -> None:
    (root / "bad.py").write_text("import pickle, yaml\n\nx = pickle.loads(b'')\nyaml.load(x)\n")
    (root / "app.cfg").write_text(f'api_key = "{_token("", 30)}"\n')
    found = do("security", {})
    assert set(found["tools"]) == {"ast", "secrets", "bandit"}
    seen = {(one["file"], one["line"], one["class"], one["tool"]) for one in found["findings"]}
    for tool in ("ast", "bandit"):
        assert {("bad.py", 3, "pickle", tool), ("bad.py", 4, "yaml-load", tool)} <= seen
    assert ("app.cfg", 1, "secret", "secrets") in seen
    assert found["files"] == 2


def test_bandit_is_part_of_the_default_only_where_it_is_installed(
    root: Path, do: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "a.py").write_text("eval(x)\n")
    monkeypatch.setattr(security.importlib.util, "find_spec", lambda name: None)
    assert set(do("security", {})["tools"]) == {"ast", "secrets"}
    monkeypatch.setattr(
        "mesh_agents.types.linters.importlib.metadata.version",
        lambda name: (_ for _ in ()).throw(
            security.version_of.__globals__["importlib"].metadata.PackageNotFoundError(name)
        ),
    )
    with pytest.raises(StepFailedError, match="bandit is not installed"):
        do("security", {"tools": ["bandit"]})


def test_comment_silences_security_findings_too(root: Path, do: Any) -> None:
    (root / "a.py").write_text("eval(x)  # nosec\neval(y)  # noqa: S307\neval(z)  # nosec B102\n")
    found = do("security", {"tools": ["ast"]})
    assert [one["line"] for one in found["findings"]] == [3]
