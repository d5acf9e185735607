"""Whether a result keeps what a tool's output schema promises.

Strict clients refuse a result that does not, and then nobody sees it. Where the result comes from
something that was never checked (a program, a module, somebody's API), it is looked at first.
"""

from collections.abc import Mapping

import jsonschema_rs

__all__ = ["Promise"]

PROBLEM_CHARS_MAX = 300


class Promise:
    """An output schema, compiled.

    Args:
        schema: JSON Schema 2020-12; None = nothing is promised.

    Raises:
        ValueError: it is no schema.
    """

    def __init__(self, schema: Mapping[str, object] | None) -> None:
        self._validator = (
            None if schema is None else jsonschema_rs.Draft202012Validator(dict(schema))
        )

    def problem(self, value: object) -> str | None:
        """What of a value breaks the promise, with its path, as public text; None = nothing."""
        validator = self._validator
        if validator is None or validator.is_valid(value):
            return None
        first = next(iter(validator.iter_errors(value)))
        path = "/".join(str(part) for part in first.instance_path)
        return f"{path or 'the whole'}: {first.message}"[:PROBLEM_CHARS_MAX]
