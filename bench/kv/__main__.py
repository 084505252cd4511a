"""`make bench-kv`: what the KV pool is worth, in one report.

Speeds are measured beside the machine's own in the same run; only their ratios mean something on a shared machine.
Goals are those that the pool was built for; those that are missed are told, not hidden.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from bench import table
from bench.kv import disk, fio, first_token, gaps, transport
from bench.measure import failures, summarise

_MIB = 1024 * 1024
_SHARD_BYTES = {32: 64 * 1024, 128: 256 * 1024}
"""Of the tiny model, by tokens per block."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One number and what it should be."""

    what: str
    value: float
    goal: float
    at_least: bool = True

    @property
    def met(self) -> bool:
        return self.value >= self.goal if self.at_least else self.value <= self.goal


def main() -> None:
    arguments = _arguments()
    console = Console()
    arguments.out.mkdir(parents=True, exist_ok=True)
    findings: list[Finding] = []
    raw: dict[str, Any] = {"cores": os.cpu_count(), "load": os.getloadavg()[0]}
    for name in arguments.parts:
        console.print(f"[bold]{name}[/bold]")
        for finding in _PARTS[name](arguments, raw, console):
            findings.append(finding)
            sign = "at least" if finding.at_least else "at most"
            verdict = "" if finding.met else "   MISSED"
            console.print(f"  {finding.what}: {finding.value:.3g} (goal: {sign} {finding.goal:g}){verdict}")
    raw["findings"] = [{**asdict(finding), "met": finding.met} for finding in findings]
    (arguments.out / "kv.json").write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
    console.print(f"{sum(finding.met for finding in findings)} of {len(findings)} goals met; {arguments.out}/kv.json")


def _copies(arguments: argparse.Namespace, raw: dict[str, Any], console: Console) -> Iterator[Finding]:
    from bench.kv import copies  # imports torch, which the other parts do without

    raw["copies"] = speeds = copies.measure()
    for block_size, goal in ((32, 0.7), (128, 0.85)):
        for way in ("save", "load"):
            share = speeds[f"{block_size}/runs/{way} share"]
            yield Finding(f"{way}, blocks of {block_size} tokens, over memcpy", share, goal)


def _disk(arguments: argparse.Namespace, raw: dict[str, Any], console: Console) -> Iterator[Finding]:
    with tempfile.TemporaryDirectory(dir=arguments.out) as name:
        folder = Path(name)
        speeds = asyncio.run(disk.measure(folder, 512 * _MIB, _SHARD_BYTES[128]))
        reference = fio.measure(folder)
    raw["disk"], raw["fio"] = asdict(speeds), reference and asdict(reference)
    whose = "fio" if reference else "plain direct I/O (fio is not installed)"
    yield Finding(f"disk read over {whose}", speeds.read / (reference.read if reference else speeds.raw_read), 0.8)
    yield Finding(f"disk write over {whose}", speeds.write / (reference.write if reference else speeds.raw_write), 0.8)


def _transport(arguments: argparse.Namespace, raw: dict[str, Any], console: Console) -> Iterator[Finding]:
    raw["transport"] = speeds = transport.measure()
    for kib in (64, 256, 4096):
        share = speeds[f"tcp/4/{kib}KiB"] / speeds[f"socket/{kib}KiB"]
        yield Finding(f"pool to pool over a plain socket, blocks of {kib} KiB", share, 0.8)


def _first_token(arguments: argparse.Namespace, raw: dict[str, Any], console: Console) -> Iterator[Finding]:
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(first_token.measure(arguments.model, Path(folder)))
    raw["first token"] = asdict(found)
    yield Finding("TTFT of 3,900 tokens, computed over from the other worker's KV", found.ratio, 15)
    yield Finding("rounds with identical tokens", found.identical / found.rounds, 1)


def _gaps(arguments: argparse.Namespace, raw: dict[str, Any], console: Console) -> Iterator[Finding]:
    runs = asyncio.run(gaps.runs(arguments.out, console))
    console.print(table.render(runs))
    summaries = {name: summarise(programs) for name, programs in runs.items()}
    raw["gaps"] = {name: asdict(summary) for name, summary in summaries.items()}
    alone, pooled = summaries.values()
    yield Finding("cached share, engines alone", alone.cached_share, 0.4, at_least=False)
    yield Finding("cached share with the pool", pooled.cached_share, 0.9)
    yield Finding("mean JCT, engines alone over with the pool", alone.jct_mean / pooled.jct_mean, 1)
    yield Finding("failed programs", sum(bool(failures(one)) for run in runs.values() for one in run), 0, False)


def _decode(arguments: argparse.Namespace, raw: dict[str, Any], console: Console) -> Iterator[Finding]:
    from bench.kv import decode

    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(decode.measure(arguments.model, Path(folder)))
    raw["decode"] = asdict(found)
    yield Finding("decode step while blocks are saved, over without the pool", found.slow_down, 1.05, at_least=False)


_PARTS: Mapping[str, Callable[[argparse.Namespace, dict[str, Any], Console], Iterator[Finding]]] = {
    "copies": _copies,
    "disk": _disk,
    "transport": _transport,
    "first token": _first_token,
    "decode": _decode,
    "gaps": _gaps,
}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.kv", description="What the KV pool is worth")
    parser.add_argument("parts", nargs="*", default=list(_PARTS), help=f"of {', '.join(_PARTS)}; all")
    parser.add_argument("--model", default="models/tiny-llama")
    parser.add_argument("--out", type=Path, default=Path("build/kv"), help="logs and kv.json")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(_PARTS):
        sys.exit(f"bench.kv: no part is called {', '.join(sorted(unknown))}; there are {', '.join(_PARTS)}")
    return arguments


if __name__ == "__main__":
    main()
