"""Greedy outputs through Legato are token-identical to vLLM used directly."""

import asyncio
import random

import pytest
from openai import AsyncOpenAI

from services.local.spawn import Stack
from tests.e2e.conftest import Direct

NUM_PROMPTS = 50
MAX_TOKENS = 48
CONCURRENCY = 16

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(180), pytest.mark.usefixtures("direct")]  # beside the stack


def prompts() -> list[list[int]]:
    """Prompts of 5 to 900 tokens; every third begins like the one before, so that prefix caches take part."""
    draw = random.Random(7)
    made: list[list[int]] = []
    for index in range(NUM_PROMPTS):
        fresh = [draw.randrange(20, 500) for _ in range(draw.choice((5, 31, 32, 100, 333, 900)))]
        made.append(made[-1] + fresh if index % 3 == 2 and len(made[-1]) < 1800 else fresh)
    return made


@pytest.fixture(scope="module")
def expected(direct: Direct) -> list[list[int]]:
    return [list(ids) for ids in direct.answer(prompts(), MAX_TOKENS)]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streaming"])
async def test_token_ids_are_those_of_vllm(vllm_stack: Stack, expected: list[list[int]], stream: bool) -> None:
    client = AsyncOpenAI(base_url=vllm_stack.base_url, api_key="none", max_retries=0)
    slots = asyncio.Semaphore(CONCURRENCY)

    async def one(prompt: list[int]) -> list[int]:
        extra = {"ignore_eos": True, "return_token_ids": True}
        async with slots:
            if not stream:
                done = await client.completions.create(
                    model="tiny", prompt=prompt, max_tokens=MAX_TOKENS, temperature=0, extra_body=extra
                )
                return token_ids(done.choices[0])
            pieces = await client.completions.create(
                model="tiny", prompt=prompt, max_tokens=MAX_TOKENS, temperature=0, extra_body=extra, stream=True
            )
            return [token async for piece in pieces for choice in piece.choices for token in token_ids(choice)]

    async with client:
        assert await asyncio.gather(*map(one, prompts())) == expected


def token_ids(choice: object) -> list[int]:
    return getattr(choice, "token_ids", None) or []
