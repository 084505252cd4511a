"""`python -m bench.structure`: who waited for whom, and which programs are of a kind, found without being told.

Traces are replayed as call logs that tell no parents, threads or workflows, with and without agents' names. Parents
count on the programs after the first 20 of each set; families on all sets mixed in random order, tenants not told.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.structure.edges import Edges, Score
from bench.structure.replay import RARE, WARM_UP, edges, families, flows, shuffled
from sim import workload

SETS = (
    "weka_claude_code",
    "agentcgroup_claude_code",
    "tau2_sierra",
    "taubench_airline_gpt4o",
    "chatdev_warehouse",
    "whowhen_groupchat",
    "whowhen_magentic",
    "lmcache_miniswe",
    "dynamo_pi_subagents",
    "tot_gpt4",
)
_OUT = Path(__file__).parent.parent / "results" / "structure.json"


def main() -> None:
    parser = argparse.ArgumentParser(description="What is learned of programs' structure from their calls alone.")
    parser.add_argument("--traces", type=Path, default=workload.TRACES)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--out", type=Path, default=_OUT, help="JSON; the report beside it is Markdown")
    arguments = parser.parse_args()
    programs = {name: shuffled(workload.load(name, traces=arguments.traces)) for name in arguments.sets.split(",")}
    sets: list[dict[str, Any]] = []
    totals = {agents: Edges() for agents in (True, False)}
    for name, some in programs.items():
        row: dict[str, Any] = {"set": name, "programs": len(some), "flows": asdict(flows(some))}
        for agents, total in totals.items():
            found, microseconds = edges(some, agents)
            row[_variant(agents)] = _scores(found) | {"microseconds": round(microseconds, 1)}
            total += found
        sets.append(row)
    grouped = {
        _variant(agents): asdict(families([program for some in programs.values() for program in some], agents))
        for agents in (True, False)
    }
    overall = {_variant(agents): _scores(total) for agents, total in totals.items()}
    result = {"warm_up": WARM_UP, "sets": sets, "overall": overall, "families": grouped}
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    text = page(result)
    arguments.out.with_suffix(".md").write_text(text)
    Console().print(text, markup=False, highlight=False, soft_wrap=True)


def page(result: dict[str, Any]) -> str:
    """The report."""
    lines = [
        "# Structure found in traces",
        "",
        "`python -m bench.structure`. No parents, threads or workflows are told. A set's programs come in random",
        f"order; those after the first {WARM_UP} count (all, where there are fewer). Edges and joins: precision and",
        "recall of the calls' parents, both sides reduced transitively. `graph`: of the edges between agents that are",
        f"known after {WARM_UP} programs of a workflow and that at least {RARE:.0%} of an agent's calls take, the",
        "share that its programs take; and the share of what later programs do that goes along them. Nothing queues in",
        "these logs; where a program makes one call at a time, time alone tells its parents.",
        "",
        "| set | programs | edges | agents named | unnamed | joins | named | unnamed | graph | µs a call |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in result["sets"]:
        named, unnamed, graph = row["named"], row["unnamed"], row["flows"]
        lines.append(
            f"| {row['set']} | {row['programs']} | {named['edges']['true']} | {_pair(named['edges'])} "
            f"| {_pair(unnamed['edges'])} | {named['joins']['true']} | {_pair(named['joins'])} "
            f"| {_pair(unnamed['joins'])} | {_flows(graph)} "
            f"| {max(named['microseconds'], unnamed['microseconds']):.0f} |"
        )
    named, unnamed = result["overall"]["named"], result["overall"]["unnamed"]
    lines += [
        f"| overall | | {named['edges']['true']} | {_pair(named['edges'])} | {_pair(unnamed['edges'])} "
        f"| {named['joins']['true']} | {_pair(named['joins'])} | {_pair(unnamed['joins'])} | | |",
        "",
        *_grouped(result["families"]),
    ]
    return "\n".join(lines) + "\n"


def _grouped(families: dict[str, Any]) -> list[str]:
    lines = [
        "## Families of all sets mixed, no tenant, no workflow",
        "",
        "| agents | when | programs | labels | families | purity | inverse purity | mutual information |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for variant, found in families.items():
        for when in ("running", "settled"):
            one = found[when]
            lines.append(
                f"| {variant} | {when} | {one['programs']} | {one['labels']} | {one['families']} | {one['purity']:.3f} "
                f"| {one['inverse_purity']:.3f} | {one['mutual_information']:.3f} |"
            )
    lines += ["", "Families by label, agents unnamed, while running:", ""]
    return lines + [f"- {name}: {number}" for name, number in families["unnamed"]["by_label"].items()]


def _variant(agents: bool) -> str:
    return "named" if agents else "unnamed"


def _scores(found: Edges) -> dict[str, Any]:
    return {"edges": _score(found.edges), "joins": _score(found.joins), "edges_of_joins": _score(found.joined)}


def _score(score: Score) -> dict[str, float]:
    return {"true": score.true, "precision": round(score.precision, 4), "recall": round(score.recall, 4)}


def _pair(score: dict[str, float]) -> str:
    return f"{score['precision']:.4f} / {score['recall']:.4f}" if score["true"] else "-"


def _flows(graph: dict[str, int]) -> str:
    right = f"{graph['right'] / graph['said']:.3f}"
    return f"{right} / {graph['covered'] / graph['later']:.3f}" if graph["later"] else f"{right} / -"


if __name__ == "__main__":
    main()
