"""`legato explain`: where a program's time went."""
# ruff: noqa: T201 (a command prints)

import argparse
import asyncio
import json
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from legato.client import Client
from legato.explanation import Explanation
from legato.perfetto import trace_of
from legato.waterfall import lines_of


def run(client: Client, arguments: argparse.Namespace) -> int:
    """The command. Raises LegatoError, as NotFound."""
    explanation = asyncio.run(_ask(client, arguments.program))
    if arguments.perfetto:
        Path(arguments.perfetto).write_text(json.dumps(trace_of([explanation])), encoding="utf-8")
    if arguments.json:
        print(json.dumps(asdict(explanation), default=_iso, indent=2))
    else:
        print("\n".join(lines_of(explanation)))
    return 0


async def _ask(client: Client, program_id: str) -> Explanation:
    async with client:
        return await client.explain(program_id)


def _iso(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"no JSON for {type(value).__name__}")
