"""Refusal: which calls are refused at the door, and with what words."""

from math import inf

from services.common.errors import Reason
from services.scheduler.events import CallSubmitted
from services.scheduler.fleet import Fleet
from services.scheduler.knowledge import Knowledge
from services.scheduler.limits import Limits
from services.scheduler.programs import Programs
from services.scheduler.queue import CallQueue
from services.scheduler.records import Program
from services.scheduler.waiting import WaitingRoom

_WORKER_RETURNS_SECONDS = 5.0
"""About the time in which a worker is back."""


def retry_seconds(reason: Reason, waiting: WaitingRoom, now: float) -> float:
    """When a call refused for that reason may try again; 0: that is useless."""
    match reason:
        case Reason.NO_WORKER:
            return _WORKER_RETURNS_SECONDS
        case Reason.QUEUE_FULL | Reason.QUEUE_TIMEOUT:
            return waiting.retry_after_seconds(now)
        case _:
            return 0.0


def unserved(model: str, fleet: Fleet) -> tuple[Reason, str]:
    """Why a call of a model without workers is given up."""
    if fleet.unknown(model):
        return Reason.MODEL_NOT_FOUND, f"no worker serves the model {model!r}"
    return Reason.NO_WORKER, f"no worker serves the model {model!r} now"


def refusal(
    event: CallSubmitted,
    fleet: Fleet,
    queue: CallQueue,
    programs: Programs,
    knowledge: Knowledge,
    limits: Limits,
    now: float,
) -> tuple[Reason, str] | None:
    """Why a new call cannot wait here; None when it can."""
    if fleet.unknown(event.model):
        return unserved(event.model, fleet)
    longest = fleet.longest_prompt(event.model)
    if longest is not None and event.prompt_tokens > longest:
        return Reason.CONTEXT_LENGTH_EXCEEDED, f"the prompt has {event.prompt_tokens} tokens, the limit is {longest}"
    if len(queue) >= limits.max_queued_calls:
        return Reason.QUEUE_FULL, f"{len(queue)} calls are waiting already"
    program = programs.get(event.program_id)
    if program is not None and 0 < limits.max_queued_per_program <= program.num_queued:
        return Reason.QUEUE_FULL, f"{program.num_queued} calls of the program are waiting already"
    of_tenant = queue.of_tenant(event.tenant)
    if 0 < limits.max_queued_per_tenant <= of_tenant:
        return Reason.QUEUE_FULL, f"{of_tenant} calls of the tenant are waiting already"
    if limits.reject_unreachable_deadlines and not event.attempt:
        return _unreachable(event, program, knowledge, now)
    return None


def _unreachable(
    event: CallSubmitted, program: Program | None, knowledge: Knowledge, now: float
) -> tuple[Reason, str] | None:
    """The program cannot be complete by its deadline even if all goes well. One that has begun gets as long again as it
    was given, for what it did would be lost."""
    deadline = now + event.deadline_seconds if event.deadline_seconds > 0 else inf
    started, subject = now, program
    if subject is None:
        subject = Program(event.program_id, event.tenant, started=now, last_active=now, agent=event.agent)
    else:
        deadline = min(deadline, subject.deadline)
        started = subject.started
    if deadline == inf:
        return None
    _, low, _ = knowledge.rest(subject, event.forecast.remaining).eta(now, 0.0)
    spared = 0.0 if program is None else max(0.0, deadline - started)
    if now + low <= deadline + spared:
        return None
    left = deadline - now
    due = f"is due in {left:.1f} s" if left > 0 else f"was due {-left:.1f} s ago"
    return Reason.DEADLINE_UNREACHABLE, f"the program {due} and ends in {low:.1f} s at the earliest"
