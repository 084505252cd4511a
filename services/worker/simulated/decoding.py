"""The calls that decode: all in lockstep, each for one token a step.

What a call has got so far is its number at joining plus the steps since, so a step costs nothing for a call that nobody
has to look at. Two things make one worth a look: its *alarm*, set to a number of tokens, and the need of another block,
which comes round every `block_size` steps.
"""

import heapq
from collections.abc import Iterable
from itertools import chain

from services.worker.simulated.call import Call


class Decoding:
    """`calls` in the order in which they joined, by key."""

    def __init__(self, block_size: int) -> None:
        self.calls: dict[int, Call] = {}
        self.context = 0
        """Sum of `num_tokens` over the calls."""
        self._block_size = block_size
        self._step = 0
        self._alarms: dict[int, list[Call]] = {}
        """By step; stale where the call has left or has another alarm."""
        self._alarm_steps: list[int] = []
        """Heap of the keys of `_alarms`."""
        self._growing: dict[int, dict[int, Call]] = {}
        """By step modulo `block_size`: who has then filled its blocks with its newest token left over, by key."""

    def __len__(self) -> int:
        return len(self.calls)

    def __contains__(self, key: int) -> bool:
        return key in self.calls

    def num_tokens(self, call: Call) -> int:
        """Prompt and output so far of a call that is here."""
        return call.num_tokens + self._step - call.joined

    def add(self, call: Call) -> None:
        """Let in a call whose blocks hold all but its newest token, or have just room for that too."""
        call.joined = self._step
        self.calls[call.key] = call
        self.context += call.num_tokens
        self._growing.setdefault(self._phase(call), {})[call.key] = call

    def remove(self, call: Call) -> None:
        """Take a call out, with its `num_tokens` up to date."""
        del self._growing[self._phase(call)][call.key]
        call.num_tokens = self.num_tokens(call)
        self.context -= call.num_tokens
        del self.calls[call.key]

    def set_alarm(self, call: Call, num_tokens: int) -> None:
        """Have `advance` name the call when it has so many tokens, more than now. Replaces its alarm."""
        step = call.alarm = call.joined + num_tokens - call.num_tokens
        calls = self._alarms.get(step)
        if calls is None:
            self._alarms[step] = [call]
            heapq.heappush(self._alarm_steps, step)
        else:
            calls.append(call)

    def quiet_steps(self) -> int | None:
        """After how many steps the next alarm may ring; None: there is none."""
        return self._alarm_steps[0] - self._step if self._alarm_steps else None

    def advance(self) -> list[Call]:
        """One step: whose alarm rings, in the order in which alarms were set."""
        self._step += 1
        self.context += len(self.calls)
        if not self._alarm_steps or self._alarm_steps[0] > self._step:
            return []
        ringing: list[Call] = []
        for call in self._alarms.pop(heapq.heappop(self._alarm_steps)):
            if call.alarm == self._step and self.calls.get(call.key) is call:
                call.alarm = 0
                ringing.append(call)
        return ringing

    def skip(self, steps: int) -> None:
        """So many steps, through which no alarm rings."""
        self._step += steps
        self.context += steps * len(self.calls)

    def growing(self) -> Iterable[Call]:
        """Who needs another block for its newest token."""
        return self._growing.get(self._step % self._block_size, {}).values()

    def growths(self, steps: int) -> list[int]:
        """After which of the next so many steps, counted from 1, somebody needs a block."""
        first, size = self._step + 1, self._block_size
        begins = [1 + (phase - first) % size for phase, calls in self._growing.items() if calls]
        return sorted(at for begin in begins for at in range(begin, steps + 1, size))

    def num_growing(self, steps: int) -> int:
        """How many blocks they will need in so many further steps, if none leaves."""
        rounds, rest = divmod(steps, self._block_size)
        first = self._step + 1
        partly = (calls for phase, calls in self._growing.items() if (phase - first) % self._block_size < rest)
        return rounds * len(self.calls) + sum(map(len, partly))

    def _phase(self, call: Call) -> int:
        return (call.joined + 1 - call.num_tokens) % self._block_size

    def check(self) -> None:
        """Assert the invariants."""
        assert self.context == sum(map(self.num_tokens, self.calls.values()))
        assert set(chain.from_iterable(self._growing.values())) == self.calls.keys()
        assert sorted(self._alarm_steps) == sorted(self._alarms)
        assert all(step > self._step for step in self._alarm_steps)
        for call in self.calls.values():
            assert call in self._alarms[call.alarm]
            needy = self.num_tokens(call) > call.table.room
            assert not needy or call in self.growing()
