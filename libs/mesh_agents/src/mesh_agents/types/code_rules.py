"""Dangerous calls in Python, found in the syntax tree with imports followed to their names."""

import ast
from collections.abc import Callable, Mapping

from mesh_agents.types.findings import Raw
from mesh_agents.types.syntax import NotPythonError, parsed

__all__ = ["TOOL", "code_findings"]

TOOL = "ast"
_UNSAFE_LOADERS = frozenset({"Loader", "UnsafeLoader", "FullLoader"})
_SHELLS = frozenset(
    f"subprocess.{name}"
    for name in ("run", "call", "check_call", "check_output", "Popen")
)  # fmt: skip
_SHELL_ALWAYS = frozenset(
    {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput",
     "commands.getoutput"}
)  # fmt: skip
_PICKLES = frozenset(
    f"{module}.{name}"
    for module in ("pickle", "_pickle", "cPickle", "dill", "cloudpickle")
    for name in ("load", "loads", "Unpickler")
) | {"shelve.open", "pandas.read_pickle", "joblib.load"}
_HASHES = frozenset({"hashlib.md5", "hashlib.sha1"})
_REQUESTS = frozenset(
    f"{module}.{name}"
    for module in ("requests", "httpx", "requests.Session", "httpx.Client", "httpx.AsyncClient")
    for name in ("get", "post", "put", "patch", "delete", "head", "options", "request", "stream")
) | {"httpx.Client", "httpx.AsyncClient"}
_EXACT: Mapping[str, tuple[str, str]] = {
    "eval": ("eval", "eval runs any expression it is given"),
    "builtins.eval": ("eval", "eval runs any expression it is given"),
    "exec": ("exec", "exec runs any code it is given"),
    "builtins.exec": ("exec", "exec runs any code it is given"),
    "marshal.load": ("marshal", "marshal reads code objects; not for data of others"),
    "marshal.loads": ("marshal", "marshal reads code objects; not for data of others"),
    "tempfile.mktemp": ("temporary-name", "the name can be taken before it is opened"),
    "ssl._create_unverified_context": (
        "certificates-not-verified", "this context trusts every certificate",
    ),
    **dict.fromkeys(_PICKLES, ("pickle", "unpickling runs code of whoever wrote the data")),
    **dict.fromkeys(_SHELL_ALWAYS, ("shell", "runs its text in a shell")),
}  # fmt: skip


def code_findings(name: str, source: str) -> list[Raw]:
    """Findings in one Python file; a file that does not parse is one finding."""
    try:
        tree = parsed(source)
    except NotPythonError as error:
        return [Raw(name, error.line, "syntax-error", TOOL, error.message)]
    names = _imports(tree)
    found: list[Raw] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = _dotted(node.func, names)
            said = _judged(called, node, names) if called else None
            if said is not None:
                found.append(Raw(name, node.lineno, said[0], TOOL, said[1]))
    return found


def _judged(called: str, call: ast.Call, names: Mapping[str, str]) -> tuple[str, str] | None:
    exact = _EXACT.get(called)
    if exact is not None:
        return exact
    for applies, judge in _BY_ARGUMENT:
        if applies(called):
            return judge(called, call, names)
    return None


def _shell(called: str, call: ast.Call, names: Mapping[str, str]) -> tuple[str, str] | None:
    if _true(_keyword(call, "shell")):
        return "shell", "shell=True gives the text to a shell"
    return None


def _yaml(called: str, call: ast.Call, names: Mapping[str, str]) -> tuple[str, str] | None:
    loader = _keyword(call, "Loader") or (call.args[1] if len(call.args) > 1 else None)
    used = (_dotted(loader, names) or "").rpartition(".")[2] if loader is not None else ""
    if loader is None or used in _UNSAFE_LOADERS:
        return "yaml-load", "yaml.load makes any object; use safe_load"
    return None


def _hash(called: str, call: ast.Call, names: Mapping[str, str]) -> tuple[str, str] | None:
    name = called.rpartition(".")[2]
    if called == "hashlib.new":
        first = call.args[0] if call.args else _keyword(call, "name")
        name = str(first.value).lower() if isinstance(first, ast.Constant) else ""
    if name not in ("md5", "sha1", "md4"):
        return None
    secure = _keyword(call, "usedforsecurity")
    if isinstance(secure, ast.Constant) and secure.value is False:
        return None
    return "weak-hash", f"{name} is broken; say usedforsecurity=False where that does not matter"


def _verify(called: str, call: ast.Call, names: Mapping[str, str]) -> tuple[str, str] | None:
    verify = _keyword(call, "verify")
    if isinstance(verify, ast.Constant) and verify.value is False:
        return "certificates-not-verified", "verify=False trusts every certificate"
    return None


def _extract(called: str, call: ast.Call, names: Mapping[str, str]) -> tuple[str, str] | None:
    if _keyword(call, "filter") is None and _keyword(call, "members") is None:
        return "archive-extraction", "members may lie outside the folder; give filter='data'"
    return None


_Judge = Callable[[str, ast.Call, Mapping[str, str]], tuple[str, str] | None]
_BY_ARGUMENT: tuple[tuple[Callable[[str], bool], _Judge], ...] = (
    (_SHELLS.__contains__, _shell),
    ({"yaml.load", "yaml.load_all"}.__contains__, _yaml),
    ((_HASHES | {"hashlib.new"}).__contains__, _hash),
    (_REQUESTS.__contains__, _verify),
    (lambda called: called in ("tarfile.open.extractall", "tarfile.TarFile.extractall"), _extract),
)


def _imports(tree: ast.AST) -> dict[str, str]:
    """Local name → what it was imported as, and of ``tar = tarfile.open(…)`` what was called."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                local = alias.asname or alias.name.partition(".")[0]
                names[local] = alias.name if alias.asname else local
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    for node in ast.walk(tree):
        name, value = _made(node)
        if name and isinstance(value, ast.Call):
            called = _dotted(value.func, names)
            if called in ("tarfile.open", "tarfile.TarFile"):
                names[name] = called
    return names


def _made(node: ast.AST) -> tuple[str, ast.expr | None]:
    """Name and value of ``name = value`` and ``with value as name``."""
    if isinstance(node, ast.withitem) and isinstance(node.optional_vars, ast.Name):
        return node.optional_vars.id, node.context_expr
    if isinstance(node, ast.Assign) and len(node.targets) == 1:
        target = node.targets[0]
        if isinstance(target, ast.Name):
            return target.id, node.value
    return "", None


def _dotted(node: ast.expr | None, names: Mapping[str, str]) -> str:
    """``sp.run`` → ``subprocess.run`` after ``import subprocess as sp``; "" = not a plain name."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if isinstance(node, ast.Call):
        parts.append(_dotted(node.func, names))
    elif isinstance(node, ast.Name):
        parts.append(names.get(node.id, node.id))
    else:
        return ""
    return ".".join(reversed(parts))


def _keyword(call: ast.Call, name: str) -> ast.expr | None:
    return next((one.value for one in call.keywords if one.arg == name), None)


def _true(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and bool(node.value)
