"""Ours: Gittins' index of what is left of the program, with urgency that grows while a call waits.

    key = ln Phi + bytes * ln(tokens) - ln(weight * class weight) - lam_i * IG - lam_x * X + time / patience

Phi is what a unit of completion costs: inf over D of E[min(R, D)] / P(R <= D), R what is left of the program by the law
learned of its kind, given what it was served, or foreseen of it (rank.py), D at least this call. Laws decide what kind
of policy it is: a falling hazard favours programs that got little (Autellix), a rising one those that are nearly done
(Continuum), known sizes give SRPT. Where KV is short it is not seconds that run out but byte-seconds: `tokens` is what
the call holds of it, prompt and expected output, and with `bytes` 1 the order is that of completions for each
token-second. `time` is the call's arrival or, with a deadline, the latest start of its share of it (hexgen.py), but at
most `patience` later than its arrival. It is counted in typical waits (habits.py), so that order means the same under
any load. A call is overtaken only by calls that come within patience * ln(ratio of the other factors) typical waits of
it: no starvation, no refreshing.

A guard bounds what tenants lose by it: a call that still waits `lag` typical waits after its turn in the ideal system
(fairness.py: tenants share by weight, each served as it asks; with one tenant, first come, first served) goes before
all that are not that late, in order of turns.
"""

from math import inf, log

from services.scheduler.ordering import Ordering
from services.scheduler.rank import due, gittins, latest_start, ln, octave
from services.scheduler.records import Call
from services.scheduler.service_class import ServiceClass


class Policy(Ordering):
    """`patience` and `lag` in typical waits; lag 0: no guard. `interactive` and `batch`: weights of these classes
    beside the default's 1. `information` and `importance`: lam_i and lam_x, what a nat and a unit of importance are
    worth, as exponents; `bytes`: what the tokens are that a call holds."""

    def __init__(
        self,
        patience: float = 1.0,
        lag: float = 2.0,
        interactive: float = 4.0,
        batch: float = 0.25,
        information: float = 0.0,
        importance: float = 0.0,
        bytes: float = 1.0,
    ) -> None:
        if patience <= 0 or lag < 0 or interactive <= 0 or batch <= 0 or bytes < 0:
            raise ValueError("gittins: need patience, interactive, batch > 0, lag, bytes >= 0")
        self._patience = patience
        self._lag = lag
        self._classes = {
            ServiceClass.INTERACTIVE: log(interactive),
            ServiceClass.DEFAULT: 0.0,
            ServiceClass.BATCH: log(batch),
        }
        self._information = information
        self._importance = importance
        self._bytes = bytes

    def rank(self, call: Call) -> tuple[float, ...]:
        expected, program = call.expected, call.program
        if call.promoted:
            return (0.0, expected.turn, call.arrived)
        key = ln(_phi(call)) + self._bytes * ln(call.prompt_tokens + call.expected_output)
        key -= ln(program.account.weight) + self._classes[program.service_class]
        key -= self._information * expected.information + self._importance * expected.importance
        return (1.0, key + self._time(call) / self._patience, call.arrived)

    def promotes_at(self, call: Call) -> float:
        expected = call.expected
        if call.promoted or not self._lag or expected.turns is None:
            return inf
        turn_at = max(call.queued_at, expected.turns.comes_at(expected.turn))
        return turn_at + self._lag * expected.patience_seconds

    def level(self, call: Call) -> int:
        return octave(_phi(call))

    def _time(self, call: Call) -> float:
        expected = call.expected
        if call.program.deadline == inf:
            return expected.aged
        later = (latest_start(call, due(call, 1.0)) - call.arrived) / expected.patience_seconds
        return expected.aged + min(later, self._patience)


def _phi(call: Call) -> float:
    expected = call.expected
    return gittins(expected.remaining, expected.attained_seconds, expected.service_seconds)
