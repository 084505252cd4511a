"""When a program's calls can begin and end at the earliest, alone on a cluster that has all that others can bring.

The longest path of a program through prefills, decodes and waits is its critical path (algorithms.md 3.1).
"""

from sim.limits.capacity import Capacity
from sim.limits.demand import Demand
from sim.trace import Call, Program


class Paths:
    """Seconds, counted from the program's arrival."""

    def __init__(self, program: Program, demand: Demand, capacity: Capacity) -> None:
        calls = demand.calls
        self.prefills = [capacity.prefill_seconds(call.prefill_tokens, call.prefill_pairs) for call in calls]
        self.decodes = [capacity.decode_seconds(call.decode_steps, call.decode_context) for call in calls]
        self.heads: list[float] = []
        """Until each call is issued."""
        waits = [_wait(program, call) for call in program.calls]
        for call in program.calls:
            issued = max((self.end(parent) for parent in call.parents), default=0.0) + waits[call.id]
            if call.gap_s is not None:
                issued = max(issued, max((self.heads[parent] for parent in call.parents), default=0.0) + call.gap_s)
            self.heads.append(issued)
        self.tails = [0.0] * len(calls)
        """From the end of each call to the end of the program."""
        for call in reversed(program.calls):
            rest = waits[call.id] + self.seconds(call.id) + self.tails[call.id]
            for parent in call.parents:
                self.tails[parent] = max(self.tails[parent], rest)
        self.critical_path = max(self.end(call) for call in range(len(calls)))

    def seconds(self, call: int) -> float:
        """From its issue to its end."""
        return self.prefills[call] + self.decodes[call]

    def end(self, call: int) -> float:
        return self.heads[call] + self.seconds(call)


def _wait(program: Program, call: Call) -> float:
    """From the end of its last parent to its issue: its own wait, or the tools that its parents asked for."""
    tools = (max(program.calls[parent].tool_s, default=0.0) for parent in call.parents)
    return max(call.wait_s or 0.0, max(tools, default=0.0))
