"""Knowledge: what calls and programs did before, and what is expected of new ones by it.

Deterministic and bounded; told of every call's end and every program's end. What a forecast says goes first.
"""

from services.common.laws import Exponential, Point
from services.scheduler.expectation import OutputLengths
from services.scheduler.expected import Expected
from services.scheduler.limits import Limits
from services.scheduler.records import Call, Program

_RETURN_SECONDS = 10.0


class Knowledge:
    """`expect` when a call is queued, `learn` when it has ended, `ended` when its program has."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._outputs = OutputLengths(limits.assumed_output_tokens)

    def output_tokens(self, call: Call) -> float:
        """That the call will still generate."""
        expected = self._outputs.expect(call.program.tenant, call.agent, call.max_tokens)
        return max(1.0, expected - call.generated_tokens)

    def expect(self, call: Call, now: float) -> Expected:
        """What is believed of a call that is about to be queued."""
        limits = self._limits
        seconds = call.prompt_tokens / limits.assumed_prefill_tokens_per_second
        seconds += call.expected_output * limits.assumed_step_seconds
        return Expected(seconds, Point(seconds), 0.0, Exponential(1 / _RETURN_SECONDS))

    def learn(self, call: Call, seconds: float, output_tokens: int, now: float) -> None:
        """A call ended well, after so many engine seconds."""
        self._outputs.learn(call.program.tenant, call.agent, output_tokens)

    def ended(self, program: Program, now: float) -> None:
        """A program is over."""
