"""The simulated engine through the engine interface."""

import asyncio
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from legato.v1 import call_pb2, kv_pb2, worker_pb2
from services.common.block_hash import block_hashes
from services.common.clock import VirtualClock
from services.worker import tiny_model
from services.worker.config import WorkerSection
from services.worker.engine import EngineCall, EngineDead, Output
from services.worker.simulated.config import SimulatedSection
from services.worker.simulated.engine import SimulatedEngine

BLOCK = 16


class Audience:
    """A listener that keeps what it hears."""

    def __init__(self) -> None:
        self.outputs: dict[int, list[worker_pb2.CallOutput]] = {}
        self.batches = 0
        self.load = worker_pb2.Load()
        self.cached: set[int] = set()
        self.all_done = asyncio.Event()
        self.expected = 0
        self.quiet = False

    def on_outputs(self, outputs: Sequence[Output]) -> None:
        assert not self.quiet
        self.batches += 1
        for output in outputs:
            heard = self.outputs.setdefault(output.key, [])
            assert not heard or not heard[-1].HasField("finish")
            heard.append(output.message)
        if sum(heard[-1].HasField("finish") for heard in self.outputs.values()) == self.expected:
            self.all_done.set()

    def on_load(self, load: worker_pb2.Load) -> None:
        self.load = load

    def on_cache(self, stored: Sequence[int], removed: Sequence[int], reset: bool) -> None:
        assert not reset
        self.cached |= set(stored)
        self.cached -= set(removed)

    @contextmanager
    def silence(self) -> Generator[None]:
        """No output may come."""
        self.quiet = True
        yield
        self.quiet = False

    def text(self, key: int) -> str:
        return "".join(message.text for message in self.outputs[key])

    def ids(self, key: int) -> list[int]:
        ids: list[int] = []
        for message in self.outputs[key]:
            assert message.offset == self.outputs[key][0].offset + len(ids)
            ids.extend(message.token_ids)
        return ids

    def finish(self, key: int) -> worker_pb2.Finish:
        return self.outputs[key][-1].finish


class Stage:
    """A started engine in virtual time."""

    def __init__(self, engine: SimulatedEngine, clock: VirtualClock, audience: Audience) -> None:
        self.engine = engine
        self.clock = clock
        self.audience = audience
        self._num_calls = 0

    def submit(self, prompt: Sequence[int], **fields: Any) -> int:
        self._num_calls += 1
        start = worker_pb2.StartCall(prompt_token_ids=prompt, **fields)
        with self.audience.silence():
            self.engine.submit(EngineCall(self._num_calls, start))
        return self._num_calls

    def run(self, prompt: Sequence[int], **fields: Any) -> int:
        key = self.submit(prompt, **fields)
        self.clock.run()
        return key


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory: Path = tmp_path_factory.mktemp("model")
    tiny_model.make(directory)
    return str(directory)


@asynccontextmanager
async def staged(model_path: str, *, kv_tokens: int = 4096, pool_id: str = "", **worker: Any) -> AsyncGenerator[Stage]:
    section = WorkerSection(engine="simulated", model_path=model_path, block_size=BLOCK, **worker)
    clock, audience = VirtualClock(), Audience()
    engine = SimulatedEngine(section, SimulatedSection(kv_tokens=kv_tokens, pool_id=pool_id), clock)
    description = await engine.start(audience)
    assert (description.pool_id, description.kv_block_bytes > 0) == (pool_id, bool(pool_id))
    assert description.num_blocks == kv_tokens // BLOCK
    assert description.max_model_len <= kv_tokens
    yield Stage(engine, clock, audience)
    await engine.close()


def sampling(**fields: Any) -> call_pb2.Sampling:
    return call_pb2.Sampling(**fields)


