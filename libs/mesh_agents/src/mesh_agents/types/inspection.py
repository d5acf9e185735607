"""What ``reviewer`` and ``security`` have in common: files in, a ``Report`` out."""

import time
from collections.abc import Callable, Mapping, Sequence

from mesh_agents.contract import StepFailedError, StepInput, StepOutput
from mesh_agents.types.findings import FINDINGS_MAX, Raw, Report, lines_of, report_of
from mesh_agents.types.inputs import Input, input_of, refuse
from mesh_agents.types.linters import PYTHON, Asked
from mesh_agents.types.places import FILE_BYTES_MAX, Found, read_bytes, roots_of, walk
from mesh_agents.types.suppressions import ALL, silenced

__all__ = ["Inspect", "Inspection", "inspect"]

FILES_MAX = 5_000
"""Files of one step; a larger tree is sharded by files."""

Inspect = Callable[[Asked], list[Raw]]


class Inspection(Input, frozen=True, kw_only=True):
    """Input of ``reviewer`` and ``security``.

    Attributes:
        root: folder that names are relative to; "" = the only root.
        files: files and folders below it; empty = all of it.
        tools: which to run; empty = ``config.tools`` of the agent, or else all of the type.
        unmapped: rules without a class are findings too.
        comments: ``honour`` = a comment (``noqa``, ``nosec``, ``pylint: disable``) silences its
            class for all tools; ``ignore`` = nothing does (but pylint heeds its own).
    """

    root: str = ""
    files: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    unmapped: bool = False
    comments: str = "honour"


def inspect(
    step: StepInput,
    known: Mapping[str, Inspect],
    versions: Callable[[str], str],
    *,
    suffixes: Sequence[str],
    without: Sequence[str] = (),
) -> StepOutput:
    """Run the tools one after the other over the files; the output is a ``Report``.

    Args:
        step: the step.
        known: tools of the type.
        versions: version of a tool; raises ``not_installed``.
        suffixes: of files in a folder; empty = all.
        without: tools that run only when they are asked for.

    Raises:
        StepFailedError: ``input``, ``limit``, ``not_installed`` (a tool that is wanted and is
            not there), ``exit`` (a tool that broke), ``timeout``.
    """
    until = time.monotonic() + step.timeout_s
    wanted = input_of(step, Inspection)
    if wanted.comments not in ("honour", "ignore"):
        raise refuse("input.comments: honour or ignore")
    tools = _tools(step, wanted, list(known), without)
    roots = roots_of(step)
    if wanted.root:
        roots = roots.within(wanted.root)
    found = walk(roots, wanted.files, suffixes=suffixes, files_max=FILES_MAX)
    files, texts, skipped = _readable(found)
    raw: list[Raw] = []
    ran = {tool: versions(tool) for tool in tools}
    for number, tool in enumerate(tools):
        step.report(number, len(tools), tool)
        if files:
            left = max(until - time.monotonic(), 0.1)
            raw += known[tool](
                Asked(
                    files=files, texts=texts, workdir=step.workdir, timeout_s=left,
                    everything=wanted.unmapped,
                )
            )  # fmt: skip
    lines = {one.name: lines_of(texts[one.name]) for one in files if one.path.suffix in PYTHON}
    report = report_of(
        raw, lines=lines, tools=ran, looked_at=len(files), unmapped=wanted.unmapped,
        skipped=skipped,
    )  # fmt: skip
    if wanted.comments == "honour":
        report = _heeded(report, texts, lines)
    if len(report.findings) > FINDINGS_MAX:
        raise StepFailedError(
            f"{len(report.findings)} findings are too many for one step: name fewer files",
            type="limit",
            retryable=False,
        )
    return StepOutput(structured=report, text=_summary(report))


def _tools(
    step: StepInput, wanted: Inspection, known: Sequence[str], without: Sequence[str]
) -> list[str]:
    asked: object = wanted.tools or step.config.get("tools")
    if not asked:
        # An agent that declares some of the tools as capabilities votes as those.
        declared = step.config.get("capabilities")
        some = [tool for tool in known if isinstance(declared, list) and tool in declared]
        return some or [tool for tool in known if tool not in without]
    if not isinstance(asked, list | tuple):
        raise refuse("config.tools: a list of names")
    names = [str(name) for name in asked]  # type: ignore[misc]
    for name in names:
        if name not in known:
            raise refuse(f"unknown tool {name}; there are {', '.join(known)}")
    return list(dict.fromkeys(names))


def _readable(
    found: Sequence[Found],
) -> tuple[list[Found], dict[str, str], dict[str, str]]:
    files: list[Found] = []
    texts: dict[str, str] = {}
    skipped: dict[str, str] = {}
    for one in found:
        try:
            content = read_bytes(one, limit=FILE_BYTES_MAX + 1)
        except OSError:
            skipped[one.name] = "unreadable"
            continue
        if len(content) > FILE_BYTES_MAX:
            skipped[one.name] = f"larger than {FILE_BYTES_MAX} bytes"
        elif b"\0" in content:
            skipped[one.name] = "binary"
        else:
            files.append(one)
            texts[one.name] = content.decode("utf-8", errors="replace")
    return files, texts, skipped


def _heeded(
    report: Report, texts: Mapping[str, str], lines: Mapping[str, Mapping[int, int]]
) -> Report:
    marks = {
        name: silenced(texts[name], lines.get(name, {}))
        for name in {one.file for one in report.findings} & set(texts)
    }

    def stays(file: str, line: int, kind: str) -> bool:
        silent = marks.get(file, {}).get(line, frozenset[str]())
        return not (silent and (ALL in silent or kind in silent))

    kept = [one for one in report.findings if stays(one.file, one.line, one.kind)]
    return Report(
        findings=kept, tools=report.tools, knows=report.knows, files=report.files,
        unmapped=report.unmapped, skipped=report.skipped,
        silenced=len(report.findings) - len(kept),
    )  # fmt: skip


def _summary(report: Report) -> str:
    tools = ", ".join(report.tools)
    return f"{len(report.findings)} findings in {report.files} files by {tools}"
