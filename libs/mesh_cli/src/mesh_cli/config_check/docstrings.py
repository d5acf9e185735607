"""The words of a Struct's docstring, per field: what the reference says, editors show too."""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator

__all__ = ["about", "fields_of"]

_ENTRY = re.compile(r"^ {4}(?=\w[\w, ]*:)", re.MULTILINE)
_TABLE = re.compile(r"\A(?:Table )?``\[+[\w.]+\]+``[.:]?\s*")


def about(owner: type) -> str:
    """The text before ``Attributes:``, without the name of the table that it may begin with."""
    text = inspect.cleandoc(owner.__doc__ or "").partition("Attributes:")[0]
    return _plain(_TABLE.sub("", text))


def fields_of(owner: type) -> dict[str, str]:
    """Texts by field: from ``Attributes:``, else from below the field."""
    base = owner.__base__
    found = fields_of(base) if base is not None and base.__module__ == owner.__module__ else {}
    found |= dict(_below(owner))
    section = inspect.cleandoc(owner.__doc__ or "").partition("Attributes:\n")[2]
    for entry in _ENTRY.split(section)[1:]:
        name, _, text = entry.partition(":")
        found[name.strip()] = _plain(text)
    return found


def _below(owner: type) -> Iterator[tuple[str, str]]:
    tree = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0]
    assert isinstance(tree, ast.ClassDef)
    for at, node in enumerate(tree.body[:-1]):
        match node, tree.body[at + 1]:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                yield name, _plain(text)
            case _:
                pass


def _plain(text: str) -> str:
    return " ".join(text.replace("``", "`").split())
