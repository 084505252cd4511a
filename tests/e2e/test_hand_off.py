"""Prefill on one vLLM worker and decode on another, chosen by the scheduler: the tokens are those of vLLM alone."""

import asyncio
import re

import aiohttp
import pytest
from openai import AsyncOpenAI

import legato
from services.local.spawn import Stack
from tests.e2e import kv
from tests.e2e.conftest import Direct
from tests.e2e.kv import MAX_TOKENS, Case
from tests.e2e.test_greedy import token_ids

LENGTHS = (64, 300, 900, 1500, 2500, 3000)
ROUNDS = 4
CONCURRENCY = 12
HAND_OFFS = re.compile(r"^legato_gateway_hand_offs_total (\S+)$", re.MULTILINE)

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(180)]


async def test_tokens_are_those_of_vllm(direct: Direct, vllm_stack: Stack) -> None:
    cases = await asyncio.to_thread(kv.cases, direct, 3, LENGTHS * ROUNDS)
    slots = asyncio.Semaphore(CONCURRENCY)

    async def one(client: AsyncOpenAI, case: Case) -> None:
        extra = {"ignore_eos": True, "return_token_ids": True}
        async with slots:
            pieces = await client.completions.create(
                model="tiny", prompt=case.prompt, max_tokens=MAX_TOKENS, temperature=0, extra_body=extra, stream=True
            )
            ids = [token async for piece in pieces for choice in piece.choices for token in token_ids(choice)]
        assert tuple(ids) == case.expected

    async with legato.Client(vllm_stack.address) as client:
        prefill, _ = await client.workers()
        await client.set_worker_role(prefill.worker_id, "prefill")
        try:
            async with AsyncOpenAI(base_url=vllm_stack.base_url, api_key="none", max_retries=0) as openai:
                await asyncio.gather(*(one(openai, case) for case in cases))
        finally:
            await client.set_worker_role(prefill.worker_id, "both")
    assert await hand_offs(vllm_stack) > 0


async def hand_offs(stack: Stack) -> float:
    """As the gateway counts them."""
    async with aiohttp.ClientSession() as session, session.get(f"{stack.base_url[:-3]}/metrics") as response:
        found = HAND_OFFS.search(await response.text())
    return float(found[1]) if found else 0.0
