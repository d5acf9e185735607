"""Run by the image's own Python while it is built: bytecode instead of sources, in one order."""

import compileall
import py_compile
import sys
from pathlib import Path


def main() -> None:
    root = Path(sys.argv[1])
    for folder in sys.argv[2:]:
        for source in sorted((root / folder).rglob("*.py")):
            made = compileall.compile_file(
                source,
                stripdir=str(root),
                prependdir="/",
                legacy=True,
                quiet=1,
                force=True,
                invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
            )
            if not made:
                raise SystemExit(f"{source} cannot be compiled")
            source.unlink()


main()
