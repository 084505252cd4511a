"""What a prompt is made of, as hashes: equal hashes are equal content, and nobody without the key learns which.

A hash is of a message's content alone, not of its role: one agent's output is found again where it is another's input.
Neither reasoning nor white space around the text counts, because clients strip both from what they send back. Hashes
are never 0, which stands for none. All of it may run in a thread; a megabyte takes about a millisecond.
"""

import hashlib
import json
from array import array
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any, Final

from services.gateway.request import Chat, Contents, Source

_ROLES: Final = {"system": "s", "developer": "s", "user": "u", "assistant": "a", "tool": "o"}
_FRAME_CHARACTERS: Final = 16
"""What a template puts around a message, about."""
_TOKEN_CHARACTERS: Final = 4
"""Of a token, about."""


def of_length(contents: Contents, prompt_tokens: int) -> Contents:
    """The same once it is known how many tokens the prompt has."""
    return Contents(contents.hashes, _split(prompt_tokens, contents.tokens), contents.roles)


def contents_of(source: Source, prompt_tokens: int, key: bytes) -> Contents:
    """Of a prompt of so many tokens; 0: not known yet, they are guessed.

    A prompt that is no conversation is one message of the role u.
    """
    if isinstance(source, Chat):
        found = [_of_message(message, key) for message in source.messages]
        roles = "".join(_ROLES.get(message.get("role", ""), "u") for message in source.messages)
        if source.tools:
            found.insert(0, _hashed([_canonical(source.tools)], key))
            roles = f"t{roles}"
    else:
        found = [_of_text(source, key) if isinstance(source, str) else _of_token_ids(source, key)]
        roles = "u"
    hashes = array("Q", [content for content, _ in found])
    sizes = [size + _FRAME_CHARACTERS for _, size in found]
    return Contents(hashes, _split(prompt_tokens or max(1, sum(sizes) // _TOKEN_CHARACTERS), sizes), roles)


def output_hash(text: str, tool_calls: Sequence[tuple[str, str]], key: bytes) -> int:
    """Of an output as it will stand in later prompts. `tool_calls`: names and arguments, as JSON text."""
    return _of_parts(text, [(name, _parsed(arguments)) for name, arguments in tool_calls], key)[0]


def line_hashes(text: str, key: bytes) -> list[int]:
    """Of each line of a text."""
    return [_digest([line.strip().encode(errors="surrogatepass")], key) for line in text.split("\n")]


def _of_message(message: Mapping[str, Any], key: bytes) -> tuple[int, int]:
    if not (tool_calls := message.get("tool_calls")):
        return _of_text(message["content"], key)
    functions = [call["function"] for call in tool_calls]
    return _of_parts(message["content"], [(function["name"], function["arguments"]) for function in functions], key)


def _of_parts(text: str, tool_calls: Sequence[tuple[str, Any]], key: bytes) -> tuple[int, int]:
    return _hashed([text.strip(), *(part for name, value in tool_calls for part in (name, _canonical(value)))], key)


def _of_text(text: str, key: bytes) -> tuple[int, int]:
    return _digest([text.strip().encode(errors="surrogatepass")], key), len(text)


def _of_token_ids(token_ids: Sequence[int], key: bytes) -> tuple[int, int]:
    return _digest([array("I", token_ids).tobytes()], key), len(token_ids) * _TOKEN_CHARACTERS


def _hashed(parts: Sequence[str], key: bytes) -> tuple[int, int]:
    """The hash, and how many characters it is of."""
    return _digest([part.encode(errors="surrogatepass") for part in parts], key), sum(map(len, parts))


def _digest(parts: Sequence[bytes], key: bytes) -> int:
    state = hashlib.blake2b(parts[0], digest_size=8, key=key[:64])
    for part in parts[1:]:
        state.update(b"\0")
        state.update(part)
    return int.from_bytes(state.digest(), "little") or 1


def _parsed(arguments: str) -> object:
    """As they stand in a conversation: what is no JSON stays text."""
    try:
        return json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return arguments


def _canonical(value: object) -> str:
    """JSON that does not depend on the order of keys or on white space."""
    try:
        return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    except RecursionError:
        return ""


def _split(total: int, sizes: Sequence[int]) -> "array[int]":
    """So that the parts are as the sizes and add up."""
    whole = max(1, sum(sizes))
    bounds = [total * reached // whole for reached in accumulate(sizes, initial=0)]
    return array("I", [end - start for start, end in pairwise(bounds)])
