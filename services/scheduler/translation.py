"""Protobuf to events at the door, actions and records to protobuf on the way out."""

from array import array
from math import inf, isfinite

from google.protobuf.timestamp_pb2 import Timestamp

from legato.v1 import call_pb2, scheduler_pb2, worker_pb2, workflow_pb2
from services.common.cache_note import CacheNote
from services.common.errors import Reason
from services.common.forecast import NO_FORECAST, Forecast
from services.common.laws import Point
from services.scheduler.eta import Eta
from services.scheduler.events import (
    CacheReported,
    CallFinished,
    CallHandedOff,
    CallLost,
    CallStarted,
    CallSubmitted,
    Event,
    LoadReported,
    Place,
    ProgramEnded,
    Reject,
    TokenUsage,
    WorkerJoined,
)
from services.scheduler.kv_translation import plan_of, role_of
from services.scheduler.pool_events import NO_PLAN
from services.scheduler.records import Program
from services.scheduler.service_class import ServiceClass

_COMPLETED = (
    call_pb2.FINISH_REASON_STOP,
    call_pb2.FINISH_REASON_LENGTH,
    call_pb2.FINISH_REASON_TOOL_CALLS,
)
_ON_WIRE = {
    ServiceClass.INTERACTIVE: call_pb2.SERVICE_CLASS_INTERACTIVE,
    ServiceClass.DEFAULT: call_pb2.SERVICE_CLASS_DEFAULT,
    ServiceClass.BATCH: call_pb2.SERVICE_CLASS_BATCH,
}
_CLASSES = {on_wire: service_class for service_class, on_wire in _ON_WIRE.items()}
_UINT32_MAX = 2**32 - 1
_INT32_MAX = 2**31 - 1


def event_of(message: scheduler_pb2.GatewayEvent, link: int) -> Event | Reject | None:
    """What a gateway says; None for what this version does not know. Reject: the call cannot be taken as it is."""
    if message.HasField("submit"):
        return _submitted(message.submit, link)
    if message.HasField("first_token"):
        first = message.first_token
        return CallStarted(link, first.program_id, first.call_id, first.attempt)
    if message.HasField("finish"):
        return _finished(message.finish, link)
    if message.HasField("lose"):
        lose = message.lose
        return CallLost(link, lose.program_id, lose.call_id, lose.attempt, lose.generated_tokens)
    if message.HasField("end_program"):
        return ProgramEnded(message.end_program.program_id)
    if message.HasField("hand_off"):
        done = message.hand_off
        return CallHandedOff(link, done.program_id, done.call_id, done.attempt, done.generated_tokens)
    return None


def _submitted(submit: scheduler_pb2.SubmitCall, link: int) -> CallSubmitted | Reject:
    identity = submit.identity
    present = {
        "program_id": identity.program_id,
        "call_id": identity.call_id,
        "model": submit.model,
        "prompt_tokens": submit.prompt_tokens,
    }
    for name, value in present.items():
        if not value:
            return Reject(link, identity.program_id, identity.call_id, Reason.INVALID_ARGUMENT, f"{name}: missing")
    return CallSubmitted(
        link=link,
        program_id=identity.program_id,
        call_id=identity.call_id,
        model=submit.model,
        prompt_tokens=submit.prompt_tokens,
        max_tokens=submit.max_tokens,
        tenant=identity.tenant,
        agent=identity.agent,
        # 8 bytes each instead of 40, and nothing for the garbage collector to walk: there are thousands a call.
        block_hashes=array("Q", submit.block_hashes),
        priority=submit.priority,
        queue_timeout_seconds=_seconds(submit.queue_timeout_seconds),
        attempt=submit.attempt,
        worker_id=submit.worker_id,
        thread=identity.thread,
        service_class=_CLASSES.get(submit.service_class, ServiceClass.DEFAULT),
        deadline_seconds=_seconds(submit.deadline_seconds),
        forecast=Forecast(output=Point(float(expected)))
        if (expected := submit.expected_output_tokens)
        else NO_FORECAST,
    )


def _finished(finish: scheduler_pb2.FinishCall, link: int) -> CallFinished:
    usage = finish.usage
    return CallFinished(
        link,
        finish.program_id,
        finish.call_id,
        completed=finish.reason in _COMPLETED,
        usage=TokenUsage(usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens, usage.reasoning_tokens),
        service_seconds=_seconds(finish.timings.prefill_seconds) + _seconds(finish.timings.decode_seconds),
        attempt=finish.attempt,
    )