async def test_a_call_gives_tokens_text_usage_and_times(model_path: str) -> None:
    async with staged(model_path) as stage:
        key = stage.run(range(100), sampling=sampling(max_tokens=20, ignore_eos=True))
        heard = stage.audience
        assert len(heard.outputs[key]) == 20
        assert len(heard.ids(key)) == 20
        assert len(heard.text(key).split()) == 20
        finish = heard.finish(key)
        assert finish.reason == call_pb2.FINISH_REASON_LENGTH
        assert finish.usage == call_pb2.Usage(prompt_tokens=100, completion_tokens=20)
        spent = finish.timings.queue_seconds + finish.timings.prefill_seconds + finish.timings.decode_seconds
        assert spent == pytest.approx(stage.clock.now())
        assert finish.timings.prefill_seconds > finish.timings.decode_seconds / 19
        assert heard.load.generated_tokens == 20
        assert heard.load.num_running == 0
        assert heard.load.step_seconds > 0


async def test_outputs_of_a_step_come_together_and_at_the_interval(model_path: str) -> None:
    async with staged(model_path) as stage:
        fields = {"sampling": sampling(max_tokens=20, ignore_eos=True), "stream_interval": 8}
        keys = [stage.submit(range(50), **fields) for _ in range(4)]
        stage.clock.run()
        lengths = [[len(message.token_ids) for message in stage.audience.outputs[key]] for key in keys]
        assert lengths == [[1, 8, 8, 3]] * 4
        assert stage.audience.batches < 10


async def test_the_turn_after_a_tool_finds_its_context_cached(model_path: str) -> None:
    async with staged(model_path) as stage:
        prompt = list(range(100, 200))
        first = stage.run(prompt, sampling=sampling(max_tokens=60, ignore_eos=True))
        context = prompt + stage.audience.ids(first)
        assert stage.audience.cached == set(block_hashes(context[:-1], BLOCK))
        second = stage.run([*context, *range(30)])
        assert stage.audience.finish(second).usage.cached_tokens == (len(context) - 1) // BLOCK * BLOCK


async def test_a_salt_keeps_caches_apart(model_path: str) -> None:
    async with staged(model_path) as stage:
        keys = [stage.run(range(100), cache_salt=salt) for salt in ("", "a", "a")]
        cached = [stage.audience.finish(key).usage.cached_tokens for key in keys]
        assert cached == [0, 0, 96]


@pytest.mark.parametrize("num_resumed", [1, 13, 24, 25])
async def test_a_resumed_call_goes_on_where_it_was(model_path: str, num_resumed: int) -> None:
    async with staged(model_path) as stage:
        prompt, fields = list(range(90)), {"sampling": sampling(max_tokens=25, ignore_eos=True)}
        whole = stage.run(prompt, **fields)
        ids = stage.audience.ids(whole)
        rest = stage.run([*prompt, *ids[:num_resumed]], num_resumed_tokens=num_resumed, **fields)
        assert stage.audience.ids(rest) == ids[num_resumed:]
        assert stage.audience.text(whole).endswith(stage.audience.text(rest))
        assert stage.audience.outputs[rest][0].offset == num_resumed
        usage = stage.audience.finish(rest).usage
        assert (usage.prompt_tokens, usage.completion_tokens) == (90, 25)
        assert stage.audience.finish(rest).reason == call_pb2.FINISH_REASON_LENGTH


@pytest.mark.parametrize("num_resumed", [0, 1, 12])
async def test_of_a_prefill_there_is_one_token_and_the_rest_elsewhere(model_path: str, num_resumed: int) -> None:
    async with staged(model_path) as stage:
        prompt, fields = list(range(90)), {"sampling": sampling(max_tokens=25, ignore_eos=True)}
        whole = stage.run(prompt, **fields)
        ids, plan = stage.audience.ids(whole), kv_pb2.KVPlan(hand_off=True)
        known = [*prompt, *ids[:num_resumed]]
        first = stage.run(known, num_resumed_tokens=num_resumed, kv=plan, **fields)
        assert stage.audience.ids(first) == ids[num_resumed : num_resumed + 1]
        assert stage.audience.finish(first).reason == call_pb2.FINISH_REASON_LENGTH
        rest = stage.run([*prompt, *ids[: num_resumed + 1]], num_resumed_tokens=num_resumed + 1, **fields)
        assert stage.audience.ids(rest) == ids[num_resumed + 1 :]
        assert stage.audience.finish(rest).reason == stage.audience.finish(whole).reason
        assert stage.audience.finish(rest).usage.cached_tokens >= 80  # the same engine prefilled it


