"""Prints the evaluation of the tool search, and writes it into its page.

usage: python -m tests.benchmarks.tool_search [--write FILE]
"""

import argparse
import re
from pathlib import Path

from tests.benchmarks.tool_search.evaluate import BYTES_PER_TOKEN, MANY, Report, measure

BEGIN, END = "<!-- search-bench -->", "<!-- /search-bench -->"


def text(report: Report) -> str:
    """The report as Markdown."""
    lines = [
        f"{report.tools} tools of {report.servers} published servers.",
        f"Tokens are bytes of JSON / {BYTES_PER_TOKEN}; no tokenizer is bundled.",
        "",
        "| ranking | half | queries | hit@1 | hit@3 | hit@5 |",
        "|---|---|---|---|---|---|",
        *(
            f"| {name} | {half} | {one.queries} | {one.at_1:.1%} | {one.at_3:.1%} | "
            f"{one.at_5:.1%} |"
            for name, half, one in report.rows
        ),
        "",
        "| context | bytes | tokens | of the full list |",
        "|---|---|---|---|",
        *(
            f"| {what} | {size:,} | {size // BYTES_PER_TOKEN:,} | {size / report.full_bytes:.2%} |"
            for what, size in (
                ("full list", report.full_bytes),
                ("search list (three tools)", report.search_bytes),
                ("one task: a search of 5 and one definition", report.task_bytes),
                ("search list and ten tasks", report.search_bytes + 10 * report.task_bytes),
            )
        ),
        "",
        "| time, one core | fixture | 2,000 tools |",
        "|---|---|---|",
        f"| make the index | {report.index_ms:.0f} ms | {report.index_many_ms:.0f} ms |",
        f"| one query, median | {report.query_ms:.2f} ms | {report.query_many_ms:.2f} ms |",
    ]
    assert MANY == 2_000
    return "\n".join(lines)


def main() -> None:
    """Entry point of `make bench-search`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, help="also put the tables into this page")
    args = parser.parse_args()
    said = text(measure())
    print(said)
    if args.write:
        page = args.write.read_text()
        block = f"{BEGIN}\n{said}\n{END}"
        args.write.write_text(re.sub(f"{BEGIN}.*{END}", lambda _: block, page, flags=re.DOTALL))


if __name__ == "__main__":
    main()
