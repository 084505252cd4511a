"""Refusal: which calls are refused at the door, and with what words."""

from services.common.errors import Reason
from services.scheduler.events import CallSubmitted
from services.scheduler.fleet import Fleet
from services.scheduler.limits import Limits
from services.scheduler.programs import Programs
from services.scheduler.queue import CallQueue


def refusal(
    event: CallSubmitted, fleet: Fleet, queue: CallQueue, programs: Programs, limits: Limits
) -> tuple[Reason, str] | None:
    """Why a new call cannot wait here; None when it can."""
    if fleet.unknown(event.model):
        return Reason.MODEL_NOT_FOUND, f"no worker serves the model {event.model!r}"
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
    return None
