"""A program is explained and recorded from the outside, with nothing but its calls to go by."""

import asyncio
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
            await asyncio.sleep(0.05)
        conversation = [legato.user("Write a test."), first.message, legato.user("It fails.")]
        await program.agent("coder", system=f"Now it is one. {SYSTEM}").chat(conversation, max_tokens=20)


async def known(client: legato.Client, program_id: str, num_calls: int) -> legato.Explanation:
    """As soon as the log has told all of it."""
    async with asyncio.timeout(20):
        while True:
            try:
                explanation = await client.explain(program_id)
            except (legato.NotFound, legato.Unavailable):
                explanation = None
            if explanation is not None and explanation.ended and len(explanation.calls) == num_calls:
                return explanation
            await asyncio.sleep(0.02)  # the log is written behind the calls


async def test_a_programs_time_and_its_drift_are_explained(simulated_stack: Stack) -> None:
    async with legato.Client(simulated_stack.address) as client:
        await run_program(client, "explained")
        explanation = await known(client, "explained", 2)
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
        await known(client, "recorded", 2)
    file = tmp_path / "trace.jsonl"
    arguments = ["--address", simulated_stack.address, "record", "--program", "recorded", "--out", str(file)]
    assert await asyncio.to_thread(main, arguments) == 0
    [program] = trace.read(file)
    assert [call.parents for call in program.calls] == [(), (0,)]
    assert program.calls[0].output == program.calls[1].prompt[2:3]
    [result] = simulate([program], Setup("llama3-8b@a100-tp1", 1)).programs
    assert result.completed
