"""KV that comes from a pool gives the tokens that computing it gives, wherever it comes from and whatever fails."""

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from bench.kv.hosts import READY_SECONDS, Host, Worker, host
from legato.v1 import kv_pb2, kvpool_pb2
from services.common.block_hash import block_hashes
from services.common.registry.embedded import serve_embedded
from tests.e2e import kv
from tests.e2e.conftest import MODEL, Direct
from tests.e2e.kv import BLOCK_SIZE, MAX_TOKENS, Case

LENGTHS = (31, 64, 700, 1200, 3000)
NUM_TESTS = 12
SETTINGS: dict[str, object] = {
    "worker.engine": "vllm",
    "worker.model": "tiny",
    "worker.model_path": str(MODEL),
    "worker.max_model_len": 4096,
    "worker.max_num_seqs": 8,
    "worker.count": 2,
    "worker.kv_cache_bytes": 24 << 20,
    "kvpool.dram_bytes": 128 << 20,
    "kvpool.ssd_bytes": 128 << 20,
    "kvpool.reservation_seconds": 2,
    "kvpool.acquire_seconds": 1,
}

ANY_NAMESPACE = kv_pb2.KVNamespace(model="other", block_size=32, num_shards=1, shard_bytes=4096)

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(180), pytest.mark.asyncio(loop_scope="module")]


@pytest.fixture(scope="module")
def groups(direct: Direct) -> list[list[Case]]:
    """One of LENGTHS for each test, all of different content."""
    made = kv.cases(direct, 1, LENGTHS * NUM_TESTS)
    return [made[start : start + len(LENGTHS)] for start in range(0, len(made), len(LENGTHS))]


@pytest.fixture
def cases(groups: list[list[Case]]) -> list[Case]:
    """Those of this test."""
    return groups.pop()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def alpha(groups: list[list[Case]], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Host]:
    """Two workers and a pool, for tests that leave them well. (The cases block the loop: they are made before.)"""
    folder = tmp_path_factory.mktemp("kv")
    settings = {**SETTINGS, "kvpool.ssd_directory": str(folder / "ssd")}
    async with serve_embedded() as endpoint, host(endpoint, folder, settings) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def hurt(alpha: Host) -> AsyncIterator[Host]:
    """The same, for a test that harms it: there is a pool again, and all workers use it, before the next test."""
    yield alpha
    if alpha.pool_process.poll() is not None:
        await alpha.restart_pool()
    for worker in alpha.workers:
        await _used_again(alpha, worker)


async def test_another_worker_of_the_host_goes_on(alpha: Host, cases: list[Case]) -> None:
    first, second = alpha.workers
    await _save(alpha, cases)
    for case in cases:
        answer = await second.call(case.prompt, MAX_TOKENS)
        case.agrees(answer)
        assert answer.cached_tokens >= min(case.num_prompt_blocks * BLOCK_SIZE, len(case.prompt) - BLOCK_SIZE)
    # What was generated is saved too: the next turn finds it wherever it runs, and is the same everywhere.
    for case in cases:
        again, anew = await first.call(case.next_prompt, 8), await second.call(case.next_prompt, 8)
        assert again.token_ids == anew.token_ids
        assert anew.cached_tokens >= len(case.saved_hashes()) * BLOCK_SIZE - BLOCK_SIZE


async def test_what_left_the_engine_comes_back_from_memory(alpha: Host, cases: list[Case]) -> None:
    worker = alpha.workers[0]
    await _save(alpha, cases)
    draw = random.Random(5)
    for _ in range(5):  # more than the engine's own cache holds
        await worker.call([draw.randrange(20, 500) for _ in range(3000)], 1)
    before = await alpha.status()
    for case in cases:
        case.agrees(await worker.call(case.prompt, MAX_TOKENS))
    assert _hits(await alpha.status(), kv_pb2.KV_TIER_DRAM) > _hits(before, kv_pb2.KV_TIER_DRAM)


async def test_disk(alpha: Host, cases: list[Case]) -> None:
    await _save_to_disk(alpha, cases, "disk")
    before = await alpha.status()
    for case in cases:
        answer = await alpha.workers[1].call(case.prompt, MAX_TOKENS)
        case.agrees(answer)
        assert answer.cached_tokens >= (case.num_prompt_blocks - 1) * BLOCK_SIZE
    assert _hits(await alpha.status(), kv_pb2.KV_TIER_SSD) > _hits(before, kv_pb2.KV_TIER_SSD)


async def test_prefill_here_and_decode_there(alpha: Host, cases: list[Case]) -> None:
    prefill, decode = alpha.workers
    for case in cases:
        begun = await prefill.call(case.prompt, MAX_TOKENS, plan=kv_pb2.KVPlan(hand_off=True))
        assert begun.token_ids == case.expected[:1]
        handle = kv_pb2.KVHandle(num_blocks=case.num_prompt_blocks)
        plan = kv_pb2.KVPlan(handle=handle, arriving=True)
        rest = await decode.call([*case.prompt, *begun.token_ids], MAX_TOKENS, num_resumed=1, plan=plan)
        assert begun.token_ids + rest.token_ids == case.expected
        assert rest.cached_tokens >= (case.num_prompt_blocks - 1) * BLOCK_SIZE


