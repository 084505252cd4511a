"""The rules by which RPCs are tried again.

What was refused or found nobody (`Overloaded`, `Unavailable`) is tried again, at most `max_retries` times and never
past the deadline: after the pause that the server asked for, or after one that doubles, both jittered so that a
thousand programs do not come back at once. Once a gateway was lost that answered before, the client is patient: for
`reconnect_seconds` it tries as often as it takes until there is output again. Meanwhile two more failures are no reason
to give up: that the call exists, for the lost gateway may not be missed yet, and that no worker serves the model, for a
cluster that comes back has gateways before it has workers.
"""

import asyncio
import random
from dataclasses import dataclass
from typing import NoReturn

from legato.errors import CallExists, LegatoError, ModelNotFound, Overloaded, Unavailable

_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 2.0
"""A gateway that comes back is found after 1.5 s in the median, 2.5 s at most; with pauses of up to 5 s, 3.0 and 5.3.
Trying is cheap: where nobody is, a try does not leave the process (whose channel connects every 2 s at most) and costs
it 0.3 ms; whoever is there and cannot serve says when to come again.
"""
_CONNECTED_SECONDS = 60.0
"""A try that lasted so long had a gateway: none takes so long to connect."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How patient a client is."""

    max_retries: int
    deadline_seconds: float | None
    reconnect_seconds: float = 0.0


class Attempts:
    """The tries of one RPC."""

    def __init__(self, policy: Policy, deadline_seconds: float | None = None) -> None:
        seconds = policy.deadline_seconds if deadline_seconds is None else deadline_seconds
        self._now = asyncio.get_running_loop().time
        self._deadline = None if seconds is None else self._now() + seconds
        self._reconnect_seconds = policy.reconnect_seconds
        self._left = policy.max_retries
        self._next_pause_seconds = _FIRST_PAUSE_SECONDS
        self._first = True
        self._began = self._now()
        """This try."""
        self._lost_at: float | None = None
        """When the gateway was lost; None: it is there."""

    def remaining_seconds(self) -> float | None:
        """Until the deadline; None without one."""
        return None if self._deadline is None else max(0.0, self._deadline - self._now())

    def heard(self) -> None:
        """There is output: the gateway is there."""
        self._lost_at = None
        self._next_pause_seconds = _FIRST_PAUSE_SECONDS

    async def after(self, failure: LegatoError, *, lost: bool, final: bool = False) -> None:
        """Wait until it is time to try again; when it never is, or the failure is `final`, raise it.

        `lost`: the gateway was there and is gone.
        """
        now = self._now()
        if now - self._began > _CONNECTED_SECONDS:
            self.heard()
        if lost and self._lost_at is None:
            self._lost_at = now
        if final or not self._retriable(failure):
            _give_up(failure)
        pause, remaining = self._pause_after(failure), self.remaining_seconds()
        patient = self._lost_at is not None and now + pause < self._lost_at + self._reconnect_seconds
        if not (patient or self._left > 0) or (remaining is not None and pause >= remaining):
            _give_up(failure)
        self._left -= not patient
        self._first = False
        await asyncio.sleep(pause)
        self._began = self._now()

    def _retriable(self, failure: LegatoError) -> bool:
        if isinstance(failure, CallExists):  # the try before may still be dying at its gateway under the same call id
            return not self._first
        if isinstance(failure, ModelNotFound):
            return self._lost_at is not None
        return isinstance(failure, Overloaded | Unavailable)

    def _pause_after(self, failure: LegatoError) -> float:
        """Seconds: what the server asked for or a little more; otherwise doubling."""
        if failure.retry_after_seconds is not None:
            return failure.retry_after_seconds * random.uniform(1.0, 1.25)
        pause = self._next_pause_seconds * random.uniform(0.5, 1.0)
        self._next_pause_seconds = min(2 * self._next_pause_seconds, _LONGEST_PAUSE_SECONDS)
        return pause


def _give_up(failure: LegatoError) -> NoReturn:
    raise failure
