"""Streams that a fault finds in the middle: when each token came, and whether each is the one it should be."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import legato
from bench.chaos.reference import Message, Question, Reference
from bench.text import text_of

FIRST_TOKENS = 10
"""Every stream has so many when the fault comes."""
_PROMPT_TOKENS = 64
_PATIENCE_SECONDS = 120.0


@dataclass(slots=True)
class Heard:
    """One stream, as its caller heard it."""

    times: list[float] = field(default_factory=list[float])
    """When each piece came, in loop time."""
    text: str = ""
    num_tokens: int = 0
    restarts: int = 0
    """How often it lost its worker."""
    error: str = ""

    def resumed_after(self, fault_at: float) -> float | None:
        """From the fault to the end of the first silence after it that is out of the ordinary: twice the longest before
        it. Where none is, the longest: the wait was no longer than that. None: it had ended.

        What comes right after the fault was on its way before it, so the first piece says nothing.
        """
        if not (spans := self._silences(fault_at)):
            return None
        usual = max((end - start for start, end in pairwise(self.times) if end <= fault_at), default=0.0)
        return next((end - fault_at for length, end in spans if length > 2 * usual), max(spans)[0])

    def longest_after(self, fault_at: float) -> float:
        """The longest silence that ended after the fault: others of its doing are in it, as of a process that starts
        again on the same cores."""
        return max((length for length, _ in self._silences(fault_at)), default=0.0)

    def _silences(self, fault_at: float) -> list[tuple[float, float]]:
        """Those that ended after it: length and end."""
        return [(end - start, end) for start, end in pairwise(self.times) if end > fault_at]


class Streams:
    """One round's: greedy calls of `num_tokens` tokens, each a program of its own, through one client."""

    def __init__(self, client: legato.Client, reference: Reference, name: str, count: int, num_tokens: int) -> None:
        self.heard = [Heard() for _ in range(count)]
        self._client = client
        self._questions = {f"{name}-{index}": _question(f"{name}-{index}", num_tokens) for index in range(count)}
        self._answers = {program: reference.answer(question) for program, question in self._questions.items()}
        self._begun = asyncio.Semaphore(0)

    def start(self, tasks: asyncio.TaskGroup) -> Sequence[asyncio.Task[None]]:
        return [
            tasks.create_task(self._run(program, heard), name=program)
            for program, heard in zip(self._questions, self.heard, strict=True)
        ]

    async def begun(self) -> None:
        """Wait until every stream has its first tokens, or failed."""
        async with asyncio.timeout(_PATIENCE_SECONDS):
            for _ in self.heard:
                await self._begun.acquire()

    def longest_after(self, fault_at: float) -> float:
        """The longest silence of any from the fault on."""
        return max(heard.longest_after(fault_at) for heard in self.heard)

    def wrong(self) -> list[str]:
        """What is not as it should be, once all have ended."""
        found: list[str] = []
        for (program, (text, num_tokens)), heard in zip(self._answers.items(), self.heard, strict=True):
            if heard.error:
                found.append(f"{program}: {heard.error}")
            elif heard.num_tokens != num_tokens:
                found.append(f"{program}: {heard.num_tokens} tokens instead of {num_tokens}")
            elif heard.text != text:
                found.append(f"{program}: a wrong text")
        return found

    async def _run(self, program_id: str, heard: Heard) -> None:
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await self._listen(program_id, heard)
        except Exception as error:  # whatever the client raises is a result of the round
            heard.error = f"{type(error).__name__}: {error}".splitlines()[0]
        if len(heard.times) < FIRST_TOKENS:
            self._begun.release()

    async def _listen(self, program_id: str, heard: Heard) -> None:
        now = asyncio.get_running_loop().time
        question = self._questions[program_id]
        conversation = [{"role": message.role, "content": message.content} for message in question.messages]
        async with self._client.program(program_id) as program:
            agent = program.agent("writer", max_tokens=question.max_tokens, temperature=0.0, ignore_eos=True)
            async with agent.stream(conversation) as stream:
                async for piece in stream:
                    heard.times.append(now())
                    heard.text += piece.text
                    heard.num_tokens += piece.num_tokens
                    if len(heard.times) == FIRST_TOKENS:
                        self._begun.release()
        heard.restarts = stream.reply.timings.restarts


def _question(program_id: str, num_tokens: int) -> Question:
    return Question([Message("user", text_of(program_id, _PROMPT_TOKENS))], num_tokens)
