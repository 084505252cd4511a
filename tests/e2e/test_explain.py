"""A program is explained and recorded from the outside, with nothing but its calls to go by."""

import asyncio
from contextlib import aclosing
from pathlib import Path

import legato
from legato.cli import main
from services.local.spawn import Stack
from sim import trace
from sim.experiment import Setup, simulate

SYSTEM = "You are brief. " * 40


async def run_program(client: legato.Client, program_id: str) -> None:
    """Two turns, the second of which dates its system prompt."""
    async with client.program(program_id) as program:
        first = await program.agent("coder", system=f"{SYSTEM} It is noon.").chat("Write a test.", max_tokens=40)
        async with program.tool("pytest"):
            await asyncio.sleep(0.05)  # the tool runs
        conversation = [legato.user("Write a test."), first.message, legato.user("It fails.")]
        await program.agent("coder", system=f"Now it is one. {SYSTEM}").chat(conversation, max_tokens=20)


async def explained(client: legato.Client, program_id: str) -> legato.Explanation:
    """Once the log, which is written behind the calls, has told all of it."""
    async with asyncio.timeout(20), aclosing(client.read_log(program_id, follow=True)) as entries:
        async for entry in entries:
            if entry.HasField("over"):
                break
    return await client.explain(program_id)


async def test_a_programs_time_and_its_drift_are_explained(simulated_stack: Stack) -> None:
    async with legato.Client(simulated_stack.address) as client:
        await run_program(client, "explained")
        explanation = await explained(client, "explained")
    first, second = explanation.calls
    assert second.parents == (first.call_id,)
    assert [call.critical for call in explanation.calls] == [True, True]
    assert explanation.gap(second).tools == ("pytest",)
    assert second.gap_seconds >= 0.05
    assert (first.drift, first.outcome) == (None, "length")
    assert second.drift is not None
    assert (second.drift.kind, second.drift.role, second.drift.message) == ("edited", "system", 0)
    assert 0 < second.drift.lost_tokens <= second.usage.prompt_tokens - second.usage.cached_tokens
    for call in explanation.calls:
        timings = call.timings
        assert call.seconds >= timings.queue_seconds + timings.prefill_seconds + timings.decode_seconds - 0.05


async def test_a_recording_of_it_can_be_simulated(simulated_stack: Stack, tmp_path: Path) -> None:
    async with legato.Client(simulated_stack.address) as client:
        await run_program(client, "recorded")
        await explained(client, "recorded")
    file = tmp_path / "trace.jsonl"
    arguments = ["--address", simulated_stack.address, "record", "--program", "recorded", "--out", str(file)]
    assert await asyncio.to_thread(main, arguments) == 0
    [program] = trace.read(file)
    assert [call.parents for call in program.calls] == [(), (0,)]
    assert program.calls[0].output == program.calls[1].prompt[2:3]
    [result] = simulate([program], Setup("llama3-8b@a100-tp1", 1)).programs
    assert result.completed
