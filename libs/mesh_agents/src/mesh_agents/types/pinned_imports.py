"""Runs a module that must not import from what it looks at.

pylint puts the folder of a file that it checks in front of ``sys.path``: a ``json.py`` beside it
would run in its process at the next late import. Here modules are found where they were installed,
whatever ``sys.path`` says later.

``python -I -m mesh_agents.types.pinned_imports MODULE ARGUMENTS…``
"""

import runpy
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

__all__ = ["main"]


class _Pinned(PathFinder):
    path: tuple[str, ...] = ()

    @classmethod
    def find_spec(
        cls,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        return super().find_spec(fullname, list(cls.path) if path is None else path, target)


def main() -> None:
    """Run the module that the command line names, as ``-m`` would."""
    _Pinned.path = tuple(sys.path)
    sys.meta_path[:] = [_Pinned if entry is PathFinder else entry for entry in sys.meta_path]
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
