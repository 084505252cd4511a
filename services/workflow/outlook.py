"""Outlook: what is expected of calls and threads, and what is learned when it comes out.

`began`, `ended` and `returned` as a program goes on, `over` at its end. Programs that live teach what they outlived:
each time a program has twice as many calls, all that remained at its calls so far is known to be at least what has
come since.
"""

from collections.abc import Mapping
from math import log2
from typing import Any

from services.common.forecast import Forecast
from services.common.laws import Law, Lomax, Quantiles
from services.workflow import known
from services.workflow.events import CallBegan, CallEnded
from services.workflow.learning import SECONDS, TOKENS, Quantity, Speeds
from services.workflow.limits import Limits
from services.workflow.records import Call, Program, Thread

_OUTPUT = Lomax(2.0, 300.0)
_REMAINING = Lomax(1.2, 20.0)
_RETURNS = Lomax(0.7, 5.0)
_HEARD = frozenset(2**power - 2 for power in range(1, 13))
"""Calls of a program that teach which cells to hear for what remains, by their places: its calls are much alike."""
_AGAIN = 2.0
_CALLS = 40.0
"""Of what remains, the kind above counts as so many values: a program has about as many, and they are much alike."""
_LONGER = 4.0
"""So many more values of what remains are remembered, for the same reason."""
_TAIL = 0.5
"""Who outlived all that was expected, will as half of that again."""


class Outlook:
    """What is expected of calls and threads. Its quantities are each bounded by themselves."""

    def __init__(self, limits: Limits) -> None:
        bounds = (limits.max_cells, limits.cell_values)
        self._output = Quantity(TOKENS, _OUTPUT, known.NUM_OUTPUT, *bounds, kind_weight=2.0, cell_weight=3.0)
        self._remaining = Quantity(
            SECONDS,
            _REMAINING,
            known.NUM_REMAINING,
            limits.max_cells,
            _LONGER * limits.cell_values,
            kind_weight=_CALLS,
            cell_weight=3.0,
            calibrated=False,
        )
        self._returns = Quantity(
            SECONDS, _RETURNS, known.NUM_RETURNS, *bounds, kind_weight=2.0, cell_weight=2.0, never=True
        )
        self._speeds = Speeds()

    def began(self, program: Program, call: Call, event: CallBegan, last: Call | None) -> Forecast:
        """A call began; `last`: the one before it in its chain, if any."""
        kinds = known.roles(program, call)
        call.output = self._output.ask(kinds, known.output_cells(program, call, event, last, kinds[-1]))
        output = self._output.law(call.output)
        asked = self._remaining.ask(kinds, known.remaining_cells(program, call, event, last, kinds[-1]))
        remaining = self._remaining.law(asked)
        heard = program.num_live + program.num_ended in _HEARD
        call.remaining = asked.packed() if heard else asked.of_old()
        call.expected_seconds = _median(remaining)
        return Forecast(
            output=output,
            service=self._speeds.service(call.model, call.uncached_tokens, output),
            remaining=remaining,
            returns=self._returns.usual(kinds),
        )

    def returned(self, thread: Thread, seconds: float) -> None:
        """A thread made its next call."""
        if thread.returns is not None:
            self._returns.learn(thread.returns, seconds)
            thread.returns = None
        thread.returned_after = seconds
        thread.gaps.add(log2(0.01 + seconds))

    def ended(self, call: Call, event: CallEnded) -> None:
        """A call ended well."""
        if call.output is not None:
            self._output.learn(call.output, float(event.output_tokens))
        call.thread.outputs.add(log2(1.0 + event.output_tokens))
        if event.engine_seconds > 0:
            uncached = event.prompt_tokens - event.cached_tokens if event.cached_tokens else call.uncached_tokens
            self._speeds.add(call.model, uncached, event.output_tokens, event.engine_seconds)

    def idle(self, program: Program, thread: Thread, call: Call) -> Forecast:
        """A thread has no call any more, `call` was the last: what is expected of its next one."""
        kinds = known.roles(program, call)
        thread.returns = self._returns.ask(kinds, known.returns_cells(program, thread, call, kinds[-1]))
        returns = self._returns.law(thread.returns)
        remaining = later(call.forecast.remaining, call.seconds)
        thread.expected_seconds = _median(remaining) * (1.0 - returns.never) if remaining else 0.0
        return Forecast(remaining=remaining, returns=returns)

    def outlived(self, program: Program) -> None:
        """Count what a live program has outlived, if it has grown enough since that was done."""
        if program.num_ended < program.look_again:
            return
        program.look_again = int(program.num_ended * _AGAIN) + 1
        for call, seconds in _chains(program):
            if call.remaining is not None and (place := SECONDS.place(seconds)) > call.lived:
                self._remaining.lived(call.remaining, call.lived, place)
                call.lived = place

    def over(self, program: Program) -> None:
        """A program makes no more calls."""
        for call, seconds in _chains(program):
            if call.remaining is not None and call.ended:
                start = min(call.lived, SECONDS.place(seconds))
                self._remaining.learn(call.remaining, seconds, start)
        for thread in program.threads.values():
            if thread.returns is not None:
                self._returns.learn(thread.returns, None)
                thread.returns = None

    def snapshot(self, most_cells: int) -> dict[str, Any]:
        """What was learned, as JSON takes it."""
        learned = {name: quantity.snapshot(most_cells) for name, quantity in self._quantities().items()}
        return {**learned, "speeds": self._speeds.snapshot()}

    def restore(self, data: Mapping[str, Any]) -> None:
        """What `snapshot` gave."""
        for name, quantity in self._quantities().items():
            quantity.restore(data[name])
        self._speeds.restore(data["speeds"])

    def check(self) -> None:
        """Raise AssertionError if something is not as it always is."""
        for quantity in self._quantities().values():
            quantity.check()

    def _quantities(self) -> dict[str, Quantity]:
        return {"output": self._output, "remaining": self._remaining, "returns": self._returns}


def _chains(program: Program) -> list[tuple[Call, float]]:
    """Of each call the engine seconds of the longest chain from it on, as far as it has come; the newest call first.
    Whom a call waited for came before it."""
    longest: dict[str, float] = {}
    chains: list[tuple[Call, float]] = []
    for call in reversed(program.calls.values()):
        seconds = call.seconds + longest.get(call.call_id, 0.0)
        chains.append((call, seconds))
        for parent in call.parents:
            if seconds > longest.get(parent, 0.0):
                longest[parent] = seconds
    return chains


def later(law: Law | None, seconds: float) -> Quantiles | None:
    """What is left of a law when so much has passed; None: of what kind it is, nobody knows."""
    if not isinstance(law, Quantiles):
        return None
    left = [point - seconds for point in law.points if point > seconds]
    never = law.never / (1.0 - law.cdf(seconds)) if law.never else 0.0
    return Quantiles(left or [_TAIL * seconds], min(never, 1.0))


def _median(law: Quantiles) -> float:
    return law.points[len(law.points) // 2]
