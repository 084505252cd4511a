"""Which models are served: those of the workers that are registered, each with its tokenizer and template loaded."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import NoReturn

import grpc

from legato.v1 import gateway_pb2, worker_pb2, worker_pb2_grpc
from services.common import rpc
from services.common.errors import Failure, Reason
from services.common.registry import Member, Registry
from services.gateway.config import GatewaySection
from services.gateway.render import Model, load_model

_log = logging.getLogger(__name__)

_DESCRIBE_SECONDS = 5.0
_RETRY_SECONDS = 1.0


@dataclass(slots=True)
class _Served:
    model: Model
    described_by: bytes
    """What its workers say of it, by which a changed model is told."""
    worker_ids: frozenset[str]


class Models:
    """The models by name. One whose workers are all gone stays known: they may be on their way back."""

    def __init__(self, registry: Registry, section: GatewaySection) -> None:
        self._registry = registry
        self._section = section
        self._served: dict[str, _Served] = {}
        self._members: Mapping[str, Member] | None = None
        self._changed = asyncio.Event()

    @property
    def ready(self) -> bool:
        """Whether there is a model that can answer."""
        return any(served.worker_ids for served in self._served.values())

    def find(self, name: str) -> Model:
        """The model of that name; for the empty name the only one. Raises Failure."""
        if not name:
            return self._only()
        if served := self._served.get(name):
            return served.model
        shown = name if len(name) <= 100 else f"{name[:100]}..."
        if not self._members or name in {_model(member) for member in self._members.values()}:
            # With no worker at all nobody can say which models there are: they may be about to come back.
            raise Failure(Reason.NO_WORKER, f"no worker serves {shown!r} yet", "model", retry_after_seconds=1.0)
        known = ", ".join(sorted(self._served)[:20]) or "none"
        raise Failure(Reason.MODEL_NOT_FOUND, f"the model {shown!r} does not exist; served: {known}", "model")

    def listed(self) -> list[gateway_pb2.Model]:
        """In order of name, those that workers serve now."""
        return [
            gateway_pb2.Model(name=name, max_model_len=served.model.max_model_len, num_workers=len(served.worker_ids))
            for name, served in sorted(self._served.items())
            if served.worker_ids
        ]

    async def run(self) -> None:
        """Follow the registry until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch())
            tasks.create_task(self._load())

    def _only(self) -> Model:
        if len(self._served) == 1:
            return next(iter(self._served.values())).model
        if not self._served:
            raise Failure(Reason.NO_WORKER, "no model is served yet", "model", retry_after_seconds=1.0)
        names = ", ".join(sorted(self._served)[:20])
        raise Failure(Reason.INVALID_ARGUMENT, f"model: one of {names} must be named", "model")

    async def _watch(self) -> None:
        async with aclosing(self._registry.watch("worker")) as snapshots:
            async for members in snapshots:
                self._members = members
                self._changed.set()

    async def _load(self) -> NoReturn:
        while True:
            self._changed.clear()
            complete = await self._take(self._members or {})
            try:
                async with asyncio.timeout(None if complete else _RETRY_SECONDS):
                    await self._changed.wait()
            except TimeoutError:
                pass  # a worker that did not answer is asked again

    async def _take(self, members: Mapping[str, Member]) -> bool:
        """Make what is served equal to what is registered. False when a model could not be loaded."""
        workers: dict[str, dict[str, Member]] = defaultdict(dict)
        for id, member in members.items():
            workers[_model(member)][id] = member
        for name, served in self._served.items():
            if name not in workers:
                served.worker_ids = frozenset()
        complete = True
        for name, group in workers.items():
            served = self._served.get(name)
            if served is not None and served.worker_ids & group.keys():
                served.worker_ids = frozenset(group)
            else:
                complete = await self._describe_and_load(name, group) and complete
        return complete

    async def _describe_and_load(self, name: str, group: Mapping[str, Member]) -> bool:
        for member in group.values():
            description = await _describe(member)
            if description is None:
                continue
            description.worker_id = ""
            key = description.SerializeToString(deterministic=True)
            served = self._served.get(name)
            if served is not None and served.described_by == key:
                served.worker_ids = frozenset(group)
                return True
            return await self._load_model(name, description, frozenset(group))
        return False

    async def _load_model(
        self, name: str, description: worker_pb2.WorkerDescription, worker_ids: frozenset[str]
    ) -> bool:
        section = self._section
        sizes = (section.segment_cache_bytes, section.hash_cache_bytes, section.verify_every)
        key = description.SerializeToString(deterministic=True)
        try:
            model = await asyncio.to_thread(load_model, description, *sizes)
        except Exception as error:  # whatever is wrong with one model's files, the others are served
            _log.error("model %s cannot be loaded from %s: %s", name, description.model_path, error)
            return False
        self._served[name] = _Served(model, key, worker_ids)
        _log.info("model %s is ready", name)
        return True


async def _describe(member: Member) -> worker_pb2.WorkerDescription | None:
    try:
        async with rpc.channel(member.address, "worker") as channel:
            stub = worker_pb2_grpc.WorkerServiceStub(channel)
            response = await stub.Describe(worker_pb2.DescribeRequest(), timeout=_DESCRIBE_SECONDS)
    except grpc.aio.AioRpcError as error:
        _log.warning("worker %s does not describe itself: %s", member.id, rpc.failure_from(error))
        return None
    return response.description


def _model(member: Member) -> str:
    return member.metadata.get("model", "")
