"""`legato chat`: one prompt, or a dialogue on a terminal. Answers stream to stdout, reasoning to stderr.

Prompts are read between runs of the event loop, so that the terminal's line editing and Ctrl-C work as everywhere:
Ctrl-C ends an answer, aborting the call, and at the prompt the dialogue.
"""
# ruff: noqa: T201 (a command prints)

import argparse
import asyncio
import json
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import asdict

from legato.agent import Agent
from legato.client import Client
from legato.errors import LegatoError
from legato.messages import Message, user
from legato.options import CallOptions
from legato.reply import Reply


def run(client: Client, arguments: argparse.Namespace) -> int:
    """The command. Raises LegatoError when the only prompt fails."""
    dialogue = not arguments.prompt and sys.stdin.isatty()
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        try:
            chat = runner.run(_open(stack, client, arguments))
            if not dialogue:
                prompt = " ".join(arguments.prompt) or sys.stdin.read()
                runner.run(chat.turn(prompt))
                return 0
            for prompt in _typed():
                try:
                    runner.run(chat.turn(prompt))
                except LegatoError as error:
                    print(f"legato: {error}", file=sys.stderr)
                except KeyboardInterrupt:
                    print()
        finally:
            runner.run(stack.aclose())
    return 0


async def _open(stack: AsyncExitStack, client: Client, arguments: argparse.Namespace) -> "_Chat":
    await stack.enter_async_context(client)
    program = await stack.enter_async_context(client.program(arguments.program))
    options = CallOptions()
    if arguments.model is not None:
        options["model"] = arguments.model
    if arguments.max_tokens is not None:
        options["max_tokens"] = arguments.max_tokens
    if arguments.temperature is not None:
        options["temperature"] = arguments.temperature
    return _Chat(program.agent("chat", system=arguments.system, **options), as_json=arguments.json)


def _typed() -> Iterator[str]:
    """What is typed until the end of input."""
    while True:
        try:
            prompt = input("> ")
        except (EOFError, KeyboardInterrupt):
            print()
            return
        if prompt.strip():
            yield prompt


class _Chat:
    """The conversation so far."""

    def __init__(self, agent: Agent, *, as_json: bool) -> None:
        self._agent = agent
        self._as_json = as_json
        self._messages: list[Message] = []

    async def turn(self, prompt: str) -> None:
        """Ask and print the answer; a turn that fails leaves the conversation as it was."""
        messages = [*self._messages, user(prompt)]
        reply = await self._printed(messages)
        self._messages = [*messages, reply.message]

    async def _printed(self, messages: list[Message]) -> Reply:
        if self._as_json:
            reply = await self._agent.chat(messages)
            # Logprobs are never asked for here, so no bytes are in it.
            print(json.dumps(asdict(reply), indent=2))
            return reply
        async with self._agent.stream(messages) as stream:
            async for piece in stream:
                print(piece.reasoning, end="", file=sys.stderr, flush=True)
                print(piece.text, end="", flush=True)
        print()
        return stream.reply
