"""A client that runs one program as bench/drive.py does live.

A call is issued when its parents have ended, the tools that they asked for have run, and its wait is over; where only
arrivals were recorded, not before its parents' issue and the recorded gap. A call that fails ends its program: later
calls are not issued, others finish.
"""

from collections.abc import Callable, Sequence

from services.common.clock import Clock
from services.common.forecast import NO_FORECAST, Forecast
from sim.chains import NOTHING, Chain, Chains
from sim.gateway import Gateway, Request
from sim.history import Prompts
from sim.outcome import CallResult, ProgramResult
from sim.trace import Call, Program

_SAME_SHARE = 0.75
"""An output of which less comes back in later prompts came back without its reasoning: other tokens, other blocks."""

Ended = Callable[[ProgramResult, Sequence[CallResult]], None]


class Client:
    """One run of a program, from now on."""

    def __init__(
        self,
        program: Program,
        forecasts: Sequence[Forecast],
        block_tokens: int,
        gateway: Gateway,
        clock: Clock,
        ended: Ended,
    ) -> None:
        self._program = program
        self._forecasts = forecasts
        self._gateway = gateway
        self._clock = clock
        self._ended = ended
        self._arrived_at = clock.now()
        self._chains = Chains(program.segments, block_tokens)
        self._prompts = Prompts(program) if gateway.logs else None
        self._texts: dict[str, Chain] = {}
        """What each thread's agents sent and got last."""
        self._children: list[list[Call]] = [[] for _ in program.calls]
        self._num_awaited = [len(call.parents) for call in program.calls]
        self._ready_at = [0.0] * len(program.calls)
        self._num_open = 0
        self._results: list[CallResult] = []
        for call in program.calls:
            for parent in call.parents:
                self._children[parent].append(call)

    def start(self) -> None:
        """The program arrives."""
        for call in self._program.calls:
            if not call.parents:
                self._schedule(call, self._arrived_at)
        self._settle()

    def _schedule(self, call: Call, parents_ended_at: float) -> None:
        self._num_open += 1
        due = max(self._ready_at[call.id], parents_ended_at + (call.wait_s or 0.0))
        self._clock.call_at(due, lambda: self._issue(call))

    def _issue(self, call: Call) -> None:
        program = self._program
        thread = f"{call.thread}/{call.agent}"
        prompt = self._chains.chain(call.prompt, self._texts.get(thread, NOTHING))
        whole = prompt
        if call.output:
            back = sum(program.segments[index].tokens for index in call.output)
            if back >= _SAME_SHARE * call.output_tokens:
                whole = self._chains.chain((*call.prompt, *call.output), prompt)
        self._texts[thread] = whole
        for child in self._children[call.id]:
            if child.gap_s is not None:
                self._ready_at[child.id] = max(self._ready_at[child.id], self._clock.now() + child.gap_s)
        prompts = self._prompts
        logged = (
            (None, 0, ()) if prompts is None else (prompts.began(call, threads=True), prompts.output(call), call.tools)
        )
        request = Request(
            program.program_id,
            call.id,
            call.agent,
            thread,
            program.tenant or "",
            max(1, prompt.tokens),
            max(1, call.output_tokens),  # some sources tell of none
            whole.blocks,
            len(prompt.blocks),
            *logged,
            self._forecasts[call.id] if self._forecasts else NO_FORECAST,
        )
        self._gateway.submit(request, lambda result: self._on_end(call, result))

    def _on_end(self, call: Call, result: CallResult) -> None:
        now = self._clock.now()
        self._results.append(result)
        self._num_open -= 1
        tools_end = now
        for child in self._children[call.id] if not result.error else ():
            self._num_awaited[child.id] -= 1
            if not self._num_awaited[child.id]:
                parents = [self._program.calls[parent] for parent in child.parents]
                tools_end = now + max((max(parent.tool_s, default=0.0) for parent in parents), default=0.0)
                self._ready_at[child.id] = max(self._ready_at[child.id], tools_end)
                self._schedule(child, now)
        self._settle()

    def _settle(self) -> None:
        """End when nothing runs and nothing will."""
        if self._num_open:
            return
        program, now = self._program, self._clock.now()
        self._gateway.end_program(program.program_id)
        completed = len(self._results) == len(program.calls) and not any(result.error for result in self._results)
        facts = (program.program_id, program.tenant or "", program.workload, self._arrived_at, now, len(program.calls))
        self._ended(ProgramResult(*facts, completed), self._results)
