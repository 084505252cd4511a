"""Two real engines and one pool: what one computed the other loads, and no fault of the pool changes an answer."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
import pytest_asyncio

from legato.v1 import call_pb2, kv_pb2, worker_pb2, worker_pb2_grpc
from services.common import config, registry, rpc
from services.common.block_hash import full_hashes
from services.common.config import RegistrySection
from services.common.registry import Member, Registry
from services.common.registry.embedded import serve_embedded
from services.worker.kv.client import CONTROL_SECONDS, PAUSE_SECONDS
from tests.worker.fake_pool import Door, FakePool, make_pool, serving
from tests.worker.reading import news
from tests.worker.vllm_worker import Client, children, needs_vllm_cpu

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

BLOCK_SIZE = 32
NUM_BLOCKS = 128
BLOCK_BYTES = 64 * 1024
MAX_MODEL_LEN = 3400
ACQUIRE_SECONDS = 0.5
T = TypeVar("T")
SALT = "never seen again"
"""Of references: what is computed under it is found by nobody else."""


@dataclass(frozen=True)
class Host:
    """A pool and two engines beside it."""

    pool: FakePool
    door: Door
    one: Client
    other: Client

    async def reference(self, prompt: list[int], max_tokens: int = 40) -> list[int]:
        """What is right."""
        return list((await ask(self.other, prompt, max_tokens, cache_salt=f"{SALT} {time.monotonic_ns()}")).token_ids)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def host(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Host]:
    needs_vllm_cpu()
    directory = tmp_path_factory.mktemp("pool")
    pool = make_pool(directory, 2000 * BLOCK_BYTES)
    async with AsyncExitStack() as stack:
        door = await stack.enter_async_context(serving(pool, directory))
        members = await stack.enter_async_context(started(model_path, directory))
        found: dict[str, Member] = {}
        async for workers in members.watch("worker"):
            found = dict(workers)
            if len(found) == 2:
                break
        clients = [await connected(stack, member) for member in found.values()]
        yield Host(pool, door, *clients)


@asynccontextmanager
async def started(model_path: Path, directory: Path) -> AsyncGenerator[Registry]:
    async with serve_embedded() as endpoint:
        environment = config.environment(
            {
                "registry.endpoints": [endpoint],
                "worker.engine": "vllm",
                "worker.count": 2,
                "worker.model_path": str(model_path),
                "worker.kv_cache_bytes": NUM_BLOCKS * BLOCK_BYTES,
                "worker.max_model_len": MAX_MODEL_LEN,
                "kvpool.directory": str(directory),
                "kvpool.acquire_seconds": ACQUIRE_SECONDS,
            }
        )
        process = subprocess.Popen((sys.executable, "-m", "services.worker"), env=environment)  # noqa: ASYNC220 (a fork takes milliseconds)
        try:
            async with registry.connect(RegistrySection(endpoints=(endpoint,)), "legato") as members:
                yield members
        finally:
            process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(process.wait, 30)


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def as_ever(host: Host) -> AsyncGenerator[None]:
    """Whatever a test does to the pool ends with it."""
    yield
    host.pool.may_answer.set()
    host.pool.misplaced_bytes = 0
    host.pool.before_commit = lambda: None
    if host.door.server is None:
        host.pool.forget()
        await host.door.open()


async def connected(stack: AsyncExitStack, member: Member) -> Client:
    channel = await stack.enter_async_context(rpc.channel(member.address))
    return Client(worker_pb2_grpc.WorkerServiceStub(channel))


async def ask(
    client: Client, prompt: list[int], max_tokens: int = 40, program: str = "", **start: Any
) -> worker_pb2.CallOutput:
    output = await client.whole(
        identity=call_pb2.CallIdentity(program_id=program or f"program {prompt[:3]}"),
        prompt_token_ids=prompt,
        sampling=call_pb2.Sampling(temperature=0, max_tokens=max_tokens, ignore_eos=True),
        **start,
    )
    assert output.finish.reason == call_pb2.FINISH_REASON_LENGTH, output.finish
    return output


def prompt(seed: int, length: int) -> list[int]:
    return [20 + (i * 31 + i * i * 7 + seed * 17) % 700 for i in range(length)]


def hashes(token_ids: list[int]) -> list[bytes]:
    return list(full_hashes(token_ids, BLOCK_SIZE))


def cached(output: worker_pb2.CallOutput) -> int:
    return output.finish.usage.cached_tokens


@pytest.mark.parametrize("length", [31, 33, 64, 641, 1200, 3000])
async def test_what_one_engine_computed_the_other_loads(host: Host, length: int) -> None:
    text = prompt(length, length)
    right = await host.reference(text)
    first = await ask(host.one, text)
    assert list(first.token_ids) == right
    computed = hashes(text + right[:-1])
    await host.pool.until(lambda: host.pool.has(computed))
    second = await ask(host.other, text)
    assert list(second.token_ids) == right
    assert (cached(first), cached(second)) == (0, (length - 1) // BLOCK_SIZE * BLOCK_SIZE)
    await host.pool.until(lambda: not host.pool.leases)


async def test_a_second_turn_finds_the_first_ones_output(host: Host) -> None:
    text = prompt(50, 100)
    first = await ask(host.one, text, 80)
    await host.pool.until(lambda: host.pool.has(hashes(text + list(first.token_ids)[:-1])))
    text += [*first.token_ids, *range(300, 330)]
    right = await host.reference(text)
    second = await ask(host.other, text)
    assert list(second.token_ids) == right
    assert cached(second) == 179 // BLOCK_SIZE * BLOCK_SIZE
    assert host.pool.acquired[-1].user.program_id == f"program {text[:3]}"


async def test_nothing_is_copied_twice(host: Host) -> None:
    text = prompt(51, 700)
    first = await ask(host.one, text)
    await host.pool.until(lambda: host.pool.has(hashes(text + list(first.token_ids)[:-1])))
    before = len(host.pool.blocks)
    again = await ask(host.one, text)
    assert cached(again) == 699 // BLOCK_SIZE * BLOCK_SIZE
    assert host.pool.acquired[-1].num_held == 699 // BLOCK_SIZE
    assert len(host.pool.blocks) == before


async def test_a_corrupt_block_is_found_and_computed(host: Host) -> None:
    text = prompt(52, 1000)
    right = await host.reference(text)
    await ask(host.one, text)
    await host.pool.until(lambda: host.pool.has(hashes(text)))
    host.pool.spoil(hashes(text)[20])
    host.pool.released.clear()
    output = await ask(host.other, text)
    assert list(output.token_ids) == right
    assert cached(output) == 20 * BLOCK_SIZE
    await host.pool.until(lambda: bool(host.pool.released))
    assert list(host.pool.released[0].corrupt_blocks) == [20]


@pytest.mark.parametrize("misplaced_bytes", [BLOCK_BYTES, 2**40, 2**63])
async def test_a_pool_that_names_wrong_places_does_no_harm(host: Host, misplaced_bytes: int) -> None:
    text = prompt(58 + misplaced_bytes % 31, 300)
    right = await host.reference(text)
    await ask(host.one, text)
    await host.pool.until(lambda: host.pool.has(hashes(text)))
    host.pool.misplaced_bytes = misplaced_bytes
    output = await ask(host.other, text)
    host.pool.misplaced_bytes = 0
    assert (list(output.token_ids), cached(output)) == (right, 0)


async def test_a_pool_that_stands_still_costs_one_bounded_wait(host: Host) -> None:
    texts = [prompt(seed, 400) for seed in (53, 54)]
    computed = [await timed(host.reference(text)) for text in texts]
    await back(host, host.one)  # where it had left a slow pool alone, the second call would find it again, and wait
    host.pool.may_answer.clear()
    waited: list[float] = []
    for text, (right, computing_seconds) in zip(texts, computed, strict=True):
        output, seconds = await timed(ask(host.one, text))
        assert list(output.token_ids) == right
        waited.append(seconds - computing_seconds)
    assert waited[0] < ACQUIRE_SECONDS + 2 * CONTROL_SECONDS
    assert waited[1] < CONTROL_SECONDS
    host.pool.may_answer.set()
    await back(host, host.one)


async def test_calls_go_on_without_the_pool_and_it_is_used_again_when_it_is_back(host: Host) -> None:
    text = prompt(55, 500)
    right, computing_seconds = await timed(host.reference(text))
    await host.door.shut()
    output, seconds = await timed(ask(host.one, text))
    assert list(output.token_ids) == right
    assert seconds - computing_seconds < CONTROL_SECONDS
    assert await host.reference(text) == right
    host.pool.forget()
    await host.door.open()
    await back(host, host.one)
    await back(host, host.other)


async def timed(answer: Awaitable[T]) -> tuple[T, float]:
    """It, and the seconds that it took."""
    began = time.monotonic()
    return await answer, time.monotonic() - began


async def back(host: Host, engine: Client) -> None:
    """Make calls until one is saved."""
    async with asyncio.timeout(10 * PAUSE_SECONDS):
        seed = 1000
        while True:
            seed += 1
            asked = len(host.pool.begun)
            text = prompt(seed + time.monotonic_ns() % 500, 64)
            await ask(engine, text, 2)
            if len(host.pool.begun) > asked:
                await host.pool.until(lambda text=text: host.pool.has(hashes(text)))
                return


async def test_an_engine_that_dies_while_it_saves_leaves_no_half_block(host: Host) -> None:
    text = prompt(56, 900)
    right = await host.reference(text)
    pid = await engine_pid(host, host.one)
    host.pool.before_commit = lambda: os.kill(pid, signal.SIGKILL)
    host.pool.may_answer.set()
    with pytest.raises(Exception):  # noqa: B017, PT011 (whatever the stream says of it)
        await ask(host.one, text)
    host.pool.before_commit = lambda: None
    output = await ask(host.other, text)
    assert list(output.token_ids) == right


async def engine_pid(host: Host, engine: Client) -> int:
    described = (await engine.stub.Describe(worker_pb2.DescribeRequest())).description
    return children(int(described.worker_id.split("-")[-2]))[0]


async def test_many_long_calls_in_a_small_cache_are_right(host: Host) -> None:
    """Preempted ones too: 9 calls of 13 blocks that grow to 19, for 127."""
    texts = [prompt(60 + i, 400) for i in range(9)]
    rights = await asyncio.gather(*(host.reference(text, 200) for text in texts[:4]))
    rights += await asyncio.gather(*(host.reference(text, 200) for text in texts[4:]))
    for _ in range(2):
        outputs = await asyncio.gather(*(ask(host.other, text, 200) for text in texts))
        assert [list(output.token_ids) for output in outputs] == rights
    watch = host.other.stub.Watch(worker_pb2.WatchRequest())
    first = await news(watch)
    watch.cancel()
    assert first.load.num_preemptions > 0


async def test_kept_blocks_survive_other_calls_and_never_block_them(host: Host) -> None:
    """Forty programs that want to keep five times the cache for a minute."""
    kept = prompt(80, 600)
    plan = kv_pb2.KVPlan()
    plan.retain.FromSeconds(60)
    await ask(host.other, kept, 2, "kept", kv=plan)
    for i in range(8):  # all of the cache, one after the other
        await ask(host.other, prompt(81 + i, 600), 2, "", kv=kv_pb2.KVPlan(retain=kv_pb2.KVPlan().retain))
    held = len(host.pool.acquired)
    await ask(host.other, kept, 2, "kept")
    assert host.pool.acquired[held].num_held == 599 // BLOCK_SIZE
    async with asyncio.timeout(60):
        texts = [prompt(100 + i, 500) for i in range(40)]
        await asyncio.gather(*(ask(host.other, text, 60, f"p{i}", kv=plan) for i, text in enumerate(texts)))


async def test_prefill_stops_after_one_token_and_another_engine_goes_on(host: Host) -> None:
    text = prompt(57, 650)
    right = await host.reference(text)
    plan = kv_pb2.KVPlan(hand_off=True)
    first = await ask(host.other, text, kv=plan)
    assert list(first.token_ids) == right[:1]
    await host.pool.until(lambda: host.pool.has(hashes(text)))


async def test_an_engine_says_what_its_kv_is(host: Host) -> None:
    described = (await host.other.stub.Describe(worker_pb2.DescribeRequest())).description
    assert described.kv_namespace_id in host.pool.namespaces
    namespace = host.pool.namespaces[described.kv_namespace_id]
    assert (described.kv_block_bytes, namespace.block_size, namespace.num_shards) == (BLOCK_BYTES, BLOCK_SIZE, 1)
    assert described.role == kv_pb2.WORKER_ROLE_BOTH
    assert described.pool_id
