"""The simulated side: programs as the simulator ran them, in the form in which real runs are kept."""

import dataclasses
from collections.abc import Sequence

from sim.experiment import Setup, simulate
from sim.outcome import CallResult
from sim.trace import Measured, Program


def run(programs: Sequence[Program], setup: Setup) -> list[Program]:
    """Simulate the programs; what was measured, as `bench.drive` tells it of real ones."""
    outcome = simulate(programs, setup)
    arrivals = {result.program_id: result.arrival for result in outcome.programs}
    calls = {(call.program_id, call.call_id): call for call in outcome.calls}
    return [_measured(program, arrivals[program.program_id], calls, setup.network_seconds) for program in programs]


def _measured(
    program: Program, arrival: float, results: dict[tuple[str, int], CallResult], network_seconds: float
) -> Program:
    calls = tuple(
        dataclasses.replace(call, measured=_of(results.get((program.program_id, call.id)), arrival, network_seconds))
        for call in program.calls
    )
    return dataclasses.replace(program, arrival_s=arrival, calls=calls)


def _of(result: CallResult | None, arrival: float, network_seconds: float) -> Measured:
    if result is None or result.error:
        return Measured(error=result.error if result else None)
    first, whole = result.first_token - result.submitted, result.end - result.submitted
    return Measured(
        start_s=result.submitted - arrival,
        llm_s=whole,
        ttft_s=first,
        rec_in=result.prompt_tokens,
        rec_out=result.output_tokens,
        rec_cached=result.cached_tokens,
        # Between placement and first token two messages travel; the rest of what precedes prefill is waiting.
        queue_s=max(first - result.prefill_seconds - 2 * network_seconds, 0.0),
        prefill_s=result.prefill_seconds,
        decode_s=result.decode_seconds,
        worker=result.worker_id,
    )
