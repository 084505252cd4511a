"""Prompts: which earlier prompt of a program does this one extend?

A prompt is the bytes of its messages' hashes, so to compare two is one memcmp. Those that begin with the same message
are compared, the last few of them. A prompt extends another if it begins with all of it, or, where what was said was
edited or stripped later, with more of it than the system prompt, and has more messages and no fewer tokens (or, the
other one having asked for tools, at least as many tokens as prompt and output had then).
"""

from dataclasses import dataclass

from services.workflow.structure.record import Record

_MAX_ALIKE = 16
"""Prompts that are kept of those that begin with the same message."""
_MAX_BEGINNINGS = 32


@dataclass(slots=True, eq=False)
class Prompt:
    """Messages' hashes, eight bytes each."""

    packed: bytes
    num_head: int
    """Messages in front that are tools' schemas and system prompts, at least one."""
    width: int = 8
    shared: int = 0
    """Messages that it has in common with the prompt that it extends."""

    def __len__(self) -> int:
        return len(self.packed) // self.width

    @property
    def first(self) -> bytes:
        return self.packed[: self.width]

    @property
    def head(self) -> bytes:
        return self.packed[: self.num_head * self.width]


class Prompts:
    """The last prompts of one program."""

    __slots__ = ("_alike", "num_messages")

    def __init__(self) -> None:
        self._alike: dict[bytes, list[tuple[Prompt, Record]]] = {}
        self.num_messages = 0

    def add(self, prompt: Prompt, record: Record) -> None:
        if not prompt.packed:
            return
        alike = self._alike.pop(prompt.first, [])
        alike.append((prompt, record))
        self.num_messages += len(prompt)
        if len(alike) > _MAX_ALIKE:
            # One that nothing extends yet is more likely to be asked for.
            oldest = next((at for at, (_, other) in enumerate(alike) if other.extended), 0)
            self.num_messages -= len(alike.pop(oldest)[0])
        self._alike[prompt.first] = alike
        if len(self._alike) > _MAX_BEGINNINGS:
            forgotten = self._alike.pop(next(iter(self._alike)))
            self.num_messages -= sum(len(other) for other, _ in forgotten)

    def extended(self, prompt: Prompt, prompt_tokens: int) -> Record | None:
        """The ended call whose prompt it extends; `prompt.shared` says how far."""
        best: Record | None = None
        best_rank = (0, False, False, 0, 0)
        size = len(prompt)
        for other, record in reversed(self._alike.get(prompt.first, ())):
            length = len(other)
            if record.ended_at < 0 or record.failed or min(size, length) < best_rank[0]:
                continue
            whole = size > length and prompt.packed.startswith(other.packed)
            if not whole and not _may_go_on(size, prompt_tokens, length, record):
                continue
            shared = length if whole else _common(prompt.packed, other.packed, prompt.width)
            if whole or shared > max(prompt.num_head, other.num_head):
                fits = record.tokens if record.tokens <= prompt_tokens else 0
                rank = (shared, record.continued_at < 0, whole, fits, record.ended_at)
                if rank > best_rank:
                    best, best_rank = record, rank
        prompt.shared = best_rank[0]
        return best

    def begins_alike(self, prompt: Prompt, record: Record) -> bool:
        return any(record is other for _, other in self._alike.get(prompt.first, ()))

    def forget(self, gone: set[int]) -> None:
        """Records by identity."""
        for first, alike in list(self._alike.items()):
            left = [each for each in alike if id(each[1]) not in gone]
            if left:
                self._alike[first] = left
            else:
                del self._alike[first]
        self.num_messages = sum(len(prompt) for alike in self._alike.values() for prompt, _ in alike)


def _may_go_on(size: int, prompt_tokens: int, length: int, record: Record) -> bool:
    """Whether a prompt of so many messages and tokens may be what follows a call of `length` messages, edited."""
    if size > length:
        return prompt_tokens >= record.prompt_tokens
    return record.asked_tools and prompt_tokens >= record.tokens


def _common(one: bytes, other: bytes, width: int) -> int:
    """Messages that both begin with, by halving."""
    low, high = 1, min(len(one), len(other)) // width
    while low < high:
        middle = (low + high + 1) // 2
        if one[: middle * width] == other[: middle * width]:
            low = middle
        else:
            high = middle - 1
    return low
