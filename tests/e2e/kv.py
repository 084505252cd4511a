"""Prompts of the KV tests and what vLLM, used directly, answers to them."""

import random
from dataclasses import dataclass

from bench.kv.hosts import Answer
from services.common.block_hash import block_hashes
from tests.e2e.conftest import Direct

BLOCK_SIZE = 32
MAX_TOKENS = 40


@dataclass(frozen=True)
class Case:
    """A prompt and its greedy continuation."""

    prompt: list[int]
    expected: tuple[int, ...]

    @property
    def next_prompt(self) -> list[int]:
        """As an agent's next turn: the answer and some more behind the prompt."""
        return [*self.prompt, *self.expected, *range(100, 120)]

    @property
    def num_prompt_blocks(self) -> int:
        """Full ones."""
        return len(self.prompt) // BLOCK_SIZE

    def saved_hashes(self) -> list[int]:
        """Of the blocks that are full when the answer is: its last token's KV is never computed."""
        return block_hashes([*self.prompt, *self.expected[:-1]], BLOCK_SIZE)

    def agrees(self, answer: Answer) -> None:
        """The same tokens."""
        assert answer.token_ids == self.expected, f"{answer.cached_tokens} of {answer.prompt_tokens} cached"


def cases(direct: Direct, seed: int, lengths: tuple[int, ...]) -> list[Case]:
    """One for each length, of content that no other seed has."""
    draw = random.Random(seed)
    prompts = [[draw.randrange(20, 500) for _ in range(length)] for length in lengths]
    return [Case(prompt, ids) for prompt, ids in zip(prompts, direct.answer(prompts, MAX_TOKENS), strict=True)]
