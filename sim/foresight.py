"""Forecasts that are the truth: what an oracle, or a perfect workflow service, would say of a replayed program.

Service is what the call takes on an engine that it has for itself, with what its thread sent before in the cache.
"""

from collections.abc import Sequence

from services.common.forecast import Forecast
from services.common.laws import NEVER, Point
from services.worker.simulated.cost import Profile
from sim.trace import Call, Program

_CHUNK_TOKENS = 2048


def service_seconds(profile: Profile, cached_tokens: int, prompt_tokens: int, output_tokens: int) -> float:
    """Prefill in chunks, then decode alone."""
    seconds, done = 0.0, min(cached_tokens, prompt_tokens - 1)
    while done < prompt_tokens:
        new = min(_CHUNK_TOKENS, prompt_tokens - done)
        seconds += profile.step_seconds(1, new, 0, new * done + new * new / 2)
        done += new
    steps = output_tokens - 1
    return seconds + steps * profile.step_seconds(1, 1, prompt_tokens + output_tokens // 2, 0.0)


def services(program: Program, profile: Profile) -> list[float]:
    """Of each call."""
    sent: dict[str, tuple[int, ...]] = {}
    found: list[float] = []
    for call in program.calls:
        thread = f"{call.thread}/{call.agent}"
        before = sent.get(thread, ())
        cached = 0
        for old, new in zip(before, call.prompt, strict=False):
            if old != new:
                break
            cached += program.segments[new].tokens
        sent[thread] = (*call.prompt, *call.output)
        found.append(service_seconds(profile, cached, program.prompt_tokens(call), call.output_tokens))
    return found


def forecasts(program: Program, profile: Profile) -> Sequence[Forecast]:
    """Of each call."""
    seconds = services(program, profile)
    remaining = list(seconds)
    for call in reversed(program.calls):
        for parent in call.parents:
            remaining[parent] = max(remaining[parent], seconds[parent] + remaining[call.id])
    followers: dict[str, Call] = {}
    returns: list[float | None] = [None] * len(program.calls)
    for call in reversed(program.calls):
        thread = f"{call.thread}/{call.agent}"
        if (follower := followers.get(thread)) is not None:
            returns[call.id] = _gap(program, call, follower, seconds)
        followers[thread] = call
    return [
        Forecast(
            Point(float(call.output_tokens)),
            Point(seconds[call.id]),
            Point(remaining[call.id]),
            NEVER if (gap := returns[call.id]) is None else Point(gap),
        )
        for call in program.calls
    ]


def _gap(program: Program, call: Call, follower: Call, seconds: Sequence[float]) -> float:
    """From a call's end to the next call of its thread, along the longest way if others lie between."""
    waits = max((max(program.calls[parent].tool_s, default=0.0) for parent in follower.parents), default=0.0)
    gap = max(follower.wait_s or 0.0, waits)
    between = [parent for parent in follower.parents if parent > call.id]
    return gap + max((seconds[parent] for parent in between), default=0.0)
