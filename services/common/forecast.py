"""Forecast: what is said of a call by who knows more than the scheduler: the workflow service, a caller, or a simulator
that replays the past. Whatever is None is learned or assumed by who is told."""

from dataclasses import dataclass

from services.common.laws import Law


@dataclass(frozen=True, slots=True)
class Forecast:
    """Service is engine seconds: what a call takes on an engine that it has for itself, prefill and decode."""

    output: Law | None = None
    """Tokens of output."""
    service: Law | None = None
    """Of this call."""
    remaining: Law | None = None
    """Of its program from this call on, this one included, along the longest chain of calls."""
    returns: Law | None = None
    """Seconds from this call's end to the next call of its thread; NEVER: it is the thread's last."""
    importance: float = 0.0
    """Of its agent for the end of the program (Tokencake), or minus its slack on the critical path, in engine seconds;
    0: as any other."""
    information: float = 0.0
    """What its end tells of the rest of its program, in nats (LLMSched)."""


NO_FORECAST = Forecast()
