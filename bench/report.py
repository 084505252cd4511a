"""The comparison of runs as one HTML file that needs nothing else: `python -m bench.report TRACE --out report.html`."""

import argparse
import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench import plots, table
from sim import trace
from sim.trace import Program

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222 }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums }}
td, th {{ padding: .1rem .9rem; text-align: right }}
td:first-child, td:nth-child(2), th:first-child, th:nth-child(2) {{ text-align: left }}
tr.first td {{ border-top: 1px solid #999; font-weight: 600 }}
img {{ max-width: 100% }} .note {{ color: #555 }}
</style></head><body>
<h1>{title}</h1>
{body}
</body></html>
"""


def page(runs: Mapping[str, Sequence[Program]], title: str, notes: Sequence[str] = ()) -> str:
    """The whole document. `notes`: sentences on how the runs were made."""
    parts = [f'<p class="note">{html.escape(note)}</p>' for note in notes]
    parts += ["<h2>Why</h2><ul>", *(f"<li>{html.escape(line)}</li>" for line in table.explain(runs)), "</ul>"]
    parts += ["<h2>Where the time went</h2>", _image(plots.shape_bars(runs), "mean JCT by shape")]
    parts += ["<h2>Program completion time</h2>", _image(plots.jct_cdf(runs), "JCT distribution")]
    parts += ["<h2>Queue length</h2>", _image(plots.queue_length(runs), "calls queued over time")]
    for name, programs in runs.items():
        parts += [f"<h2>Programs under {html.escape(name)}</h2>", _image(plots.timeline(programs), f"timeline {name}")]
    parts += ["<h2>Numbers</h2>", _table(runs)]
    return _PAGE.format(title=html.escape(title), body="\n".join(parts))


def read_runs(path: Path) -> dict[str, list[Program]]:
    """The recorded runs of a trace file, by name."""
    runs: dict[str, list[Program]] = {}
    for program in trace.read(path):
        runs.setdefault(program.run or "run", []).append(program)
    return runs


def _table(runs: Mapping[str, Sequence[Program]]) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ("shape", "metric", *runs, "ratio"))
    lines = ["<table>", f"<tr>{head}</tr>"]
    for shape, shape_rows in table.rows(runs).items():
        for number, row in enumerate(shape_rows):
            cells = (shape if number == 0 else "", row.metric, *row.values, row.ratio)
            first = ' class="first"' if number == 0 else ""
            lines.append(f"<tr{first}>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>")
    note = '<p class="note">Seconds. Queue to other: mean per program on its critical path; they add up to the JCT.</p>'
    return "\n".join([*lines, "</table>", note])


def _image(png: bytes, text: str) -> str:
    return f'<img alt="{html.escape(text)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=__doc__)
    parser.add_argument("trace", type=Path, help="trace file of recorded runs")
    parser.add_argument("--out", type=Path, default=Path("report.html"))
    arguments = parser.parse_args()
    arguments.out.write_text(page(read_runs(arguments.trace), "Legato: recorded runs"), encoding="utf-8")


if __name__ == "__main__":
    main()
