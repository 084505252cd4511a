"""The door to a cluster."""

import os
from collections.abc import AsyncGenerator
from dataclasses import replace
from types import TracebackType
from typing import Self

import grpc

from legato.addresses import Addresses
from legato.attempts import Attempts, Policy
from legato.cluster import (
    Model,
    ProgramStatus,
    Worker,
    WorkerRole,
    model_of,
    program_of,
    role_request,
    worker_of,
)
from legato.endings import Endings
from legato.errors import error_from
from legato.explanation import Explanation, explanation_of
from legato.options import ServiceClass, check_urgency
from legato.pools import Pool, pool_of
from legato.program import Program
from legato.transport import Transport
from legato.v1 import gateway_pb2, scheduler_pb2, workflow_pb2

DEFAULT_ADDRESS = "127.0.0.1:8001"
PROGRAM_VARIABLE = "LEGATO_PROGRAM_ID"
"""The program that this process belongs to; `legato run` sets it, and what it was told of tenant and workflow."""
TENANT_VARIABLE = "LEGATO_TENANT"
WORKFLOW_VARIABLE = "LEGATO_WORKFLOW"
API_KEY_VARIABLE = "LEGATO_API_KEY"
CA_FILE_VARIABLE = "LEGATO_CA_FILE"
_QUESTION_SECONDS = 30.0  # what a question about the cluster may take when the client sets no deadline


def default_address() -> str:
    """Of the gateways: LEGATO_ADDRESS, else this machine's."""
    return os.environ.get("LEGATO_ADDRESS") or DEFAULT_ADDRESS


class Client:
    """A connection to a cluster: `async with legato.Client() as client`. One serves any number of programs at once.

    `address`: of a gateway, host:port; of several, with commas; or the path of a connection file (legato/addresses.py).
    Calls that are refused, or that find nobody, before they gave any output are tried again `max_retries` times, after
    the pause that the cluster asks for. A call whose gateway dies goes on at the same or another one where it was: no
    token is lost or comes twice. The client waits `reconnect_seconds` for a gateway to come back, or for a connection
    file. `deadline_seconds` bounds each call, all of that included; None: no bound. Programs that end while none is
    there are ended once there is one again; leaving the client waits for that, some seconds at most.

    The channel is encrypted with `credentials`, or where there is a `ca_file` (LEGATO_CA_FILE, the connection file's).
    `api_key`: LEGATO_API_KEY, else the connection file's. Without a tenant it is that of `legato run`, if any.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        tenant: str = "",
        max_retries: int = 6,
        deadline_seconds: float | None = None,
        reconnect_seconds: float = 60.0,
        credentials: grpc.ChannelCredentials | None = None,
        ca_file: str = "",
        api_key: str = "",
    ) -> None:
        self._tenant = tenant or os.environ.get(TENANT_VARIABLE, "")
        self._transport = Transport(
            Addresses(address or default_address()),
            Policy(max_retries, deadline_seconds, reconnect_seconds),
            credentials,
            ca_file or os.environ.get(CA_FILE_VARIABLE, ""),
            api_key or os.environ.get(API_KEY_VARIABLE, ""),
        )
        self._endings = Endings(self._transport)

    @property
    def address(self) -> str:
        """Of the gateway that it talks to, host:port."""
        return self._transport.address

    @property
    def addresses(self) -> Addresses:
        """Where it looks for gateways."""
        return self._transport.addresses

    def program(
        self,
        program_id: str = "",
        *,
        workflow: str = "",
        service_class: ServiceClass = "default",
        deadline_seconds: float | None = None,
    ) -> Program:
        """One run of an agent program. Ids are path-safe and at most 256 bytes. Without one: under `legato run` the
        process's own program, which ends with the process and not with `async with`; elsewhere a fresh one.

        `workflow`: the kind of program that it is ("code-review"), where that is not to be found out.
        `service_class`: how urgent it is, where its calls say nothing else. `deadline_seconds`: from now, when it is
        wanted complete, at most a year. Nothing is cut off then: the cluster tries to make it, and may refuse a call
        (DEADLINE_UNREACHABLE) when it cannot. Raises InvalidRequest.
        """
        check_urgency(service_class, deadline_seconds)
        outer = "" if program_id else os.environ.get(PROGRAM_VARIABLE, "")
        workflow = workflow or (outer and os.environ.get(WORKFLOW_VARIABLE, ""))
        whose = (program_id or outer, self._tenant)
        urgency = (service_class, deadline_seconds)
        return Program(self._transport, self._endings, *whose, *urgency, workflow=workflow, outlives=bool(outer))

    async def models(self) -> list[Model]:
        """The served models, by name. Raises LegatoError."""
        request = gateway_pb2.ListModelsRequest()
        response = await self._transport.unary(lambda stub: stub.ListModels, request, self._policy())
        return [model_of(model) for model in response.models]

    async def workers(self) -> list[Worker]:
        """The cluster's workers, by id. Raises LegatoError."""
        request = scheduler_pb2.ListWorkersRequest()
        response = await self._transport.unary(lambda stub: stub.ListWorkers, request, self._policy())
        return [worker_of(worker) for worker in response.workers]

    async def set_worker_role(self, worker_id: str, role: WorkerRole) -> None:
        """Change what a worker is for; the calls that it runs go on. Raises LegatoError, as NotFound."""
        request = role_request(worker_id, role)
        await self._transport.unary(lambda stub: stub.SetWorkerRole, request, self._policy())

    async def pools(self) -> list[Pool]:
        """The cluster's KV pools, by id; one that does not answer in time is left out. Raises LegatoError."""
        request = scheduler_pb2.ListPoolsRequest()
        response = await self._transport.unary(lambda stub: stub.ListPools, request, self._policy())
        return [pool_of(pool) for pool in response.pools]

    async def programs(self, *, include_ended: bool = False, limit: int = 100) -> list[ProgramStatus]:
        """The tenant's programs (all tenants' for the default tenant), newest first. Raises LegatoError."""
        request = scheduler_pb2.ListProgramsRequest(tenant=self._tenant, limit=limit, include_ended=include_ended)
        response = await self._transport.unary(lambda stub: stub.ListPrograms, request, self._policy())
        return [program_of(program) for program in response.programs]

    async def explain(self, program_id: str) -> Explanation:
        """Where the program's time went. Raises LegatoError, as NotFound."""
        request = workflow_pb2.ExplainRequest(program_id=program_id)
        return explanation_of(await self._transport.unary(lambda stub: stub.Explain, request, self._policy()))

    async def read_log(self, program_id: str = "", *, follow: bool = False) -> AsyncGenerator[workflow_pb2.LogEntry]:
        """The cluster's call log, as far back as it is kept: everybody's or one program's. `follow`: then what comes.
        An event may be in it twice. Raises LegatoError."""
        request = workflow_pb2.ReadLogRequest(program_id=program_id, follow=follow)
        gateway = await self._transport.gateway(Attempts(self._policy()))
        try:
            async for response in gateway.stub.ReadLog(request, metadata=gateway.metadata()):
                for entry in response.entries:
                    yield entry
        except grpc.aio.AioRpcError as error:
            raise error_from(error) from error

    def _policy(self) -> Policy:
        policy = self._transport.policy
        return replace(policy, deadline_seconds=policy.deadline_seconds or _QUESTION_SECONDS)

    async def __aenter__(self) -> Self:
        self._transport.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self._endings.close()
        finally:
            await self._transport.close()
