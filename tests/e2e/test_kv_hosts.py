"""KV that comes from another host's pool, over a network that may part: two hosts, one in a network namespace."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest
import pytest_asyncio

from bench.kv.hosts import Host, host
from legato.v1 import kv_pb2
from services.common.registry.embedded import serve_embedded
from tests.e2e import kv
from tests.e2e.conftest import Direct
from tests.e2e.kv import BLOCK_SIZE, MAX_TOKENS, Case
from tests.e2e.test_kv import SETTINGS
from tests.servers.netns import Neighbour, neighbour

LENGTHS = (700, 3000)
NUM_GROUPS = 3

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(180), pytest.mark.asyncio(loop_scope="module")]


@dataclass(frozen=True)
class Pair:
    """Two hosts and the network between them."""

    here: Host
    there: Host
    network: Neighbour
    groups: list[list[Case]]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def pair(direct: Direct, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pair]:
    folder = tmp_path_factory.mktemp("hosts")
    settings = {**SETTINGS, "worker.count": 1}
    async with AsyncExitStack() as stack:
        network = stack.enter_context(neighbour())
        endpoint = await stack.enter_async_context(serve_embedded(network.own_address))
        here = await stack.enter_async_context(
            host(endpoint, folder, settings, name="here", address=network.far_address, wait=False)
        )
        there = await stack.enter_async_context(
            host(endpoint, folder, settings, name="there", address=network.address, prefix=network.enter)
        )
        await here.ready()
        cases = await asyncio.to_thread(kv.cases, direct, 2, LENGTHS * NUM_GROUPS)
        groups = [cases[start : start + len(LENGTHS)] for start in range(0, len(cases), len(LENGTHS))]
        yield Pair(here, there, network, groups)


async def test_another_host_goes_on(pair: Pair) -> None:
    cases = pair.groups.pop()
    plan = kv_pb2.KVPlan(replica=await _save(pair, cases))
    for case in cases:
        answer = await pair.there.workers[0].call(case.prompt, MAX_TOKENS, plan=plan)
        case.agrees(answer)
        assert answer.cached_tokens >= (case.num_prompt_blocks - 1) * BLOCK_SIZE
    assert (await pair.there.status()).num_pulled_blocks >= sum(case.num_prompt_blocks - 1 for case in cases)


async def test_a_network_that_parts_costs_a_pause(pair: Pair) -> None:
    """What cannot be pulled is computed after a bounded wait."""
    cases = pair.groups.pop()
    plan = kv_pb2.KVPlan(replica=await _save(pair, cases))
    pair.network.part()
    async with asyncio.TaskGroup() as tasks:
        calls = [tasks.create_task(pair.there.workers[0].call(case.prompt, MAX_TOKENS, plan=plan)) for case in cases]
    pair.network.join()
    for case, call in zip(cases, calls, strict=True):
        case.agrees(call.result())
    for case in cases:
        case.agrees(await pair.there.workers[0].call(case.prompt, MAX_TOKENS, plan=plan))


async def test_a_peer_that_dies_costs_a_pause(pair: Pair) -> None:
    cases = pair.groups.pop()
    plan = kv_pb2.KVPlan(replica=await _save(pair, cases))
    async with asyncio.TaskGroup() as tasks:
        calls = [tasks.create_task(pair.there.workers[0].call(case.prompt, MAX_TOKENS, plan=plan)) for case in cases]
        pair.here.pool_process.kill()
    for case, call in zip(cases, calls, strict=True):
        case.agrees(call.result())


async def _save(pair: Pair, cases: list[Case]) -> kv_pb2.KVReplica:
    """Have this host's worker answer, and its KV saved; where that is."""
    for number, case in enumerate(cases):
        case.agrees(await pair.here.workers[0].call(case.prompt, MAX_TOKENS, program_id=f"saved-{number}"))
    await pair.here.holds(block for case in cases for block in case.saved_hashes())
    return await pair.here.replica()
