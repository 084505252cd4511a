"""The gateway: a call's life between its client, the scheduler and a worker, as in services/gateway/call.py."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from services.common.errors import Reason
from services.common.forecast import NO_FORECAST, Forecast
from services.kvpool.events import User
from services.scheduler import events
from services.scheduler.events import CallKey, Place, Reject, TokenUsage
from services.scheduler.service_class import ServiceClass
from services.worker.simulated.events import End, Progress, Receipt
from services.workflow.events import CallBegan, CallEnded, Event, ProgramOver
from sim.average import Average
from sim.outcome import CallResult
from sim.wire import Wire
from sim.worker import MODEL, Start, Worker

LINK = 1


@dataclass(frozen=True, slots=True)
class Request:
    """A call that a client makes."""

    program_id: str
    call_id: int
    agent: str
    thread: str
    tenant: str
    prompt_tokens: int
    output_tokens: int
    hashes: Sequence[int]
    """Of the whole blocks of prompt and output, as far as the output comes back in later prompts."""
    num_prompt_blocks: int
    """How many of them are the prompt's."""
    began: CallBegan | None = None
    """As it is logged; None: there is no log."""
    output: int = 0
    """Hash of what it generates, and the tools that it asks for then, for the log."""
    tools: tuple[str, ...] = ()
    forecast: Forecast = NO_FORECAST
    service_class: ServiceClass = ServiceClass.DEFAULT
    deadline_seconds: float = 0.0


Ended = Callable[[CallResult], None]


@dataclass(slots=True, eq=False)
class Live:
    """A call that has not ended."""

    request: Request
    ended: Ended
    submitted_at: float
    key: CallKey
    attempt: int = 0
    num_attempts: int = 0
    """Of all schedulers."""
    placed_at: float | None = None
    """For the last attempt."""
    first_token_at: float | None = None
    running: "Attempt | None" = None
    """None: it waits for a place."""
    worker_id: str = ""
    generated: int = 0
    """By attempts that were lost."""
    lost_seconds: float = 0.0
    prefill_token_seconds: float = 0.0
    """Of engine seconds, as the scheduler says."""
    step_seconds: float = 0.0


@dataclass(slots=True, eq=False)
class Attempt:
    """A call on a worker: what the worker tells of it."""

    gateway: "Gateway"
    live: Live
    begun: bool = False

    def on_progress(self, progress: Progress) -> None:
        """The worker's next output."""
        if self.live.running is self:
            self.gateway.on_progress(self, progress)

    def on_lost(self, num_tokens: int) -> None:
        """The worker is gone, after so many tokens."""
        if self.live.running is self:
            self.gateway.on_lost(self, num_tokens)


