"""Two agents and a tool: a researcher looks two things up at once, a writer sums them up.

Run it against a cluster (`make up` starts one): `python examples/two_agents.py`. LEGATO_ADDRESS says where it is.
"""

import asyncio

import legato

CAPITALS = {"france": "Paris", "japan": "Tokyo"}


async def capital(country: str) -> str:
    """Look up the capital of a country."""
    return CAPITALS.get(country.lower(), "unknown")


LOOKUP = legato.Tool.of(capital)


async def research(program: legato.Program, researcher: legato.Agent, question: str, max_turns: int = 3) -> str:
    """Let the researcher use its tool until it has an answer."""
    messages = [legato.user(question)]
    reply = await researcher.chat(messages, tools=[LOOKUP])
    for _ in range(max_turns):
        if not reply.tool_calls:
            break
        messages.append(reply.message)
        for call in reply.tool_calls:
            async with program.tool(call.name) as span:
                try:
                    result = await capital(**call.parsed())
                except (TypeError, ValueError) as error:  # the model wrote nonsense; it may do better when told
                    result, span.failed = str(error), True
            messages.append(legato.tool_result(call, result))
        reply = await researcher.chat(messages, tools=[LOOKUP])
    return reply.text


async def main() -> None:
    async with legato.Client() as client, client.program() as program:
        researcher = program.agent("researcher", system="Answer in one sentence. Use your tool.", max_tokens=64)
        writer = program.agent("writer", system="You sum up what others found.", max_tokens=64)
        facts = await program.gather(
            research(program, researcher, "What is the capital of France?"),
            research(program, researcher, "What is the capital of Japan?"),
        )
        async with writer.stream("Sum up:\n" + "\n".join(facts)) as stream:
            async for piece in stream:
                print(piece.text, end="", flush=True)  # noqa: T201  # an example talks
        usage = stream.reply.usage
        print(f"\n{usage.cached_tokens} of {usage.prompt_tokens} prompt tokens came from a cache")  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main())
