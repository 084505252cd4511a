"""What a program says of its urgency is known to the cluster, and the cluster says when the program will be done."""

import asyncio

import aiohttp

import legato
from services.local.spawn import Stack

BODY = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8, "ignore_eos": True}


async def status_of(client: legato.Client, program_id: str) -> legato.ProgramStatus:
    programs = await client.programs(include_ended=True, limit=10_000)
    return next(program for program in programs if program.program_id == program_id)


async def test_a_program_of_the_sdk(simulated_stack: Stack) -> None:
    async with (
        legato.Client(simulated_stack.address) as client,
        client.program("urgent-sdk", service_class="interactive", deadline_seconds=300) as program,
    ):
        agent = program.agent("writer", model="tiny", max_tokens=8, ignore_eos=True)
        etas = [(await agent.chat("Go on.")).eta for _ in range(3)]
        status = await status_of(client, program.id)
    assert (status.service_class, status.paused) == ("interactive", False)
    assert status.deadline is not None
    assert status.started is not None
    assert 250 < (status.deadline - status.started).total_seconds() <= 300
    for eta in (*etas, status.eta):
        assert eta is not None
        assert 0 <= eta.low_seconds <= eta.expected_seconds
        assert eta.low_seconds <= eta.high_seconds


async def test_programs_over_http_learn_how_long_programs_like_them_take(simulated_stack: Stack) -> None:
    """Ten programs of three calls each, then one whose calls are told when it will be done: sooner with each call."""

    async def run(http: aiohttp.ClientSession, client: legato.Client, number: int) -> list[float]:
        headers = {"x-legato-program-id": f"urgent-http-{number}", "x-legato-agent": "learner"}
        told: list[float] = []
        async with client.program(headers["x-legato-program-id"]):
            for turn in range(3):
                headers |= {"x-smg-priority": "bulk", "x-legato-deadline-seconds": str(600 - turn)}
                url = f"{simulated_stack.base_url}/chat/completions"
                async with http.post(url, json={**BODY, "max_tokens": 200}, headers=headers) as response:
                    assert response.status == 200, await response.text()
                    await response.read()
                told.append(float(response.headers["x-legato-program-eta-seconds"]))
                assert told[-1] <= float(response.headers["x-legato-program-eta-high-seconds"])
        return told

    async with aiohttp.ClientSession() as http, legato.Client(simulated_stack.address) as client:
        await asyncio.gather(*(run(http, client, number) for number in range(10)))
        told = await run(http, client, 10)
        status = await status_of(client, "urgent-http-10")
    assert status.service_class == "batch"
    assert status.eta is None, "it has ended"
    assert told[0] > told[-1], told
