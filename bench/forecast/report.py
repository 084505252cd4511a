"""The report: what each set reached, and whether that is what was wanted."""

from collections.abc import Iterable
from typing import Any

from bench.forecast.truth import QUANTITIES

GOALS = {"least_coverage": 0.75, "most_coverage": 0.85, "least_lower": 0.2}
_FIGURES = ("coverage", "lower", "lower_log", "median_error", "median_error_of_one_law", "never_said", "never_happened")


def summary(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each set and quantity, the means over the seeds."""
    lines: list[dict[str, Any]] = []
    for row in rows:
        for name in QUANTITIES:
            results = [run["quantities"][name] for run in row["runs"] if run["quantities"].get(name)]
            if not results:
                continue
            line: dict[str, Any] = {"set": row["set"], "quantity": name, "gaps": row["gaps"], "seeds": len(results)}
            line["values"] = sum(result["values"] for result in results)
            for figure in _FIGURES:
                line[figure] = round(sum(result[figure] for result in results) / len(results), 4)
            line["lower_each"] = [round(result["lower"], 3) for result in results]
            line["event_us"] = round(sum(run["event_us"] for run in row["runs"]) / len(row["runs"]), 1)
            line["covered"] = GOALS["least_coverage"] <= line["coverage"] <= GOALS["most_coverage"]
            line["sharper"] = line["lower"] >= GOALS["least_lower"]
            lines.append(line)
    return lines


def page(lines: list[dict[str, Any]]) -> str:
    """Markdown."""
    return "\n".join(
        [
            "# Forecasts of programs not seen before",
            "",
            "`make bench-forecast`: the last fifth of each set's programs, after the others went through one core;",
            "nothing declared but the names of agents, tenants and models; some of the others may be of the same task",
            "(in tau2_sierra most are). Coverage: of the 80 % interval (wanted: 75 to 85 %). Lower: pinball loss below",
            "that of one law for all (wanted: 20 %), in the quantity's unit and of its logarithm. Output in tokens;",
            "what remains of the program, in engine seconds, and the time to a thread's next call in seconds.",
            "`+` reached, `-` not. Times of a core's event are CPU time, with the structure's part.",
            "",
            "| set | quantity | values | coverage | lower | by seed | lower (log) | median error | of one law"
            " | never: said / came | us/event |",
            "|---|---|---|---|---|---|---|---|---|---|---|",
            *(_row(line) for line in lines),
            "",
            *_verdict(lines),
            "",
            *_sources(lines),
            "",
        ]
    )


def _row(line: dict[str, Any]) -> str:
    never = f"{line['never_said']:.3f} / {line['never_happened']:.3f}" if line["quantity"] == "returns" else ""
    cells = (
        line["set"],
        line["quantity"],
        line["values"],
        f"{line['coverage']:.1%} {'+' if line['covered'] else '-'}",
        f"{line['lower']:.1%} {'+' if line['sharper'] else '-'}",
        ", ".join(f"{each:.0%}" for each in line["lower_each"]),
        f"{line['lower_log']:.1%}",
        f"{line['median_error']:.2f}",
        f"{line['median_error_of_one_law']:.2f}",
        never,
        line["event_us"],
    )
    return "| " + " | ".join(map(str, cells)) + " |"


def _verdict(lines: list[dict[str, Any]]) -> list[str]:
    verdicts: list[str] = []
    for name in QUANTITIES:
        of = [line for line in lines if line["quantity"] == name]
        if of:
            covered, sharper = (sum(line[goal] for line in of) for goal in ("covered", "sharper"))
            verdicts.append(f"- {name}: {covered} of {len(of)} sets covered, {sharper} of {len(of)} sharper by 20 %")
    return verdicts


def _sources(lines: list[dict[str, Any]]) -> list[str]:
    gaps = {line["set"]: line["gaps"] for line in lines}
    return [
        "Times to the next call: "
        + "; ".join(f"{name}: {what or 'not recorded, so not measured'}" for name, what in gaps.items())
        + "."
    ]
