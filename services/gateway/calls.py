"""From a request to its output: what both doors do with a request once they have understood it.

`open` counts it, prepares its prompts, submits its calls and hands out a Run, from which the output is taken. Leaving
the block aborts what still runs.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import ParamSpec, TypeVar

from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, StatusCode

from legato.v1 import scheduler_pb2, worker_pb2
from services.common import telemetry
from services.common.errors import Failure, Reason
from services.gateway import identity as identities
from services.gateway import log_entries, metrics
from services.gateway.call import Call, Prepared
from services.gateway.config import GatewaySection
from services.gateway.content import contents_of, of_length
from services.gateway.identity import Identity
from services.gateway.models import Models
from services.gateway.neighbours import Log, Scheduler, Workers
from services.gateway.render import Model, Prompt
from services.gateway.request import Chat, Contents, Request, Resume
from services.gateway.resuming import holds_state, repeats
from services.gateway.run import Run

P = ParamSpec("P")
T = TypeVar("T")

_RETRY_AFTER_SECONDS = 1.0


class Calls:
    """All calls of this gateway."""

    def __init__(
        self, section: GatewaySection, models: Models, scheduler: Scheduler, workers: Workers, log: Log
    ) -> None:
        self.section = section
        self.models = models
        self._scheduler = scheduler
        self._workers = workers
        self._log = log
        self._num_in_flight = 0
        self._programs: Counter[str] = Counter()
        """How many requests of each are in flight."""
        self.admit: Callable[[str], None] = lambda _: None
        """Raises Failure for a program that may not begin now."""

    async def offload(self, size_bytes: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do the work for a request of that size: here when it is small, else in a thread."""
        if size_bytes <= self.section.inline_bytes:
            return work(*args, **kwargs)
        return await asyncio.to_thread(work, *args, **kwargs)

    @asynccontextmanager
    async def open(
        self, identity: Identity, requests: Sequence[Request], *, size_bytes: int, parent: Context | None = None
    ) -> AsyncGenerator[Run]:
        """Run `requests`, one or more prompts for one model, as the calls of `identity`.

        `size_bytes`: how large what came was. `parent`: trace context of the caller; None: the current one. Raises
        Failure.
        """
        now = asyncio.get_running_loop().time
        began, at = now(), time.time()
        num_calls = sum(request.choices for request in requests)
        self.admit(identity.program_id)
        self._check(requests, num_calls)
        model = self.models.find(requests[0].model)
        with (
            self._counted(identity.program_id, num_calls),
            telemetry.call_context(identity.program_id, identity.call_id),
            _span(identity, model, requests[0], parent) as span,
        ):
            prepared = await self.offload(size_bytes, self._prepare, identity, model, requests, at)
            metrics.PREPARE.observe(now() - began)
            run = Run(model.name, began)
            try:
                for one in prepared:
                    self._submit(run, one, now)
                yield run
            finally:
                run.close()
                _describe_end(span, run)

    def programs(self) -> Collection[str]:
        """Those with a call in flight."""
        return self._programs.keys()

    def end_program(self, program_id: str) -> None:
        """It makes no more calls. Raises Failure when there is no scheduler to tell."""
        self._scheduler.end_program(program_id)
        self._log.put(log_entries.program_over(program_id))

    def _submit(self, run: Run, prepared: Prepared, now: Callable[[], float]) -> None:
        call = Call(
            prepared,
            self._scheduler,
            self._workers,
            self._log,
            max_restarts=self.section.max_restarts,
            began=run.began,
            now=now,
            wake=run.wake,
        )
        if self._scheduler.knows(call.key):
            message = f"the call {call.key[1]!r} of program {call.key[0]!r} is running already"
            raise Failure(Reason.CALL_EXISTS, message, "call_id")
        run.add(call, counts_prompt=prepared.counts_prompt)
        if prepared.resume is not None:
            metrics.RESUMED.inc()
        self._log.put(prepared.began)
        self._scheduler.submit(call)

    def _check(self, requests: Sequence[Request], num_calls: int) -> None:
        most = self.section.max_choices
        if (asked := requests[0].choices) > most:
            raise Failure(Reason.INVALID_ARGUMENT, f"n: at most {most}, got {asked}", "n")
        if self._num_in_flight + num_calls > self.section.max_calls_in_flight:
            message = f"this gateway already has {self._num_in_flight} calls in flight"
            raise Failure(Reason.TOO_MANY_CALLS, message, retry_after_seconds=_RETRY_AFTER_SECONDS)

    @contextmanager
    def _counted(self, program_id: str, num_calls: int) -> Generator[None]:
        self._num_in_flight += num_calls
        self._programs[program_id] += 1
        metrics.CALLS_IN_FLIGHT.inc(num_calls)
        try:
            yield
        finally:
            self._num_in_flight -= num_calls
            metrics.CALLS_IN_FLIGHT.dec(num_calls)
            self._programs[program_id] -= 1
            if not self._programs[program_id]:
                del self._programs[program_id]

    def _prepare(self, identity: Identity, model: Model, requests: Sequence[Request], at: float) -> list[Prepared]:
        """May run in a thread. `at`: when they came, in Unix time."""
        salt = identities.cache_salt(identity.tenant, self.section.salt_secret)
        result: list[Prepared] = []
        for request in requests:
            prompt = model.prompt(request, salt)
            contents = self._contents(request, len(prompt.token_ids))
            for number in range(request.choices):
                who = identity.choice(len(result))
                start, submit = self._messages(who, model.name, request, prompt, number)
                began = log_entries.began(at, start.identity, who.source, submit, contents)
                if request.resume is not None:
                    _resume(submit, request.resume)
                result.append(
                    Prepared(
                        start,
                        submit,
                        began,
                        request.incremental,
                        counts_prompt=number == 0,
                        content_key=self.section.content_key,
                        resume=request.resume,
                        drawn_seed=_drawn_seed(start, request),
                    )
                )
        return result

    def _contents(self, request: Request, prompt_tokens: int) -> Contents:
        if request.contents is not None:
            return of_length(request.contents, prompt_tokens)
        return contents_of(request.source, prompt_tokens, self.section.content_key)

    def _messages(
        self, identity: Identity, model: str, request: Request, prompt: Prompt, number: int
    ) -> tuple[worker_pb2.StartCall, scheduler_pb2.SubmitCall]:
        """What the worker and the scheduler are told of the `number`-th answer to a request."""
        who = identity.message()
        section = self.section
        start = worker_pb2.StartCall(
            identity=who,
            prompt_token_ids=prompt.token_ids,
            sampling=request.sampling,
            constraint=request.constraint,
            tools=request.tools,
            tool_choice=request.tool_choice,
            parallel_tool_calls=request.parallel_tool_calls,
            parse_reasoning=request.parse_reasoning,
            cache_salt=prompt.salt,
            stream_interval=section.stream_interval if request.incremental else section.unread_interval,
            traceparent=telemetry.current_traceparent(),
        )
        start.sampling.max_tokens = prompt.max_tokens
        if number and request.sampling.HasField("seed"):
            start.sampling.seed = (request.sampling.seed + number + 2**63) % 2**64 - 2**63  # answers must differ
        _pin_seed(start, request)
        submit = scheduler_pb2.SubmitCall(
            identity=who,
            model=model,
            prompt_tokens=len(prompt.token_ids),
            max_tokens=prompt.max_tokens,
            block_hashes=prompt.block_hashes,
            priority=request.urgency.priority or 0,
            service_class=request.urgency.service_class,
            deadline_seconds=request.urgency.deadline_seconds,
            expected_output_tokens=request.urgency.expected_output_tokens,
            queue_timeout_seconds=self.section.queue_timeout_seconds,
        )
        return start, submit