async def test_corrupt_memory_is_noticed_and_computed_anew(alpha: Host, cases: list[Case]) -> None:
    await _save(alpha, cases)
    attached = await alpha.pool.Attach(kvpool_pb2.AttachRequest(namespace=ANY_NAMESPACE, pid=os.getpid()))
    _corrupt(Path(attached.arena_path), 4096)
    before = await alpha.status()
    for case in cases:
        case.agrees(await alpha.workers[1].call(case.prompt, MAX_TOKENS))
    assert (await alpha.status()).num_corrupt_blocks > before.num_corrupt_blocks


async def test_corrupt_disk_is_noticed_and_computed_anew(alpha: Host, cases: list[Case]) -> None:
    await _save_to_disk(alpha, cases, "corrupt")
    (data,) = (path for path in (alpha.directory.parent / "ssd").rglob("*") if path.stat().st_size >= 64 << 20)
    _corrupt(data, 4096)
    before = await alpha.status()
    for case in cases:
        case.agrees(await alpha.workers[1].call(case.prompt, MAX_TOKENS))
    assert (await alpha.status()).num_corrupt_blocks > before.num_corrupt_blocks


async def test_salts_keep_tenants_apart(alpha: Host, cases: list[Case]) -> None:
    for case in cases:
        case.agrees(await alpha.workers[0].call(case.prompt, MAX_TOKENS, salt="one"))
    for case in cases:
        answer = await alpha.workers[1].call(case.prompt, MAX_TOKENS, salt="two")
        case.agrees(answer)
        assert answer.cached_tokens == 0


async def test_the_disk_outlives_the_pool(hurt: Host, cases: list[Case]) -> None:
    await _save_to_disk(hurt, cases, "lasting")
    await hurt.restart_pool()
    for case in cases:
        answer = await hurt.workers[1].call(case.prompt, MAX_TOKENS)
        case.agrees(answer)
        assert answer.cached_tokens >= (case.num_prompt_blocks - 1) * BLOCK_SIZE
    await _save(hurt, [cases[2]], "new life")


async def test_a_pool_that_dies_costs_a_pause(hurt: Host, cases: list[Case]) -> None:
    first, second = hurt.workers
    await _save(hurt, cases)
    async with asyncio.TaskGroup() as tasks:
        calls = [tasks.create_task(second.call(case.prompt, MAX_TOKENS)) for case in cases]
        calls += [tasks.create_task(first.call(case.next_prompt, MAX_TOKENS)) for case in cases]
        hurt.pool_process.kill()
    for case, call in zip(cases, calls, strict=False):
        case.agrees(call.result())


async def test_a_pool_that_hangs_costs_a_pause(hurt: Host, cases: list[Case]) -> None:
    await _save(hurt, cases)
    hurt.pool_process.send_signal(signal.SIGSTOP)
    try:
        for case in cases:
            case.agrees(await hurt.workers[1].call(case.prompt, MAX_TOKENS))
    finally:
        hurt.pool_process.send_signal(signal.SIGCONT)
    case = cases[-1]
    case.agrees(await hurt.workers[1].call(case.prompt, MAX_TOKENS))


async def test_a_worker_that_dies_while_it_saves_leaves_nothing_behind(hurt: Host, cases: list[Case]) -> None:
    first, second = hurt.workers
    with pytest.raises((grpc.aio.AioRpcError, ExceptionGroup, AssertionError)):  # noqa: PT012 (its calls are lost)
        async with asyncio.TaskGroup() as tasks:
            calls = [tasks.create_task(first.call(case.prompt, 1)) for case in cases]
            await calls[0]
            os.kill(first.pid, signal.SIGKILL)
    for case in cases:
        case.agrees(await second.call(case.prompt, MAX_TOKENS))
    await hurt.settled()
    await hurt.replaced(first)


async def _used_again(host: Host, worker: Worker) -> None:
    """Make calls until one's KV is saved: a worker leaves a pool that did not answer alone for a while."""
    draw = random.Random(worker.member.id)
    async with asyncio.timeout(READY_SECONDS):
        while True:
            prompt = [draw.randrange(20, 500) for _ in range(2 * BLOCK_SIZE)]
            await worker.call(prompt, 1)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await host.holds(block_hashes(prompt, BLOCK_SIZE))
                return


async def _save(host: Host, cases: list[Case], program_id: str = "saved") -> None:
    """Have the first worker answer, rightly, and its KV saved."""
    for number, case in enumerate(cases):
        case.agrees(await host.workers[0].call(case.prompt, MAX_TOKENS, program_id=f"{program_id}-{number}"))
    await host.holds(block for case in cases for block in case.saved_hashes())


async def _save_to_disk(host: Host, cases: list[Case], program_id: str) -> None:
    await _save(host, cases, program_id)
    for number in range(len(cases)):
        await host.pool.Demote(kvpool_pb2.DemoteRequest(program_id=f"{program_id}-{number}"))
    await host.holds((block for case in cases for block in case.saved_hashes()), only_on_disk=True)


def _hits(status: kvpool_pb2.PoolStatus, tier: "kv_pb2.KVTier.ValueType") -> int:
    return sum(item.num_hit_blocks for item in status.tiers if item.tier == tier)


def _corrupt(path: Path, every: int) -> None:
    """Change a byte in so many of a file's."""
    with path.open("r+b") as file:
        for at in range(0, path.stat().st_size, every):
            file.seek(at)
            byte = file.read(1)
            file.seek(at)
            file.write(bytes([byte[0] ^ 0x55]))
