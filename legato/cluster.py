"""What the cluster says about itself."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from google.protobuf.timestamp_pb2 import Timestamp

from legato.errors import InvalidRequest
from legato.options import SERVICE_CLASSES, ServiceClass
from legato.reply import Eta, Usage, eta_of, usage_of
from legato.v1 import call_pb2, gateway_pb2, kv_pb2, scheduler_pb2

WorkerRole = Literal["both", "prefill", "decode"]
"""Which half of a call a worker is for; "decode" also runs whole calls where that is predicted to be faster."""

ROLES: dict[WorkerRole, "kv_pb2.WorkerRole.ValueType"] = {
    "both": kv_pb2.WORKER_ROLE_BOTH,
    "prefill": kv_pb2.WORKER_ROLE_PREFILL,
    "decode": kv_pb2.WORKER_ROLE_DECODE,
}


@dataclass(frozen=True, slots=True)
class Model:
    """A served model."""

    name: str
    max_model_len: int
    """Longest prompt plus output, in tokens."""
    num_workers: int
    """How many serve it now."""


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker, as the scheduler sees it."""

    worker_id: str
    model: str
    engine: str
    """"vllm" or "simulated"."""
    engine_version: str
    role: WorkerRole
    address: str
    pool_id: str
    """The KV pool of its host; empty: it keeps KV in its own cache only."""
    max_model_len: int
    max_num_seqs: int
    """Most sequences in one engine step."""
    num_running: int
    """Sequences in the engine's batch."""
    num_waiting: int
    """Sequences in the engine's own queue."""
    num_placed: int
    """Calls that the scheduler has placed there."""
    kv_usage: float
    """Share of KV blocks in use, 0 to 1."""
    num_cached_blocks: int
    """Blocks in its prefix cache."""
    num_preemptions: int
    prompt_tokens: int
    """Since its start, as are the next two."""
    cached_tokens: int
    generated_tokens: int
    draining: bool
    """It takes no new calls."""


@dataclass(frozen=True, slots=True)
class ProgramStatus:
    """A program, as the scheduler sees it."""

    program_id: str
    tenant: str
    started: datetime | None
    ended: datetime | None
    num_queued: int
    """Calls waiting in the scheduler."""
    num_running: int
    """Calls on workers."""
    num_finished: int
    num_restarted: int
    """Calls that were started again after a worker was lost."""
    service_seconds: float
    """Engine time that its finished calls took."""
    queue_seconds: float
    """Time that its calls waited in the scheduler."""
    usage: Usage
    service_class: ServiceClass
    deadline: datetime | None
    """When it is wanted complete, if that was said."""
    num_paused: int
    """Of the queued calls, those that wait until some worker has room for what the program holds in KV."""
    eta: Eta | None
    """When it is expected to be complete; of a live program, if anything is known of it."""

    @property
    def paused(self) -> bool:
        """Its calls wait until there is room for it."""
        return self.num_paused > 0


def model_of(model: gateway_pb2.Model) -> Model:
    """The wire's model as a value."""
    return Model(model.name, model.max_model_len, model.num_workers)


def worker_of(worker: scheduler_pb2.WorkerStatus) -> Worker:
    """The wire's worker as a value."""
    description, load = worker.description, worker.load
    return Worker(
        worker_id=description.worker_id,
        model=description.model,
        engine=description.engine,
        engine_version=description.engine_version,
        role=_role_of(description.role),
        address=worker.address,
        pool_id=description.pool_id,
        max_model_len=description.max_model_len,
        max_num_seqs=description.max_num_seqs,
        num_running=load.num_running,
        num_waiting=load.num_waiting,
        num_placed=worker.num_placed,
        kv_usage=load.kv_usage,
        num_cached_blocks=worker.num_cached_blocks,
        num_preemptions=load.num_preemptions,
        prompt_tokens=load.prompt_tokens,
        cached_tokens=load.cached_tokens,
        generated_tokens=load.generated_tokens,
        draining=load.draining,
    )


def _role_of(role: "kv_pb2.WorkerRole.ValueType") -> WorkerRole:
    for name, value in ROLES.items():
        if value == role:
            return name
    return "both"


def role_request(worker_id: str, role: WorkerRole) -> scheduler_pb2.SetWorkerRoleRequest:
    """The wire's wish to change a worker's role. Raises InvalidRequest."""
    if role not in ROLES:
        raise InvalidRequest(f"role must be one of {', '.join(ROLES)}, not {role!r}", field="role")
    return scheduler_pb2.SetWorkerRoleRequest(worker_id=worker_id, role=ROLES[role])


def program_of(program: scheduler_pb2.ProgramStatus) -> ProgramStatus:
    """The wire's program as a value."""
    return ProgramStatus(
        program_id=program.program_id,
        tenant=program.tenant,
        started=_time(program.started) if program.HasField("started") else None,
        ended=_time(program.ended) if program.HasField("ended") else None,
        num_queued=program.num_queued,
        num_running=program.num_running,
        num_finished=program.num_finished,
        num_restarted=program.num_restarted,
        service_seconds=program.service_seconds,
        queue_seconds=program.queue_seconds,
        usage=usage_of(program.usage),
        service_class=_class_of(program.service_class),
        deadline=_time(program.deadline) if program.HasField("deadline") else None,
        num_paused=program.num_paused,
        eta=eta_of(program.eta) if program.HasField("eta") else None,
    )


def _class_of(service_class: "call_pb2.ServiceClass.ValueType") -> ServiceClass:
    for name, value in SERVICE_CLASSES.items():
        if value == service_class:
            return name
    return "default"


def _time(stamp: Timestamp) -> datetime:
    return stamp.ToDatetime(tzinfo=UTC)
