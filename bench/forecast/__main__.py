"""`python -m bench.forecast`: how well the workflow core foresees programs that it has not seen, on recorded ones.

A set's programs come in random order, many at once, through one core; nothing is declared but the names of agents,
tenants and models, as far as the source tells them. The forecasts of the last fifth are measured against what came,
each before its truth was known, beside one law for all: the values of the programs before. Other programs of the same
task may be among those. Coverage is of the 80 % interval; loss is the pinball loss, mean over the quantiles 0.1
to 0.9. Output is measured as a call begins, what remains of its program too, the return as a call ends.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.progress import Progress

from bench.forecast import report, sets
from bench.forecast.run import run


def main() -> None:
    arguments = _arguments()
    chosen = [one for one in sets.SETS if not arguments.sets or one.name in arguments.sets.split(",")]
    seeds = range(1, arguments.seeds + 1)
    rows: list[dict[str, Any]] = []
    with Progress() as progress:
        task = progress.add_task("forecast", total=len(chosen) * len(seeds))
        for one in chosen:
            progress.update(task, description=one.name)
            found = sets.programs(one, arguments.traces)
            runs: list[dict[str, Any]] = []
            for seed in seeds:
                runs.append(run(one, found, seed, declared=arguments.declared))
                progress.advance(task)
            rows.append({"set": one.name, "programs": len(found), "gaps": one.gaps, "runs": runs})
    summary = report.summary(rows)
    arguments.out.write_text(json.dumps({"goals": report.GOALS, "summary": summary, "rows": rows}, indent=1) + "\n")
    arguments.out.with_suffix(".md").write_text(report.page(summary))
    sys.stdout.write(report.page(summary))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.forecast", description="Calibration of what is foreseen")
    parser.add_argument("--traces", type=Path, default=Path("../shared/traces"))
    parser.add_argument("--sets", default="", help="names with commas between; default: all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--declared", action="store_true", help="parents, threads and steps are told")
    parser.add_argument("--out", type=Path, default=Path("bench/results/forecast.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
