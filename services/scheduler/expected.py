"""Expected: what is believed of a call when it is queued. Written by knowledge.py alone, read by every policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from services.common.laws import Law


@dataclass(slots=True)
class Expected:
    """Service is engine seconds, on an engine that the call has for itself; see forecast.py."""

    service_seconds: float
    """Mean for this call: prefill of what is not cached, and decode."""
    remaining: Law
    """Of its program along the longest chain of calls, this one included: the law of a whole program's service, of
    which `attained` has passed."""
    attained_seconds: float
    """What `remaining` is conditional on."""
    returns: Law
    """Seconds from the call's end to the next call of its thread."""
    importance: float = 0.0
    information: float = 0.0

    def remaining_mean(self) -> float:
        """Of what is left of the program, seconds."""
        return self.remaining.truncated_mean(1e9, self.attained_seconds)
