"""What yields most goodput for each second of generation goes first: Tempo, later JITServe (arXiv 2504.20068; [N]).

    goodput / t_gen, t_gen / t_rem being the bandwidth that the call needs; what cannot be in time any more goes last

Interactive calls earn their tokens one by one, so each counts for itself: its tokens over its seconds. A program with a
deadline earns all its tokens at once or none, so what counts is what is left of it. Reconstruction: lengths are means
here, an upper bound of a quantile forest there; GMAX, which picks batches of alike prompts inside the engine, is left
out, and so is preemption. Feasibility is judged when the call is queued.
"""

from math import inf

from services.scheduler.ordering import Ordering
from services.scheduler.rank import due, mean
from services.scheduler.records import Call
from services.scheduler.service_class import ServiceClass


class Policy(Ordering):
    """`slack`: what a program without a deadline may take, in spans of its kind."""

    def __init__(self, slack: float = 5.0) -> None:
        if slack <= 0:
            raise ValueError("tempo: need slack > 0")
        self._slack = slack

    def rank(self, call: Call) -> tuple[float, ...]:
        expected, tokens = call.expected, call.expected_output
        if call.program.service_class is ServiceClass.INTERACTIVE and call.program.deadline == inf:
            return (0.0, -tokens / max(expected.service_seconds, 1e-6), call.arrived)
        seconds = max(mean(expected.remaining, expected.attained_seconds), expected.service_seconds, 1e-6)
        late = seconds > due(call, self._slack) - call.queued_at
        # A program's tokens come at the pace of its calls'; so many are left as its seconds hold.
        goodput = tokens * seconds / max(expected.service_seconds, 1e-6)
        return (float(late), -goodput / seconds / seconds, call.arrived)