async def test_a_prefill_that_gives_all_of_the_output_ends_the_call(model_path: str) -> None:
    async with staged(model_path) as stage:
        prompt, fields = list(range(90)), {"sampling": sampling(stop_token_ids=range(100_000))}
        whole = stage.run(prompt, **fields)
        prefill = stage.run(prompt, kv=kv_pb2.KVPlan(hand_off=True), **fields)
        assert stage.audience.ids(prefill) == stage.audience.ids(whole)
        assert stage.audience.finish(prefill).reason == call_pb2.FINISH_REASON_STOP


@pytest.mark.parametrize(("pool_id", "cached"), [("host-a", 80), ("", 0)])
async def test_what_a_plan_names_is_there_where_a_pool_is_imagined(model_path: str, pool_id: str, cached: int) -> None:
    async with staged(model_path, pool_id=pool_id) as stage:
        plan = kv_pb2.KVPlan(handle=kv_pb2.KVHandle(num_blocks=5))
        key = stage.run(range(90), kv=plan, sampling=sampling(max_tokens=25, ignore_eos=True))
        assert stage.audience.finish(key).usage.cached_tokens == cached
        again = stage.run(range(90), kv=plan, sampling=sampling(max_tokens=25, ignore_eos=True))
        assert stage.audience.finish(again).usage.cached_tokens == 80
        assert stage.audience.ids(again) == stage.audience.ids(key)
        assert stage.audience.load.kv_usage == 0


async def test_a_tool_call_streams_its_arguments(model_path: str) -> None:
    async with staged(model_path) as stage:
        key = stage.run(
            range(50),
            tools=[call_pb2.Tool(name="look", parameters_json='{"type":"object","required":["where"]}')],
            tool_choice=call_pb2.ToolChoice(mode=call_pb2.ToolChoice.MODE_REQUIRED),
        )
        pieces = [piece for message in stage.audience.outputs[key] for piece in message.tool_calls]
        assert pieces[0].name == "look"
        assert pieces[0].id
        assert all(not piece.name and not piece.id for piece in pieces[1:])
        assert "".join(piece.arguments for piece in pieces).startswith('{"where": "')
        assert not stage.audience.text(key)
        assert stage.audience.finish(key).reason == call_pb2.FINISH_REASON_TOOL_CALLS


async def test_logprobs_come_one_for_each_token(model_path: str) -> None:
    async with staged(model_path) as stage:
        key = stage.run(range(50), sampling=sampling(max_tokens=5, logprobs=2), stream_interval=3)
        for message in stage.audience.outputs[key]:
            assert [row.token_id for row in message.logprobs] == list(message.token_ids)


async def test_bad_calls_end_with_an_error_after_submit_returned(model_path: str) -> None:
    async with staged(model_path, max_model_len=64) as stage:
        keys = [stage.submit(range(64)), stage.submit([]), stage.submit(range(9), num_resumed_tokens=10)]
        keys.append(stage.submit(range(9), sampling=sampling(logprobs=21)))
        stage.clock.run()
        finishes = [stage.audience.finish(key) for key in keys]
        assert [finish.error_reason for finish in finishes] == ["CONTEXT_LENGTH_EXCEEDED", *["INVALID_ARGUMENT"] * 3]
        assert all(finish.reason == call_pb2.FINISH_REASON_ERROR for finish in finishes)
        assert "64" in finishes[0].error_message


