"""Knowledge: what calls and programs did before, and what is expected of new ones by it.

Deterministic and bounded. It is told when a call begins, gets an engine and is gone, and of every program's end; what
a forecast says goes before what was learned. A program's kind is its tenant and the agent of its first call; a call's,
its tenant and agent. Laws of service are learned in parts: a program that is served without ending counts as such at
once, so long programs are not missed while they live. The prior is heavy-tailed (a falling hazard: programs that got
little go first), until what is seen says otherwise.
"""

from math import inf, log

from services.common.laws import Intervals, Key, Law, Lomax, life_table
from services.scheduler.engine_seconds import EngineSeconds
from services.scheduler.eta import Paces, Rest
from services.scheduler.events import TokenUsage
from services.scheduler.expectation import OutputLengths
from services.scheduler.expected import Expected
from services.scheduler.fairness import StartTags, Turns, VirtualFinish
from services.scheduler.forecasts import Forecasts
from services.scheduler.habits import Averages, Coupling, Samples, Waits
from services.scheduler.limits import Limits
from services.scheduler.rank import mean
from services.scheduler.records import Call, Program
from services.scheduler.trails import Step, Trail

_SERVICE = Lomax(1.5, 15.0)
"""Of a program, before one was seen: engine seconds; half of them within 9."""
_RETURN = Lomax(1.0, 10.0)
_MOST_KINDS = 1000
_MOST_AWAY = 256
_MOST_SEEN = 4096
_FORETOLD = 4
"""Threads of which a forecast is kept, for each program that may live."""
_PRIOR_WEIGHT = 1.0
"""In each stretch of a kind's law, the law of the kind above counts as so many."""
_SPAN = 1.5
"""A program without a deadline is due when it has taken so many times what its kind takes without waiting (SAGA)."""
_DECAY = -log(0.995)
"""Of tokens served, each time a call is placed (llm-d)."""


