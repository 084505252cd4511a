"""Programs without end: so many live at once, each of a few calls that build on what earlier ones said.

A program is drawn from its number alone: turns of a conversation with tools between them, now and then a fan-out of
branches whose answers the next turn holds. Most calls are greedy, some are sampled with a seed, some are held to a
choice. What came is compared with what the engine had to say; a later prompt holds what came.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import cast

from bench.chaos.doors import Door, Talk
from bench.chaos.record import Ended, Record
from bench.chaos.reference import Message, Question, Reference
from bench.text import text_of

_TOOL_SECONDS = 4.0
"""Mean of what passes between two calls."""
_CHOICES = ("approve the change", "reject the change", "ask the author for more tests")


@dataclass(frozen=True, slots=True)
class _Live:
    program_id: str
    door: str
    talk: Talk
    random: Random


class Load:
    """Programs through the doors in turn, as long as `run` goes on and then to their ends."""

    def __init__(self, name: str, doors: Sequence[Door], reference: Reference, record: Record) -> None:
        self._name = name
        self._doors = doors
        self._reference = reference
        self._record = record
        self._closing = asyncio.Event()

    def close(self) -> None:
        """Begin no more programs."""
        self._closing.set()

    async def run(self, num_live: int) -> None:
        """Keep so many alive until closed and the last has ended."""
        async with asyncio.TaskGroup() as tasks:
            for slot in range(num_live):
                tasks.create_task(self._slot(slot, num_live))

    async def _slot(self, slot: int, num_slots: int) -> None:
        await asyncio.sleep(slot * 5.0 / num_slots)  # not all at once
        number = slot
        while not self._closing.is_set():
            await self._program(number)
            number += num_slots

    async def _program(self, number: int) -> None:
        door = self._doors[number % len(self._doors)]
        program_id = f"{self._name}-{number}"
        self._record.num_programs += 1
        try:
            async with door.program(program_id) as talk:
                await self._turns(_Live(program_id, door.name, talk, Random(program_id)))
        except asyncio.CancelledError:
            self._record.failed.append(f"{program_id} ({door.name}): it had not ended when the run gave up on it")
            raise
        except Exception as error:  # whatever a client raises is what the run is to find
            self._record.failed.append(f"{program_id} ({door.name}): {_line(error)}")
        else:
            self._record.num_completed += 1

    async def _turns(self, live: _Live) -> None:
        random = live.random
        messages = [Message("system", text_of(f"system {random.randrange(4)}", 60))]
        for turn in range(random.randint(2, 5)):
            messages.append(Message("user", text_of(f"{live.program_id} {turn}", random.randint(10, 80))))
            if random.random() < 0.2:
                messages.append(Message("user", await self._fan_out(live, messages)))
            text = await self._call(live, messages, "")
            messages.append(Message("assistant", text))
            await asyncio.sleep(random.expovariate(1 / _TOOL_SECONDS))

    async def _fan_out(self, live: _Live, messages: Sequence[Message]) -> str:
        """Several calls at once; what they said."""
        async with asyncio.TaskGroup() as tasks:
            branches = [
                tasks.create_task(self._call(live, [*messages, Message("user", f"part {branch}")], f"part-{branch}"))
                for branch in range(live.random.randint(2, 4))
            ]
        return "\n".join(branch.result() for branch in branches)

    async def _call(self, live: _Live, messages: Sequence[Message], branch: str) -> str:
        question = _question(messages, live.random)
        began = asyncio.get_running_loop().time()
        answer = await live.talk.ask(question, branch)
        ended = Ended(live.program_id, answer.call_id, live.door, began, answer.ended, answer.num_restarts)
        self._record.calls.append(ended)
        text, num_tokens = self._reference.answer(question)
        if (answer.text, answer.num_tokens) != (text, num_tokens):
            wrong = f"{live.program_id}/{answer.call_id} ({live.door}): {_difference(answer.text, text)}"
            self._record.wrong.append(f"{wrong}; {answer.num_tokens} tokens of {num_tokens}")
        return answer.text


def _line(error: Exception) -> str:
    if isinstance(error, ExceptionGroup):  # of a fan-out: what failed first says enough
        return _line(cast("ExceptionGroup[Exception]", error).exceptions[0])
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]


def _question(messages: Sequence[Message], random: Random) -> Question:
    kind, max_tokens = random.random(), random.randint(10, 100)
    if kind < 0.1:
        return Question(tuple(messages), max_tokens, choices=_CHOICES)
    return Question(tuple(messages), max_tokens, seed=random.randrange(1 << 31) if kind < 0.25 else None)


def _difference(came: str, wanted: str) -> str:
    at = next((i for i, (one, other) in enumerate(zip(came, wanted, strict=False)) if one != other), None)
    if at is None:
        at = min(len(came), len(wanted))
    return f"character {at} of {len(wanted)}: {came[at : at + 30]!r} where {wanted[at : at + 30]!r} belongs"
