"""Agent programs as a user runs them on the login node: `python -m tests.slurm.programs ADDRESS CALLS`.

Each goes on, a conversation of calls and tools after the other, until standard input ends. Then it asks everything of
its last conversation again: greedy answers depend on the prompt alone, so whatever worker, gateway and whole job went
through on the way, they must be the same. Every finished call becomes a line of the file CALLS. A call that fails, or
an answer with a token too many, too few or another one, ends everything with a status other than 0.
"""

import argparse
import asyncio
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import legato

NUM_PROGRAMS = 50
CONVERSATION_CALLS = 4
MAX_TOKENS = 64
PATIENCE_SECONDS = 240.0


@dataclass(frozen=True)
class Call:
    """A finished call."""

    program: str
    worker: str
    restarts: int


@dataclass
class Programs:
    """What all programs share."""

    client: legato.Client
    calls: IO[str]
    enough: asyncio.Event

    async def run(self, index: int) -> None:
        """One program from its beginning to its end."""
        chance = random.Random(index)
        async with self.client.program(f"program-{index}") as program:
            writer = program.agent("writer", max_tokens=MAX_TOKENS, temperature=0, ignore_eos=True)
            chapter = 0
            while True:
                chapter += 1
                conversation = [legato.user(f"Book {index}, chapter {chapter}: write of agents and their tools.")]
                for _ in range(CONVERSATION_CALLS):
                    conversation.append((await self._ask(writer, conversation)).message)
                    async with program.tool("read"):
                        await asyncio.sleep(chance.uniform(0.5, 2.0))
                    conversation.append(legato.user("Go on."))
                if self.enough.is_set():
                    break
            for length in range(1, len(conversation), 2):
                answer = (await self._ask(writer, conversation[:length])).message
                assert answer == conversation[length], f"{program.id} got {conversation[length]}, now {answer}"

    async def _ask(self, writer: legato.Agent, conversation: Sequence[legato.Message]) -> legato.Reply:
        pieces: list[legato.Piece] = []
        async with writer.stream(conversation) as stream:
            async for piece in stream:
                pieces.append(piece)  # noqa: PERF401  # a comprehension hides what is read when
        reply = stream.reply
        assert "".join(piece.text for piece in pieces) == reply.text
        assert sum(piece.num_tokens for piece in pieces) == reply.usage.completion_tokens == MAX_TOKENS
        call = Call(reply.program_id, reply.worker_id, reply.timings.restarts)
        print(json.dumps(asdict(call)), file=self.calls, flush=True)
        return reply


async def main(address: str, path: Path) -> None:
    enough = asyncio.Event()

    async def await_end() -> None:
        await asyncio.to_thread(sys.stdin.read)
        enough.set()

    with path.open("a", encoding="utf-8") as calls:
        async with legato.Client(address, reconnect_seconds=PATIENCE_SECONDS) as client, asyncio.TaskGroup() as tasks:
            programs = Programs(client, calls, enough)
            tasks.create_task(await_end())
            for index in range(NUM_PROGRAMS):
                tasks.create_task(programs.run(index))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("calls", type=Path)
    arguments = parser.parse_args()
    asyncio.run(main(arguments.address, arguments.calls))
