"""Python source to its syntax tree, or where and why not."""

import ast
import warnings

__all__ = ["NotPythonError", "parsed"]


class NotPythonError(ValueError):
    """It does not parse.

    Attributes:
        line: where, from 1.
        message: why.
    """

    def __init__(self, line: int, message: str) -> None:
        super().__init__(f"line {line}: {message}")
        self.line = line
        self.message = message


def parsed(source: str) -> ast.Module:
    """The tree.

    Raises:
        NotPythonError: a syntax error, a NUL, or nested too deeply.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what the parser warns of is for linters to say
            return ast.parse(source)
    except SyntaxError as error:
        raise NotPythonError(error.lineno or 1, error.msg) from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise NotPythonError(1, f"cannot be parsed: {error}") from None
