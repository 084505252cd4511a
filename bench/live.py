"""Drives programs against a Legato at given addresses, half through each client, with progress on the terminal."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from time import monotonic

from rich.console import Console
from rich.live import Live
from rich.text import Text

from bench import sdk_client
from bench.drive import Board, Client, drive
from bench.openai_client import OpenAIClient
from sim.trace import Program

LOG_SECONDS = 10.0
"""How often progress is told where there is no terminal."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where Legato is. At least one of the addresses is given."""

    model: str
    base_url: str | None = None
    """Of the OpenAI API, ending in /v1."""
    address: str | None = None
    """Of the gRPC API, host:port."""
    incremental: bool = True
    """The SDK streams; otherwise it asks for whole answers, which costs this process less."""


async def run(programs: Sequence[Program], target: Target, title: str, console: Console) -> list[Program]:
    """Run the programs through the clients whose address is given; in turn when both are."""
    async with AsyncExitStack() as stack:
        clients: list[Client] = []
        if target.base_url:
            clients.append(OpenAIClient(target.base_url, target.model))
        if target.address:
            sdk = sdk_client.connect(target.address, target.model, target.incremental)
            clients.append(await stack.enter_async_context(sdk))
        board = Board()
        line = partial(_line, title, board, monotonic())
        if console.is_terminal:
            with Live(console=console, refresh_per_second=4, get_renderable=line):
                return await drive(programs, clients, board)
        async with asyncio.TaskGroup() as tasks:
            log = tasks.create_task(_log(line, console))
            done = await drive(programs, clients, board)
            log.cancel()
        console.print(line(), soft_wrap=True)
        return done


async def _log(line: Callable[[], Text], console: Console) -> None:
    """Progress for those who read it later."""
    while True:
        console.print(line(), soft_wrap=True)
        await asyncio.sleep(LOG_SECONDS)


def _line(title: str, board: Board, started: float) -> Text:
    seconds = monotonic() - started
    failed = f", {board.failed} FAILED" if board.failed else ""
    return Text(
        f"{title:>16} {seconds:5.1f} s   programs {board.done}/{board.programs} done, "
        f"{board.started - board.done - board.failed} live{failed}   "
        f"calls {board.calls_done}/{board.calls} done, {board.calls_open} open   tools {board.tools_open}   "
        f"{board.output_tokens / max(seconds, 0.1):.0f} tok/s"
    )