class Knowledge:
    """`begin` when a call is submitted, `revise` when a forecast of it comes or expires, `expect` whenever it is
    queued, `placed` when it has a place, `learn` when it has ended, `left` when it is gone for whatever reason; `ended`
    when its program is over. `forecasts`: what the workflow service says; foresight.py writes it."""

    def __init__(self, limits: Limits) -> None:
        self.engine_seconds = EngineSeconds(limits)
        self.forecasts = Forecasts(_FORETOLD * limits.max_programs)
        self._outputs = OutputLengths(limits.assumed_output_tokens)
        bounds = (_MOST_KINDS, _MOST_AWAY, _PRIOR_WEIGHT, _MOST_SEEN, life_table)
        self._services = Intervals(_SERVICE, *bounds)
        self._returns = Intervals(_RETURN, *bounds)
        self._tokens = Intervals(Lomax(3.0, 2.0 * limits.assumed_output_tokens), *bounds)
        self._cached, self._latencies, self._spans, self._kv_costs = (Averages() for _ in range(4))
        self._past, self._paces = Samples(), Paces()
        self._coupling = Coupling()
        self._waits = Waits()
        self._fair, self._urgent = StartTags(), StartTags()
        self._turns = Turns()
        self._virtual = VirtualFinish()
        self._trails: dict[str, Trail] = {}
        self._urgency = 0.0
        self._num_placed = 0

    @property
    def num_trails(self) -> int:
        """Programs of which something is kept."""
        return len(self._trails)

    def output_tokens(self, call: Call) -> float:
        """That the call will still generate."""
        if (forecast := call.forecast.output) is not None:
            most = call.max_tokens - call.generated_tokens if call.max_tokens else 1e9
            return max(1.0, forecast.truncated_mean(max(1.0, most), float(call.generated_tokens)))
        expected = self._outputs.expect(call.program.tenant, call.agent, call.max_tokens)
        return max(1.0, expected - call.generated_tokens)

    def service_seconds(self, call: Call, usage: TokenUsage, measured_seconds: float) -> float:
        """Engine seconds of an ended call's last attempt; what was measured, if nothing is known of its tokens."""
        if not usage.prompt_tokens:
            return measured_seconds
        speed = self.engine_seconds.of(call.model)
        prefilled = 0 if call.handed_off else max(0, usage.prompt_tokens - usage.cached_tokens)
        return speed.seconds(prefilled, usage.completion_tokens)

    def begin(self, call: Call, now: float) -> None:
        """A call was submitted; its expectations and tags."""
        self.forecasts.take(call, now)
        call.expected_output = self.output_tokens(call)
        program, account = call.program, call.program.account
        trail = self._trail(program)
        thread = trail.thread(call)
        away = now - thread.idle_since
        if not thread.num_live and away < inf:
            self._returns.close(_keys(program.tenant, thread.agent), _name(call), away, happened=True)
        thread.num_live += 1
        account.num_live += 1
        trail.newest = call.key
        if call.forecast.remaining is not None:
            trail.forecast = (call.forecast.remaining, program.attained_seconds)
        remaining, past, returns, output = self._laws(call, now)
        expected = call.expected = Expected(
            service_seconds=0.0,
            remaining=remaining,
            attained_seconds=0.0,
            past=past,
            returns=returns,
            output=output,
            importance=call.forecast.importance,
            information=self._information(call),
            away_seconds=away,
            aged=self._waits.time(now),
            patience_seconds=self._waits.typical_seconds,
            prefill_seconds=call.prompt_tokens * self.engine_seconds.of(call.model).prefill_seconds,
            latency_seconds=self._latencies.of([(*_kind(program), call.agent), _kind(program)], 0.0),
            uncertainty=self._past.entropy(_kind(program)),
            virtual_finish=trail.virtual_finish,
            decayed_service=trail.decayed,
        )
        self.expect(call, now)
        self._hurry(call, trail, now)
        expected.fair = self._fair.tag(account.fair, expected.service_seconds, account.weight)
        expected.turn = self._turns.enter(account.turns, expected.service_seconds, account.weight)
        expected.turns = self._turns
        expected.urgent = self._urgent.tag(account.urgent, expected.service_seconds, self._share(call))

    def revise(self, call: Call, now: float) -> None:
        """Another forecast is to be believed of a live call; its tags, by which tenants share, stay."""
        trail, expected, forecast = self._trail(call.program), call.expected, call.forecast
        if trail.newest in (None, call.key):
            told, before = forecast.remaining, call.inherited_seconds - call.served_seconds
            trail.forecast = None if told is None else (told, before)
        call.expected_output = self.output_tokens(call)
        expected.remaining, expected.past, expected.returns, expected.output = self._laws(call, now)
        expected.importance, expected.information = forecast.importance, self._information(call)
        self.expect(call, now)
        self._hurry(call, trail, now)

    def expect(self, call: Call, now: float) -> Expected:
        """What is believed of a call that is about to be queued, again or for the first time."""
        expected, speed = call.expected, self.engine_seconds.of(call.model)
        if (forecast := call.forecast.service) is not None:
            expected.service_seconds = forecast.truncated_mean(1e9)
        else:
            kinds: list[Key] = [(call.program.tenant, call.agent, int(expected.away_seconds < inf))]
            new_share = 0.0 if call.prefilled_at is not None else 1.0 - self._cached.of(kinds, 0.0)
            expected.service_seconds = speed.seconds(call.prompt_tokens * new_share, call.expected_output)
        expected.attained_seconds = 0.0 if call.forecast.remaining is not None else call.inherited_seconds
        return expected

    def placed(self, call: Call) -> None:
        """A call got an engine."""
        self._trail(call.program).running_since = call.placed_at
        self._num_placed += 1
        self._waits.add(call.placed_at - call.queued_at)
        self._fair.placed(call.expected.fair)
        self._urgent.placed(call.expected.urgent)

    def learn(self, call: Call, usage: TokenUsage, completed: bool, now: float) -> None:
        """A call ended, and its program was charged for it."""
        program = call.program
        trail = self._trail(program)
        before, trail.attained = trail.attained, program.attained_seconds
        self._services.passed(_keys(program.tenant, program.agent), before, trail.attained, happened=False)
        trail.last_end = now
        trail.add(Step(call.agent, call.arrived, call.served_seconds, call.inherited_seconds))
        trail.add_tokens(usage.prompt_tokens + 2.0 * usage.completion_tokens, self._num_placed * _DECAY)
        cost = usage.prompt_tokens * usage.completion_tokens + usage.completion_tokens**2 / 2
        trail.kv_cost += cost
        self._virtual.serve(cost)
        if not completed:
            return
        kind = (program.tenant, call.agent)
        self._outputs.learn(*kind, usage.completion_tokens)
        self._tokens.passed(_keys(*kind), 0.0, float(usage.completion_tokens), happened=True)
        if usage.prompt_tokens:
            again = int(call.expected.away_seconds < inf)
            self._cached.add((*kind, again), usage.cached_tokens / usage.prompt_tokens)

    def left(self, call: Call, now: float) -> None:
        """A call is gone, however."""
        self.forecasts.left(call)
        program, account = call.program, call.program.account
        account.num_live -= 1
        account.served_seconds += call.served_seconds
        fair = call.expected.fair
        self._fair.settle(account.fair, fair, call.served_seconds)
        self._turns.leave(account.turns, fair.cost, call.served_seconds, fair.weight, now)
        self._urgent.settle(account.urgent, call.expected.urgent, call.served_seconds)
        trail = self._trail(program)
        if trail.newest == call.key:
            trail.newest = None
        thread = trail.thread(call)
        thread.num_live -= 1
        thread.agent = call.agent
        if not thread.num_live:
            thread.idle_since = now
            self._returns.open(_keys(program.tenant, call.agent), _name(call), now)

    def ended(self, program: Program, now: float) -> None:
        """A program is over."""
        self.forecasts.ended(program.program_id)
        if (trail := self._trails.pop(program.program_id, None)) is None:
            return
        self._urgency -= trail.urgency
        program.account.urgency -= trail.urgency
        for name, thread in trail.threads.items():
            keys = _keys(program.tenant, thread.agent)
            self._returns.close(keys, f"{program.program_id}/{name}", now - thread.idle_since, happened=False)
        if not trail.steps:
            return
        kind = _kind(program)
        self._services.passed(_keys(program.tenant, program.agent), trail.attained, trail.attained, happened=True)
        self._past.add(kind, trail.attained)
        self._kv_costs.add(kind, trail.kv_cost)
        whole = trail.last_end - program.started
        span = max(trail.attained, whole - program.queue_seconds)
        self._spans.add(kind, span)
        self._paces.add(kind, program.num_finished, trail.attained, whole, span)
        for step in trail.steps:
            for key in (kind, (*kind, step.agent)):
                self._latencies.add(key, trail.last_end - step.submitted)
            self._coupling.add((*kind, step.agent), step.service_seconds, trail.attained - step.attained_seconds)

    def rest(self, program: Program, forecast: Law | None = None) -> Rest:
        """Of a program that lives or is about to begin. `forecast`: of a call of it that did not begin."""
        trail = self._trails.get(program.program_id)
        if forecast is None and not program.num_live:
            forecast = self.forecasts.remaining(program.program_id)
        told = (forecast, program.attained_seconds) if forecast is not None else trail and trail.forecast
        paces = self._paces.of(_kind(program))
        since = trail.running_since if trail is not None and program.num_running else inf
        if told is not None:
            remaining, before = told
            return Rest(remaining, remaining, program.attained_seconds - before, since, inf, *paces[1:])
        remaining = self._services.law(_keys(program.tenant, program.agent))
        past = self._past.law(_kind(program)) or remaining
        return Rest(remaining, past, program.attained_seconds, since, *paces)

    def _laws(self, call: Call, now: float) -> tuple[Law, Law, Law, Law]:
        """Of the program's service, the same as samples, of the return and of the output."""
        program, forecast = call.program, call.forecast
        kind = _keys(program.tenant, call.agent)
        remaining = forecast.remaining or self._services.law(_keys(program.tenant, program.agent))
        past = forecast.remaining or self._past.law(_kind(program)) or remaining
        return (
            remaining,
            past,
            forecast.returns or self._returns.law(kind, now),
            forecast.output or self._tokens.law(kind),
        )

    def _information(self, call: Call) -> float:
        return call.forecast.information or self._coupling.information((*_kind(call.program), call.agent))

    def _trail(self, program: Program) -> Trail:
        trail = self._trails.get(program.program_id)
        if trail is None:
            cost = self._kv_costs.of([_kind(program)], 0.0)
            finish = self._virtual.enter(cost, program.account.weight)
            trail = self._trails[program.program_id] = Trail(program.attained_seconds, finish)
        return trail

    def _hurry(self, call: Call, trail: Trail, now: float) -> None:
        """How urgent its program is now, beside all that live."""
        program, expected = call.program, call.expected
        remaining = mean(expected.remaining, expected.attained_seconds)
        expected.span_seconds = self._spans.of([_kind(program)], remaining + program.attained_seconds)
        due = min(program.deadline, program.started + _SPAN * expected.span_seconds)
        urgency = remaining / max(1.0, due - now)
        self._urgency += urgency - trail.urgency
        program.account.urgency += urgency - trail.urgency
        trail.urgency = urgency
        expected.urgency = urgency * len(self._trails) / self._urgency if self._urgency > 0 else 1.0

    def _share(self, call: Call) -> float:
        """Of the call's tenant in the urgency of all."""
        return max(1e-3, call.program.account.urgency / self._urgency) if self._urgency > 0 else 1.0


def _kind(program: Program) -> Key:
    return (program.tenant, program.agent)


def _keys(tenant: str, agent: str) -> list[Key]:
    return [(), (tenant, agent)]


def _name(call: Call) -> str:
    return f"{call.key[0]}/{call.thread}"
