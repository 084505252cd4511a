"""What a fidelity run says, in words and numbers, and whether it was the run that it should be."""

from collections.abc import Iterator, Mapping, Sequence

from bench.fidelity.comparison import Figure, causes
from bench.fidelity.real import Machine
from bench.fidelity.replay import replay
from bench.measure import failures, queued_calls, summarise
from bench.statistics import describe
from services.worker.config import WorkerSection
from sim.trace import Program

_LEAST_QUEUED = 1.0
_LEAST_EVICTED = 0.02


def blamed(
    worker: WorkerSection, machine: Machine, runs: Sequence[Sequence[Program]], model: Sequence[Program]
) -> dict[str, float]:
    """`causes`, mean over the real runs."""
    profile, budget = machine.profile, worker.max_num_batched_tokens
    per_token = (profile.linear(budget) - profile.linear(1)) / 1e3 / (budget - 1)
    found: dict[str, float] = {}
    for run in runs:
        replayed = replay(run, profile, worker)
        for part, seconds in causes(run, model, replayed, per_token).items():
            found[part] = found.get(part, 0.0) + seconds / len(runs)
    return found


def lines(
    compared: Sequence[Figure],
    blamed: Mapping[str, float],
    machine: Machine,
    runs: Sequence[Sequence[Program]],
    seconds: float,
) -> Iterator[str]:
    """For people. `seconds`: what the simulation took."""
    errors = [abs(machine.calibration.residual(sample)) for sample in machine.calibration.samples]
    yield (
        f"{len(runs[0])} programs, {sum(len(program.calls) for program in runs[0])} calls, {len(runs)} real runs; "
        f"simulated in {seconds:.1f} s. {len(errors)} points fitted to {sum(errors) / len(errors):.1%} on average, "
        f"{max(errors):.1%} at worst; {1e3 * machine.network_seconds:.2f} ms between services, "
        f"{1e6 * machine.shared_seconds:.0f} us more a sequence and step beside gateway and client."
    )
    yield f"{'':>14} {'real':>9} {'simulated':>10} {'error':>7} {'goal':>5} {'real runs differ by':>20}"
    for figure in compared:
        missed = "" if figure.met else "   MISSED"
        yield (
            f"{figure.name:>14} {figure.real:9.4f} {figure.simulated:10.4f} {figure.error:7.1%} {figure.goal:5.0%} "
            f"{figure.spread:20.1%}{missed}"
        )
    whole = sum(blamed.values())
    shares = ", ".join(f"{part} {1e3 * seconds:+.0f} ms" for part, seconds in blamed.items())
    yield f"Of the mean JCT the simulator has {1e3 * whole:+.0f} ms: {shares}."
    worst = max(blamed, key=lambda part: abs(blamed[part]))
    yield f"Most of it comes from: {worst}."


def broken(runs: Sequence[Sequence[Program]], lengths: Sequence[Program]) -> Iterator[str]:
    """Why the runs are not what they should be."""
    simulated = {program.program_id: program for program in lengths}
    for number, run in enumerate(runs, 1):
        failed = [line for program in run for line in failures(program)[:1]]
        if failed:
            yield f"run {number}: {failed[0]}"
            continue
        if off := sum(_off(program, simulated[program.program_id]) for program in run):
            yield f"run {number}: {off} prompts are of another length than the simulated ones"
        if (queued := queued_calls(run).mean) < _LEAST_QUEUED:
            yield f"run {number}: {queued:.2f} calls queued on average, at least {_LEAST_QUEUED:g} should"
        evicted = describe(lengths).own - summarise(run).cached_share
        if evicted < _LEAST_EVICTED:
            yield f"run {number}: {evicted:.1%} of the prompt tokens were evicted before they were wanted again"


def _off(real: Program, simulated: Program) -> int:
    """Calls whose prompts are not as long as the server says."""
    return sum(call.measured.rec_in != simulated.prompt_tokens(simulated.calls[call.id]) for call in real.calls)