def _pin_seed(start: worker_pb2.StartCall, request: Request) -> None:
    """Give a call a seed whose output could not be repeated without: another worker, or gateway, must be able to repeat
    what was seen. Raises Failure for one that was begun without."""
    resume = request.resume
    if resume is not None and resume.seed is not None and not start.sampling.HasField("seed"):
        start.sampling.seed = resume.seed
    if not holds_state(start) or repeats(start.sampling):
        return
    if resume is not None and resume.token_ids:
        message = "resume.seed: this output cannot go on without the seed that it was begun with"
        raise Failure(Reason.INVALID_ARGUMENT, message, "resume.seed")
    if request.incremental:
        start.sampling.seed = random.getrandbits(63)


def _drawn_seed(start: worker_pb2.StartCall, request: Request) -> int | None:
    """The seed that no caller named."""
    drawn = start.sampling.HasField("seed") and not request.sampling.HasField("seed")
    return start.sampling.seed if drawn else None


def _resume(submit: scheduler_pb2.SubmitCall, resume: Resume) -> None:
    """Of the output that is there already the scheduler thinks as of a prompt, as it does when a worker was lost."""
    submit.prompt_tokens += len(resume.token_ids)
    submit.max_tokens = max(1, submit.max_tokens - len(resume.token_ids))


@contextmanager
def _span(identity: Identity, model: Model, request: Request, parent: Context | None) -> Generator[Span]:
    operation = "chat" if isinstance(request.source, Chat) else "text_completion"
    attributes = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": "legato",
        "gen_ai.request.model": model.name,
        "gen_ai.conversation.id": identity.program_id,
        "gen_ai.agent.name": identity.agent,
        "legato.call_id": identity.call_id,
        "legato.step": identity.step,
        "legato.thread": identity.thread,
    }
    present = {key: value for key, value in attributes.items() if value}
    with telemetry.tracer().start_as_current_span(
        f"{operation} {model.name}",
        parent,
        SpanKind.SERVER,
        present,
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            yield span
        except Failure as failure:
            span.set_attribute("error.type", failure.reason.name.lower())
            if failure.reason.http_status >= 500:
                span.set_status(StatusCode.ERROR, failure.reason.name)
            raise


def _describe_end(span: Span, run: Run) -> None:
    usage = run.usage()
    span.set_attribute("gen_ai.usage.input_tokens", usage.prompt_tokens)
    span.set_attribute("gen_ai.usage.output_tokens", usage.completion_tokens)
    span.set_attribute("gen_ai.usage.cache_read.input_tokens", usage.cached_tokens)
    if endings := run.endings:
        span.set_attribute("legato.worker_id", endings[-1].worker_id)
        span.set_attribute("legato.queue_seconds", endings[-1].timings.queue_seconds)
        span.set_attribute("legato.restarts", endings[-1].timings.restarts)
