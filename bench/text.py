"""Text for segments: words that depend on the segment's hash alone, so equal hashes give equal text everywhere.

A segment of n tokens becomes n words that are one token each in the project's tiny model and in most tokenizers of
English; a prompt's real length is what the server reports.
"""

import random
from functools import lru_cache

WORDS = (  # noqa: SIM905 (a list of strings would be four times as long)
    "agent and answer are assistant because before budget cache call can check city code compare cost data day "
    "directory end even file first fix for from function import json list more name not null object open option other "
    "page patch path plan query question read report result return run search server source status sum summary tag "
    "tags test tests that the then today tool true user value was weather web what when will with within work write"
).split()


@lru_cache(maxsize=4096)
def text_of(hash: str, tokens: int) -> str:
    """About `tokens` tokens of text."""
    # Cached because the calls of a program ask for their common prefix again and again.
    return " ".join(random.Random(hash).choices(WORDS, k=max(1, tokens)))
