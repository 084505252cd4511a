"""How long a call waits before it is issued, where the source does not say, and how long at most."""

import dataclasses
import random
from dataclasses import dataclass

from sim.programs.laws import TOOL_SECONDS, tool
from sim.trace import Call

DEFAULT_WAIT_SECONDS = {"user": 20.0, "env": 1.0}
"""For a wait that the source knows of, but not how long it was; tools draw from sim/programs/laws.py."""


@dataclass(frozen=True, slots=True)
class Caps:
    """The longest waits."""

    user_seconds: float = 60.0
    """For people."""
    other_seconds: float = 900.0
    """For anything else: the p99 of weka_claude_code, whose longest "tool" of 21 hours was someone's night."""


def seconds(call: Call, caps: Caps, rng: random.Random) -> float:
    """The call's wait, drawn if it was not recorded."""
    cap = caps.user_seconds if call.wait_kind == "user" else caps.other_seconds
    if call.wait_s is not None:
        return min(call.wait_s, cap)
    if call.wait_kind == "tool":
        return TOOL_SECONDS[tool(rng)].draw(rng)
    mean = DEFAULT_WAIT_SECONDS.get(call.wait_kind or "", 0.0)
    return min(rng.expovariate(1 / mean), cap) if mean else 0.0


def filled(call: Call, caps: Caps, rng: random.Random) -> Call:
    """The call with its wait as a number. Where only arrivals were recorded, the gap says it all."""
    tool_s = tuple(min(seconds, caps.other_seconds) for seconds in call.tool_s)
    if call.gap_s is not None:
        return dataclasses.replace(call, gap_s=call.gap_s, wait_s=0.0, tool_s=tool_s)
    return dataclasses.replace(call, wait_s=seconds(call, caps, rng), tool_s=tool_s)
