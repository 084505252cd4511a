"""The vLLM engine.

vLLM's EngineCore is a child process; here run its client, the detokenizer and the parsers. `load` may be called before
there is an event loop: it starts the EngineCore, on a CPU by a fork, so nothing that starts threads (grpc.aio above
all) may have run before it.

Each call is a task of `run`'s task group; outputs of all calls that one engine step brought are told together.
"""

import asyncio
import contextlib
import logging
import multiprocessing
import os
import socket
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, cast

import vllm
from vllm.exceptions import GracefulHTTPError, VLLMClientError
from vllm.inputs.engine import tokens_input
from vllm.sampling_params import SamplingParams
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from legato.v1 import call_pb2, kv_pb2, worker_pb2
from services.common.config import KVPoolSection
from services.common.errors import Failure, Reason
from services.common.process import exited
from services.worker.config import WorkerSection
from services.worker.engine import EngineCall, EngineDead, Listener, Output
from services.worker.kv import params
from services.worker.vllm_engine import arguments, environment, nodes, scheduler
from services.worker.vllm_engine.cache import CacheEvents
from services.worker.vllm_engine.call import Call
from services.worker.vllm_engine.load import LoadLogger
from services.worker.vllm_engine.output import OutputParsers

_log = logging.getLogger(__name__)

_ROLES = {
    "both": kv_pb2.WORKER_ROLE_BOTH,
    "prefill": kv_pb2.WORKER_ROLE_PREFILL,
    "decode": kv_pb2.WORKER_ROLE_DECODE,
}


@dataclass(slots=True)
class _Live:
    call: Call
    priority: int
    task: asyncio.Task[None] | None = None