class Gateway:
    """All of the gateways. `tell`: the way to the scheduler, where there is one; `log`: into the call log, likewise."""

    def __init__(
        self,
        wire: Wire,
        workers: Mapping[str, Worker],
        tell: Callable[[events.Event], None],
        log: Callable[[Event], None] | None = None,
    ) -> None:
        self._wire = wire
        self._clock = wire.clock
        self._workers = workers
        self._tell = tell
        self._log = log
        self.live: dict[CallKey, Live] = {}
        self.waiting = Average(self._clock.now())

    def submit(self, request: Request, ended: Ended) -> None:
        """A client's call; `ended` hears of its end."""
        now = self._clock.now()
        live = Live(request, ended, now, (request.program_id, str(request.call_id)))
        self.live[live.key] = live
        self.waiting.add(1, now)
        self._tell(_announcement(live))
        if self._log is not None and request.began is not None:
            self._log(request.began)

    def end_program(self, program_id: str) -> None:
        """A program makes no more calls."""
        self._tell(events.ProgramEnded(program_id))
        if self._log is not None:
            self._log(ProgramOver(program_id))

    @property
    def logs(self) -> bool:
        """There is a call log."""
        return self._log is not None

    def announce(self) -> None:
        """Tell a new scheduler of everything that is alive."""
        for live in self.live.values():
            if live.running is None:
                live.attempt, live.worker_id = 0, ""  # the one who counted has forgotten it
            self._tell(_announcement(live))

    def on_place(self, place: Place) -> None:
        """The scheduler found a place."""
        live = self.live.get((place.program_id, place.call_id))
        if live is None or place.attempt <= live.attempt:
            return
        now = self._clock.now()
        if live.running is not None:  # the scheduler saw the loss of its worker first
            self._lose(live, 0)
        live.attempt, live.worker_id, live.placed_at = place.attempt, place.worker_id, now
        live.prefill_token_seconds, live.step_seconds = place.prefill_token_seconds, place.step_seconds
        live.num_attempts += 1
        self.waiting.add(-1, now)
        attempt = live.running = Attempt(self, live)
        request = live.request
        left = request.output_tokens - live.generated
        prompt_tokens = request.prompt_tokens + live.generated
        user = User(request.program_id, request.tenant, request.agent, request.thread)
        blocks = (request.hashes, request.num_prompt_blocks)
        start = Start(prompt_tokens, left, *blocks, place.priority, user, place.kv, attempt)
        worker = self._workers.get(place.worker_id)
        if worker is None:
            self._wire.send(attempt.on_lost, 0)
        else:
            self._wire.send(worker.start, start)

    def on_reject(self, reject: Reject) -> None:
        """The scheduler will find no place."""
        live = self.live.pop((reject.program_id, reject.call_id), None)
        if live is None:
            return
        if live.running is None:
            self.waiting.add(-1, self._clock.now())
        self._log_end(live, TokenUsage(), False)
        live.ended(self._result(live, None, reject.reason.name))

    def on_progress(self, attempt: Attempt, progress: Progress) -> None:
        """A worker gave output."""
        live = attempt.live
        if not attempt.begun and progress.num_tokens:
            attempt.begun = True
            if live.first_token_at is None:
                live.first_token_at = self._clock.now()
            self._tell(events.CallStarted(LINK, *live.key, attempt=live.attempt))
        if progress.receipt is not None:
            live.generated += progress.num_tokens
            self._finish(live, progress.receipt)

    def on_lost(self, attempt: Attempt, num_tokens: int) -> None:
        """The call's worker is gone: it waits for another."""
        live = attempt.live
        self._lose(live, num_tokens)
        self._tell(events.CallLost(LINK, *live.key, live.attempt, live.generated))

    def _lose(self, live: Live, num_tokens: int) -> None:
        now = self._clock.now()
        live.running = None
        live.generated += num_tokens
        live.lost_seconds += now - (live.placed_at or now)
        self.waiting.add(1, now)

    def _finish(self, live: Live, receipt: Receipt) -> None:
        request = live.request
        del self.live[live.key]
        live.running = None
        completed = receipt.end is End.DONE
        seconds = receipt.prefill_seconds + receipt.decode_seconds + live.lost_seconds if completed else 0.0
        usage = TokenUsage(request.prompt_tokens, live.generated, min(receipt.cached_tokens, request.prompt_tokens))
        self._tell(events.CallFinished(LINK, *live.key, completed, usage, seconds, live.attempt))
        self._log_end(live, usage, completed)
        live.ended(self._result(live, receipt, "" if completed else Reason.CONTEXT_LENGTH_EXCEEDED.name))

    def _log_end(self, live: Live, usage: TokenUsage, completed: bool) -> None:
        if self._log is None:
            return
        prefilled, generated = usage.prompt_tokens - usage.cached_tokens, usage.completion_tokens
        seconds = prefilled * live.prefill_token_seconds + generated * live.step_seconds
        tokens = (usage.prompt_tokens, usage.cached_tokens, generated)
        request = live.request
        self._log(CallEnded(*live.key, completed, *tokens, seconds, request.output, request.tools))

    def _result(self, live: Live, receipt: Receipt | None, error: str) -> CallResult:
        request, now = live.request, self._clock.now()
        cached = min(receipt.cached_tokens, request.prompt_tokens) if receipt else 0
        return CallResult(
            request.program_id,
            request.call_id,
            request.agent,
            live.submitted_at,
            now if live.placed_at is None else live.placed_at,
            now if live.first_token_at is None else live.first_token_at,
            now,
            request.prompt_tokens,
            cached,
            live.generated,
            live.worker_id,
            live.num_attempts,
            receipt.num_preemptions if receipt else 0,
            error,
            receipt.prefill_seconds if receipt else 0.0,
            receipt.decode_seconds if receipt else 0.0,
        )


def _announcement(live: Live) -> events.CallSubmitted:
    """How a scheduler that does not know the call hears of it."""
    request = live.request
    return events.CallSubmitted(
        LINK,
        *live.key,
        MODEL,
        request.prompt_tokens,
        0,
        tenant=request.tenant,
        agent=request.agent,
        block_hashes=request.hashes[: request.num_prompt_blocks],
        attempt=live.attempt,
        worker_id=live.worker_id,
        thread=request.thread,
        service_class=request.service_class,
        deadline_seconds=request.deadline_seconds,
        forecast=request.forecast,
    )