async def test_an_aborted_call_ends_with_what_it_had(model_path: str) -> None:
    async with staged(model_path, max_num_seqs=1) as stage:
        fields = {"sampling": sampling(max_tokens=500, ignore_eos=True), "stream_interval": 50}
        running, waiting = stage.submit(range(50), **fields), stage.submit(range(50), **fields)
        stage.clock.run(until=0.1)
        with stage.audience.silence():
            for key in (running, waiting, 99):
                stage.engine.abort(key)
        stage.clock.run()
        for key in (running, waiting):
            finish = stage.audience.finish(key)
            assert finish.reason == call_pb2.FINISH_REASON_ABORT
            assert finish.usage.completion_tokens == len(stage.audience.ids(key))
        assert 1 < len(stage.audience.ids(running)) < 50
        assert stage.audience.load.kv_usage == 0


async def test_calls_preempted_in_a_small_cache_all_finish(model_path: str) -> None:
    async with staged(model_path, kv_tokens=512) as stage:
        fields = {"sampling": sampling(max_tokens=200, ignore_eos=True)}
        keys = [stage.submit(range(50 * n, 50 * n + 50), **fields) for n in range(6)]
        stage.clock.run()
        assert stage.audience.load.num_preemptions > 0
        assert all(len(stage.audience.ids(key)) == 200 for key in keys)


async def test_closing_aborts_what_runs(model_path: str) -> None:
    async with staged(model_path) as stage:
        key = stage.submit(range(50), sampling=sampling(max_tokens=500, ignore_eos=True))
    assert stage.audience.finish(key).reason == call_pb2.FINISH_REASON_ABORT


async def test_without_a_tokenizer_tokens_are_characters() -> None:
    async with staged("") as stage:
        key = stage.run(range(50), sampling=sampling(max_tokens=7, ignore_eos=True))
        assert [ord(character) for character in stage.audience.text(key)] == stage.audience.ids(key)


async def test_it_keeps_real_time_on_the_event_loop(model_path: str) -> None:
    audience = Audience()
    section = WorkerSection(engine="simulated", model_path=model_path, block_size=BLOCK)
    engine = SimulatedEngine(section, SimulatedSection(speed=4.0))
    await engine.start(audience)
    running = asyncio.ensure_future(engine.run())
    audience.expected = 3
    began = asyncio.get_running_loop().time()
    async with asyncio.timeout(20):
        for key in range(3):
            fields = {"max_tokens": 100, "ignore_eos": True, "seed": key}
            start = worker_pb2.StartCall(prompt_token_ids=range(50), sampling=sampling(**fields))
            engine.submit(EngineCall(key, start))
        await audience.all_done.wait()
    spent = asyncio.get_running_loop().time() - began
    timings = audience.finish(0).timings
    assert timings.prefill_seconds + timings.decode_seconds == pytest.approx(spent, abs=0.25)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await engine.close()


async def test_a_failing_engine_ends_its_run(model_path: str) -> None:
    class Rude(Audience):
        def on_outputs(self, outputs: Sequence[Output]) -> None:
            raise RuntimeError("no")

    section = WorkerSection(engine="simulated", model_path=model_path, block_size=BLOCK)
    engine = SimulatedEngine(section, SimulatedSection())
    await engine.start(Rude())
    engine.submit(EngineCall(1, worker_pb2.StartCall(prompt_token_ids=[1, 2, 3])))
    with pytest.raises(EngineDead, match="no"):
        async with asyncio.timeout(5):
            await engine.run()


async def test_settings_that_do_not_fit_are_refused(model_path: str) -> None:
    section = WorkerSection(engine="simulated", model_path=model_path, block_size=BLOCK, max_model_len=9000)
    with pytest.raises(ValueError, match="max_model_len 9000 exceeds the KV cache of 4096 tokens"):
        await SimulatedEngine(section, SimulatedSection(kv_tokens=4096)).start(Audience())
    with pytest.raises(ValueError, match=r"known profiles: .*tiny-cpu"):
        SimulatedSection(profile="gpt-9@abacus")