class VllmEngine:
    """`Engine` over one AsyncLLM."""

    def __init__(self, section: WorkerSection, kvpool: KVPoolSection) -> None:
        self._section, self._kvpool = section, kvpool
        self._events = CacheEvents()
        self._load = LoadLogger(self._on_load)
        self._listener: Listener | None = None
        self._llm: AsyncLLM | None = None
        self._stack = AsyncExitStack()
        self._live: dict[int, _Live] = {}
        """Calls that have not finished; without a task until `run` takes them up."""
        self._group: asyncio.TaskGroup | None = None
        self._outputs: list[Output] = []
        """What the current engine step brought so far; told within this turn of the event loop."""
        self._broken = asyncio.Event()
        """AsyncLLM brings no more outputs, whether or not its EngineCore lives."""
        self.core_pid = 0
        """The EngineCore's process."""
        self._attending_pid = 0
        """Of who attends to the engine's other nodes; 0: it has one alone."""

    def load(self) -> None:
        """Start the EngineCore and load the model into it. Blocks for seconds."""
        config = arguments.configuration(self._section, self._kvpool, self._events.endpoint)
        if self._section.num_nodes > 1:
            self._attending_pid = nodes.attend_to_others(self._section)
        environment.choose_start_method()
        before = {child.pid for child in multiprocessing.active_children()}
        self._llm = AsyncLLM.from_vllm_config(config, stat_loggers=[self._load.factory], disable_log_stats=True)
        started = [child.pid for child in multiprocessing.active_children() if child.pid not in before]
        self.core_pid = started[0] or 0

    async def start(self, listener: Listener) -> worker_pb2.WorkerDescription:
        if self._llm is None:
            self.load()
        llm = self._engine
        self._tokenizer = llm.get_tokenizer()
        self._parsers = OutputParsers(self._tokenizer, self._section)
        self._defaults: dict[str, Any] = llm.model_config.get_diff_sampling_param()
        self._defaults.pop("max_tokens", None)
        self._socket = await self._stack.enter_async_context(self._events.subscribed())
        said = await _warm_up(llm, ask=self._kvpool.enabled)
        handler = cast("asyncio.Task[None] | None", cast(Any, llm).output_handler)  # vLLM types it by half
        assert handler is not None, "the first call starts it"
        handler.add_done_callback(lambda _: self._broken.set())
        self._listener = listener
        self._pooled = bool(said)
        config = llm.vllm_config
        self._preempts = scheduler.chosen(config)
        return worker_pb2.WorkerDescription(
            model=self._section.model,
            model_path=os.path.abspath(self._section.model_path),  # noqa: ASYNC240 (touches no disk)
            engine="vllm",
            engine_version=vllm.__version__,
            max_model_len=config.model_config.max_model_len,
            max_num_seqs=config.scheduler_config.max_num_seqs,
            max_num_batched_tokens=config.scheduler_config.max_num_batched_tokens,
            block_size=config.cache_config.block_size,
            num_blocks=config.cache_config.num_gpu_blocks or 0,
            pool_id=(self._kvpool.name or socket.gethostname()) if said else "",
            kv_namespace_id=said.get(params.NAMESPACE_ID, ""),
            kv_block_bytes=said.get(params.BLOCK_BYTES, 0),
            role=_ROLES[self._section.role],
        )

    async def run(self) -> None:
        assert self._listener is not None, "start comes first"
        async with asyncio.TaskGroup() as group:
            self._group = group
            follower = group.create_task(self._events.follow(self._socket, self._listener.on_cache))
            for key in list(self._live):
                self._begin(key, group)
            cause = await self._death()
            self._group = None
            follower.cancel()
            for live in self._live.values():
                if live.task is not None:
                    live.task.cancel()
        raise EngineDead(cause)

    def submit(self, call: EngineCall) -> None:
        start = call.start
        try:
            longest = self._engine.model_config.max_model_len
            made = Call(start, self._parsers, self._tokenizer, self._defaults, longest, pooled=self._pooled)
        except Failure as failure:
            self._tell(call.key, _refusal(start, failure))
            return
        except Exception:
            _log.exception("call refused for a reason that is ours")
            self._tell(call.key, _refusal(start, Failure(Reason.INTERNAL, "the worker failed on this call")))
            return
        if made.used_up:
            self._tell(call.key, made.end(call_pb2.FINISH_REASON_LENGTH))
            return
        self._live[call.key] = _Live(made, start.priority)
        if self._group is not None:
            self._begin(call.key, self._group)

    def abort(self, key: int) -> None:
        live = self._live.get(key)
        if live is None:
            return
        if live.task is not None:
            live.task.cancel()  # generate() aborts in the EngineCore then
        self._finish(key, live, live.call.end(call_pb2.FINISH_REASON_ABORT))

    def prioritize(self, key: int, priority: int) -> None:
        live = self._live.get(key)
        if live is None or not self._preempts:
            return
        live.priority = priority
        if live.task is not None and self._group is not None:
            self._group.create_task(self._set_priority(key, priority))

    async def close(self) -> None:
        await self._stack.aclose()
        if self._llm is not None:
            await asyncio.to_thread(self._llm.shutdown)  # it waits for the process
        self._events.close()

    @property
    def _engine(self) -> AsyncLLM:
        assert self._llm is not None, "load comes first"
        return self._llm

    async def _death(self) -> str:
        """Wait until the engine is of no more use, and say why."""
        causes = {
            f"EngineCore (pid {self.core_pid}) ended": exited(self.core_pid),
            "vLLM's output handler ended": self._broken.wait(),
            f"no engine step in {self._section.stall_seconds:g} s with calls waiting for one": self._stalled(),
        }
        if self._attending_pid:
            causes["nobody attends to the engine's other nodes"] = exited(self._attending_pid)
        async with asyncio.TaskGroup() as group:
            tasks = {group.create_task(wait): cause for cause, wait in causes.items()}
            done, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in others:
                task.cancel()
        return next(cause for task, cause in tasks.items() if task in done)

    async def _stalled(self) -> None:
        """Wait for a time without any step through which a call was live."""
        while True:
            steps, keys = self._load.load.num_steps, set(self._live)
            await asyncio.sleep(self._section.stall_seconds)
            if keys & self._live.keys() and self._load.load.num_steps == steps:
                return

    def _begin(self, key: int, group: asyncio.TaskGroup) -> None:
        live = self._live[key]
        live.task = group.create_task(self._serve(key, live))

    async def _serve(self, key: int, live: _Live) -> None:
        try:
            stream = self._engine.generate(live.call.input, live.call.parameters, str(key), priority=live.priority)
            async for result in stream:
                message = live.call.take(result)
                if message is None:
                    continue
                if message.HasField("finish"):
                    self._finish(key, live, message)
                else:
                    self._tell(key, message)
        except EngineDeadError:
            self._broken.set()  # `run` says so
        except Failure as failure:
            self._fail(key, live, failure)
        except (VLLMClientError, GracefulHTTPError, ValueError) as error:
            self._fail(key, live, Failure(Reason.INVALID_ARGUMENT, str(error)))
        except Exception:
            if self._engine.errored:  # whatever ended the output handler is thrown into each call
                self._broken.set()
                return
            _log.exception("call failed")
            self._fail(key, live, Failure(Reason.INTERNAL, "the worker failed on this call"))

    async def _set_priority(self, key: int, priority: int) -> None:
        core = cast(Any, self._engine.engine_core)  # vLLM types it by half
        with contextlib.suppress(EngineDeadError):  # `run` says so
            await core.call_utility_async(scheduler.SET_PRIORITY, str(key), priority)

    def _fail(self, key: int, live: _Live, failure: Failure) -> None:
        self._finish(key, live, live.call.end(call_pb2.FINISH_REASON_ERROR, failure))

    def _finish(self, key: int, live: _Live, message: worker_pb2.CallOutput) -> None:
        if self._live.get(key) is live:  # else it was aborted meanwhile
            del self._live[key]
            self._tell(key, message)

    def _tell(self, key: int, message: worker_pb2.CallOutput) -> None:
        if not self._outputs:
            # vLLM woke the tasks of all calls in this step together, so they run before this.
            asyncio.get_running_loop().call_soon(self._flush)
        self._outputs.append(Output(key, message))

    def _flush(self) -> None:
        outputs, self._outputs = self._outputs, []
        if self._listener is not None:
            self._listener.on_outputs(outputs)
        if not self._live and (self._load.load.num_running or self._load.load.num_waiting):
            self._load.idle()

    def _on_load(self, load: worker_pb2.Load) -> None:
        if self._listener is not None:
            self._listener.on_load(load)


async def _warm_up(llm: AsyncLLM, *, ask: bool) -> dict[str, Any]:
    """One token, so that the first call does not pay for what vLLM does on its first. Returns what the connector
    says of the engine's KV, if it is asked; nothing: this engine's KV is not shared."""
    extra = {"kv_transfer_params": {params.DESCRIBE: True}} if ask else None
    parameters = SamplingParams(max_tokens=1, temperature=0, extra_args=extra)
    said: dict[str, Any] | None = None
    async for result in llm.generate(tokens_input([0]), parameters, "warm-up"):
        said = result.kv_transfer_params or said
    return said or {}


def _refusal(start: worker_pb2.StartCall, failure: Failure) -> worker_pb2.CallOutput:
    usage = call_pb2.Usage(prompt_tokens=len(start.prompt_token_ids))
    finish = worker_pb2.Finish(
        reason=call_pb2.FINISH_REASON_ERROR,
        usage=usage,
        error_reason=failure.reason.name,
        error_message=failure.message,
    )
    return worker_pb2.CallOutput(finish=finish)
