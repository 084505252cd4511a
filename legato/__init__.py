"""Client SDK of Legato, which serves LLM agent programs: many calls, tools and branches, scheduled as one.

    import asyncio
    import legato

    async def main() -> None:
        async with legato.Client("127.0.0.1:8001") as client, client.program("fix-issue-42") as program:
            planner = program.agent("planner", system="You plan. Be brief.")
            coder = program.agent("coder", temperature=0.2)
            plan = await planner.chat("Plan the fix of issue 42.")
            first, second = await program.gather(coder.chat(plan.text, max_tokens=256), coder.chat("Write a test."))
            async with program.tool("pytest"):
                ...  # the cluster learns how long your tools take
            async with coder.stream([legato.user(first.text), second.message, legato.user("Merge.")]) as stream:
                async for piece in stream:
                    print(piece.text, end="", flush=True)

    asyncio.run(main())

The pieces: `Client` opens `Program`s; a program has `Agent`s, `Branch`es and tool spans; an agent's `chat` gives a
`Reply`, its `stream` a `Stream` of `Piece`s. `CallOptions` lists what a call can be told, `legato.errors` what can go
wrong. Everything runs in one asyncio event loop.
"""

from legato.agent import Agent
from legato.client import Client
from legato.cluster import Model, ProgramStatus, Worker, WorkerRole
from legato.errors import (
    CallCancelled,
    CallExists,
    ContextLengthExceeded,
    DeadlineExceeded,
    DeadlineUnreachable,
    InternalError,
    InvalidRequest,
    LegatoError,
    ModelNotFound,
    NotFound,
    Overloaded,
    Unauthenticated,
    Unavailable,
)
from legato.explanation import CacheNote, Drift, ExplainedCall, ExplainedTool, Explanation, Gap
from legato.messages import (
    Message,
    MessageLike,
    Messages,
    Tool,
    ToolCall,
    assistant,
    system,
    tool_result,
    user,
)
from legato.options import CallOptions, ServiceClass
from legato.pools import Pool, ProgramBytes, Tier
from legato.program import Branch, Program, Scope
from legato.reply import Eta, FinishReason, Piece, Reply, Timings, TokenLogprob, ToolCallPiece, Usage
from legato.stream import Stream
from legato.tool_span import ToolSpan

__all__ = [
    "Agent",
    "Branch",
    "CacheNote",
    "CallCancelled",
    "CallExists",
    "CallOptions",
    "Client",
    "ContextLengthExceeded",
    "DeadlineExceeded",
    "DeadlineUnreachable",
    "Drift",
    "Eta",
    "ExplainedCall",
    "ExplainedTool",
    "Explanation",
    "FinishReason",
    "Gap",
    "InternalError",
    "InvalidRequest",
    "LegatoError",
    "Message",
    "MessageLike",
    "Messages",
    "Model",
    "ModelNotFound",
    "NotFound",
    "Overloaded",
    "Piece",
    "Pool",
    "Program",
    "ProgramBytes",
    "ProgramStatus",
    "Reply",
    "Scope",
    "ServiceClass",
    "Stream",
    "Tier",
    "Timings",
    "TokenLogprob",
    "Tool",
    "ToolCall",
    "ToolCallPiece",
    "ToolSpan",
    "Unauthenticated",
    "Unavailable",
    "Usage",
    "Worker",
    "WorkerRole",
    "assistant",
    "system",
    "tool_result",
    "user",
]
