"""`python -m bench.reproductions [NAME...]`: papers' headlines beside what their settings give here.

Without names all of them, into `bench/results/reproductions.md` and `.json`; with names, those, on the terminal.
"""

import argparse
import json
import multiprocessing
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict

from rich.console import Console
from rich.markdown import Markdown

from bench.policies import cache
from bench.policies.runner import yielding
from bench.reproductions import Row, load, measured_rows, names

RESULTS = cache.ROOT / "bench" / "results"
_MARKS = {True: "yes", False: "no", None: ""}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.reproductions", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(names())}")
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    chosen = arguments.names or names()
    console = Console()
    measured: dict[str, Sequence[Row]] = {}
    failed: list[str] = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(arguments.processes, context, yielding) as pool:
        futures = {name: pool.submit(measured_rows, name) for name in chosen}
        for name, future in futures.items():
            if (error := future.exception()) is not None:
                failed.append(name)
                console.print(f"{name}: {error!r}", markup=False)
                continue
            measured[name] = future.result()
            console.print(Markdown("\n".join(section(name, measured[name]))))
    if not arguments.names:
        content = {name: [asdict(row) for row in rows] for name, rows in measured.items()}
        (RESULTS / "reproductions.json").write_text(json.dumps(content, indent=1) + "\n")
        (RESULTS / "reproductions.md").write_text(page(measured))
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def page(measured: dict[str, Sequence[Row]]) -> str:
    lines = ["# Reproductions", "", f"`python -m bench.reproductions`, code {cache.code_version()}.", ""]
    claims = [row.holds for rows in measured.values() for row in rows if row.holds is not None]
    lines += [f"{sum(claims)} of {len(claims)} claims are seen here.", ""]
    for name, rows in measured.items():
        lines += [*section(name, rows), ""]
    return "\n".join(lines)


def section(name: str, rows: Sequence[Row]) -> Iterator[str]:
    """Of one paper."""
    paper = load(name)
    yield f"## {paper.TITLE}"
    yield ""
    yield f"- Claimed: {paper.HEADLINE}"
    yield f"- Simulated: {paper.SETTING}"
    yield f"- What differs: {paper.DIFFERENCE}"
    yield f"- Command: `python -m bench.reproductions {name}`"
    yield ""
    yield "| figure | published | ours | seen |"
    yield "|---|---|---|---|"
    for row in rows:
        yield f"| {row.what} | {row.published} | {row.ours} | {_MARKS[row.holds]} |"


if __name__ == "__main__":
    main()