def decision_of(action: Place | Reject, eta: Eta | None = None, term: int = 0) -> scheduler_pb2.SchedulerEvent:
    """What a gateway is told. `eta`: of the call's program."""
    if isinstance(action, Place):
        placement = scheduler_pb2.Placement(
            program_id=action.program_id,
            call_id=action.call_id,
            attempt=action.attempt,
            worker_id=action.worker_id,
            worker_address=action.worker_address,
            priority=max(-_INT32_MAX, min(_INT32_MAX, action.priority)),
            expected_cached_tokens=action.expected_cached_tokens,
            kv=plan_of(action.kv) if action.kv != NO_PLAN else None,
            eta=_eta_of(eta),
            cache=_note_of(action.cache),
            term=term,
            prefill_token_seconds=action.prefill_token_seconds,
            step_seconds=action.step_seconds,
        )
        return scheduler_pb2.SchedulerEvent(placement=placement)
    rejection = scheduler_pb2.Rejection(
        program_id=action.program_id,
        call_id=action.call_id,
        reason=action.reason.name,
        message=action.message,
        retry_after_seconds=action.retry_after_seconds,
    )
    return scheduler_pb2.SchedulerEvent(rejection=rejection)


def joined(response: worker_pb2.WatchResponse, address: str) -> WorkerJoined:
    """A worker introduces itself. One that says no sizes gets one call at a time."""
    description = response.description
    return WorkerJoined(
        worker_id=description.worker_id,
        address=address,
        model=description.model,
        max_model_len=description.max_model_len or _UINT32_MAX,
        max_num_seqs=max(1, description.max_num_seqs),
        block_size=max(1, description.block_size),
        num_blocks=max(1, description.num_blocks),
        load=load_of(description.worker_id, response.load),
        cached_blocks=response.cache.stored,
        role=role_of(description.role),
        pool_id=description.pool_id,
        kv_namespace_id=description.kv_namespace_id,
        kv_block_bytes=description.kv_block_bytes,
    )


def load_of(worker_id: str, load: worker_pb2.Load) -> LoadReported:
    """A worker's counters."""
    return LoadReported(
        worker_id,
        num_running=load.num_running,
        num_waiting=load.num_waiting,
        step_seconds=_seconds(load.step_seconds),
        prefill_tokens_per_second=_seconds(load.prefill_tokens_per_second),
        draining=load.draining,
    )


def cache_of(worker_id: str, cache: worker_pb2.CacheUpdate) -> CacheReported:
    """Changes of a worker's prefix cache."""
    return CacheReported(worker_id, cache.stored, cache.removed, cache.reset)


def status_of(program: Program, epoch: float, eta: Eta | None = None) -> scheduler_pb2.ProgramStatus:
    """A program as it is listed. `epoch`: Unix time at the origin of the core's clock."""
    usage = program.usage
    status = scheduler_pb2.ProgramStatus(
        program_id=program.program_id,
        tenant=program.tenant,
        started=_timestamp(program.started + epoch),
        num_queued=program.num_queued,
        num_running=program.num_running,
        num_finished=program.num_finished,
        num_restarted=program.num_restarted,
        service_seconds=program.executed_seconds,
        queue_seconds=program.queue_seconds,
        usage=call_pb2.Usage(
            prompt_tokens=min(usage.prompt_tokens, _UINT32_MAX),
            completion_tokens=min(usage.completion_tokens, _UINT32_MAX),
            cached_tokens=min(usage.cached_tokens, _UINT32_MAX),
            reasoning_tokens=min(usage.reasoning_tokens, _UINT32_MAX),
        ),
        service_class=_ON_WIRE[program.service_class],
        num_paused=program.num_paused,
        eta=_eta_of(eta),
    )
    if program.deadline < inf:
        status.deadline.CopyFrom(_timestamp(program.deadline + epoch))
    if program.ended is not None:
        status.ended.CopyFrom(_timestamp(program.ended + epoch))
    return status


def _eta_of(eta: Eta | None) -> call_pb2.Eta | None:
    if eta is None:
        return None
    expected, low, high = eta
    return call_pb2.Eta(expected_seconds=expected, low_seconds=low, high_seconds=high)


def _note_of(note: CacheNote) -> workflow_pb2.CacheNote:
    return workflow_pb2.CacheNote(
        expected_tokens=note.expected_tokens,
        lost_tokens=note.lost_tokens,
        cause=note.cause,
        worker_id=note.worker_id,
        by_program=note.by_program,
        paused_seconds=note.paused_seconds,
    )


def _timestamp(unix_seconds: float) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromNanoseconds(round(unix_seconds * 1e9))
    return timestamp


def _seconds(value: float) -> float:
    """A double of the wire as a finite number that is not negative."""
    return value if isfinite(value) and value > 0 else 0.0
