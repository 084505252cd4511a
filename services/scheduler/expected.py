"""Expected: what is believed of a call when it is queued. Written by knowledge.py alone, read by every policy."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

from services.scheduler.fairness import NO_TAG, Tag, Turns

if TYPE_CHECKING:
    from services.common.laws import Law


@dataclass(slots=True)
class Expected:
    """Service is engine seconds, on an engine that the call has for itself; see engine_seconds.py."""

    service_seconds: float
    """Mean for this call: prefill of what is not cached, and decode."""
    remaining: Law
    """Of its program along the longest chain of calls, this one included: the law of a whole program's service, of
    which `attained` has passed."""
    attained_seconds: float
    """What `remaining` is conditional on."""
    past: Law
    """The same as the newest samples of such programs, as far as there are any."""
    returns: Law
    """Seconds from the call's end to the next call of its thread."""
    output: Law
    """Tokens that it generates in all."""
    importance: float = 0.0
    information: float = 0.0
    """Nats that its end tells of the rest of its program."""
    away_seconds: float = inf
    """Since the last call of its thread ended; inf: there was none."""
    aged: float = 0.0
    """When it was submitted, in typical waits: the clock by which calls grow urgent, habits.py."""
    patience_seconds: float = 1.0
    """The typical wait, then."""
    turn: float = 0.0
    """Its start if tenants shared the engines at every moment."""
    turns: Turns | None = None
    """Tells when that is."""
    prefill_seconds: float = 0.0
    """To prefill all of its prompt."""
    latency_seconds: float = 0.0
    """Mean from when calls of its agent are submitted to the end of their programs, waits and tools included."""
    span_seconds: float = 0.0
    """Mean that a program of its kind takes from start to end without the time it waits in the queue."""
    uncertainty: float = 0.0
    """Of how much service a program of its kind takes: entropy in nats."""
    fair: Tag = NO_TAG
    """Its place among the calls of all tenants: fairness.py."""
    urgent: Tag = NO_TAG
    """The same with the urgency of the tenants' programs as their weights."""
    urgency: float = 0.0
    """Of its program among all: remaining service over the time that is left for it, against the mean of all; 1: as
    any other."""
    virtual_finish: float = 0.0
    """When its program's KV would be served if all programs shared it at once: fairness.py."""
    decayed_service: float = 0.0
    """Logarithm of the tokens that its program was served, those long ago counting less."""

    def remaining_mean(self) -> float:
        """Of what is left of the program, seconds."""
        return self.remaining.truncated_mean(1e9, self.attained_seconds)
