"""Programs through Legato's own SDK: agents, branches and tool spans as a program would write them."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import legato
from bench.drive import Message, Reply
from sim.trace import Call, Program


class SdkClient:
    """`model`: what to ask for; calls that name one keep their own. `incremental`: stream, else wait for the whole."""

    name = "legato"

    def __init__(self, client: legato.Client, model: str, incremental: bool = True) -> None:
        self._client = client
        self._model = model
        self._incremental = incremental

    @asynccontextmanager
    async def program(self, program: Program) -> AsyncGenerator["_Session"]:
        async with self._client.program(program.program_id) as scope:
            yield _Session(scope, program, self._model, self._incremental)


@asynccontextmanager
async def connect(address: str, model: str, incremental: bool = True) -> AsyncGenerator[SdkClient]:
    """`address` is host:port. Nothing is retried: a refused call is a failure that the run shows."""
    async with legato.Client(address, max_retries=0) as client:
        yield SdkClient(client, model, incremental)


class _Session:
    """Each thread of the program but the main one is a branch, from its first call until its last."""

    def __init__(self, scope: legato.Program, program: Program, model: str, incremental: bool) -> None:
        self._scope = scope
        self._model = model
        self._incremental = incremental
        self._branches: dict[int, tuple[legato.Branch, AsyncExitStack]] = {}
        self._last = {call.thread: call.id for call in program.calls}

    async def chat(self, call: Call, messages: Sequence[Message]) -> Reply:
        scope = await self._enter(call.thread)
        agent = scope.agent(call.agent, model=call.model or self._model, ignore_eos=True, temperature=0.0)
        conversation = [{"role": message.role, "content": message.content} for message in messages]
        first_at: float | None = None
        if self._incremental:
            async with agent.stream(conversation, max_tokens=call.output_tokens, step=call.phase) as stream:
                async for piece in stream:
                    if first_at is None and piece.num_tokens:
                        first_at = asyncio.get_running_loop().time()
            reply = stream.reply
        else:
            reply = await agent.chat(conversation, max_tokens=call.output_tokens, step=call.phase)
        if self._last[call.thread] == call.id:
            await self._leave(call.thread)
        return Reply(
            first_at=first_at,
            prompt_tokens=reply.usage.prompt_tokens,
            completion_tokens=reply.usage.completion_tokens,
            cached_tokens=reply.usage.cached_tokens,
            queue_s=reply.timings.queue_seconds,
            prefill_s=reply.timings.prefill_seconds,
            decode_s=reply.timings.decode_seconds,
            worker=reply.worker_id,
        )

    def tool(self, call: Call, name: str) -> legato.ToolSpan:
        branch = self._branches.get(call.thread)
        return (branch[0] if branch else self._scope).tool(name, agent=call.agent)

    async def _enter(self, thread: int) -> legato.Program | legato.Branch:
        if thread == 0:
            return self._scope
        if thread not in self._branches:
            stack = AsyncExitStack()
            self._branches[thread] = (await stack.enter_async_context(self._scope.branch(str(thread))), stack)
        return self._branches[thread][0]

    async def _leave(self, thread: int) -> None:
        if thread in self._branches:
            _, stack = self._branches.pop(thread)
            await stack.aclose()
