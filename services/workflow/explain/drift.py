"""Drift: where a prompt departs from the one that it should extend, judged by the hashes of its messages alone.

That two prompts differ is no drift: an agent may ask something new. It is where content of the earlier one stands
*behind* the first difference: what the call before it generated, or some other part of their dialogue. Of a system
prompt or tools of nearly the same length it is taken that they could have stayed as they were.
"""

from array import array
from collections import Counter
from collections.abc import Container
from dataclasses import dataclass

from services.workflow.events import CallBegan
from services.workflow.explain.records import Drift, DriftKind

_LEAST_TOKENS = 16
"""An engine's block: less is not worth a word."""
_SAME_LENGTH = 0.1
"""Texts that differ by less in length may be the same with, say, another date in them."""
_TAILS = 16
"""Prompts of a program that later ones may extend."""
_WINDOW = 8
"""Messages that are looked at for one that was put elsewhere."""
_COMPARED = 4
"""Of a thread, the newest, with those that extend none."""


@dataclass(slots=True, eq=False)
class Prompt:
    """Of a call: what it said, and when it has ended what came out of it."""

    call_id: str
    thread: tuple[str, str]
    """With the agent: calls of one thread extend each other."""
    hashes: "array[int]"
    tokens: "array[int]"
    roles: str
    output: int = 0
    """0: none yet."""
    output_tokens: int = 0
    reasoning_tokens: int = 0

    def drop(self) -> None:
        """What it said is not needed any more."""
        self.hashes, self.tokens, self.roles = array("Q"), array("I"), ""


class Tails:
    """The prompts of one program that later ones may extend, the newest last."""

    __slots__ = ("_prompts",)

    def __init__(self) -> None:
        self._prompts: list[Prompt] = []

    def add(self, event: CallBegan, outputs: Container[int]) -> tuple[Prompt, Drift | None]:
        """Of a call that begins. `outputs`: of the program's calls so far."""
        prompt = _prompt(event)
        earlier, drift = self._before(prompt, outputs)
        if earlier is not None:
            self._prompts.remove(earlier)
            earlier.drop()
        self._prompts.append(prompt)
        if len(self._prompts) > _TAILS:
            self._prompts.pop(0).drop()
        return prompt, drift

    def _before(self, prompt: Prompt, outputs: Container[int]) -> tuple[Prompt | None, Drift | None]:
        """The prompt whose place it takes: the longest that it extends, else the one that it departs from."""
        ours = [tail for tail in self._prompts if tail.thread == prompt.thread]
        extended = [tail for tail in ours if _extends(prompt, tail)]
        if extended:
            longest = max(extended, key=lambda tail: len(tail.hashes))
            return longest, stripped(longest, prompt, outputs)
        departed = [
            (drift, tail) for tail in ours[-_COMPARED:] if (drift := departure(tail, prompt, outputs)) is not None
        ]
        if not departed:
            return None, None
        drift, tail = max(departed, key=lambda pair: pair[0].lost_tokens)
        return tail, drift


def stripped(before: Prompt, prompt: Prompt, outputs: Container[int]) -> Drift | None:
    """Of a prompt that extends the one before: did the output that follows come back as it was generated?

    Reasoning is no part of what outputs are compared by. It was left out where the message is shorter by most of it.
    """
    at = len(before.hashes)
    if not before.output or at >= len(prompt.hashes) or prompt.roles[at] != "a":
        return None
    tokens, content = prompt.tokens[at], prompt.hashes[at]
    if content == before.output:
        if tokens >= before.output_tokens - before.reasoning_tokens // 2:
            return None
    elif content in outputs:
        return None
    return Drift(before.call_id, at, "a", "stripped", tokens) if tokens >= _LEAST_TOKENS else None


def departure(before: Prompt, prompt: Prompt, outputs: Container[int]) -> Drift | None:
    """Of a prompt that does not extend the one before: None, if it is simply another."""
    at = _difference(before.hashes, prompt.hashes)
    if at >= min(len(before.hashes), len(prompt.hashes)):
        return None  # it is the beginning of the one before: all of it is kept
    left = Counter([*before.hashes[at:], before.output] if before.output else before.hashes[at:])
    lost, dialogue = 0, False
    for index in range(at, len(prompt.hashes)):
        if left[prompt.hashes[index]] > 0:
            left[prompt.hashes[index]] -= 1
            lost += prompt.tokens[index]
            dialogue = dialogue or prompt.roles[index] in "ao" or prompt.hashes[index] == before.output
    kind = _kind(before.hashes[at:], prompt.hashes[at:])
    role = prompt.roles[at]
    if kind == "edited" and _nearly(before, prompt, at):
        dialogue = dialogue or lost > 0 or any(prompt.thread)
        lost += min(before.tokens[at], prompt.tokens[at])
    if not dialogue or lost < _LEAST_TOKENS:
        return None
    if kind == "edited" and role == "a" and before.hashes[at] in outputs:
        kind = "stripped"
    return Drift(before.call_id, at, role, kind, lost)


def _prompt(event: CallBegan) -> Prompt:
    count = min(len(event.messages), len(event.message_tokens), len(event.roles))
    hashes, tokens = array("Q", event.messages[:count]), array("I", event.message_tokens[:count])
    return Prompt(event.call_id, (event.thread, event.agent), hashes, tokens, event.roles[:count])


def _extends(prompt: Prompt, tail: Prompt) -> bool:
    count = len(tail.hashes)
    if not count or count > len(prompt.hashes) or prompt.hashes[count - 1] != tail.hashes[-1]:
        return False
    return prompt.hashes[:count] == tail.hashes


def _difference(ours: "array[int]", theirs: "array[int]") -> int:
    """Where they begin to differ; the shorter one's length: nowhere."""
    end = min(len(ours), len(theirs))
    return next((index for index in range(end) if ours[index] != theirs[index]), end)


def _kind(before: "array[int]", after: "array[int]") -> DriftKind:
    """Of what begins with the first difference: what makes most of the rest agree."""
    end = min(_WINDOW, len(before), len(after)) + 1
    for size in range(2, end):
        if sorted(before[:size]) == sorted(after[:size]):
            return "reordered"
    runs: dict[DriftKind, int] = {
        "edited": _difference(before[1:], after[1:]),
        "inserted": max((_difference(before, after[size:]) for size in range(1, _WINDOW)), default=0),
        "removed": max((_difference(before[size:], after) for size in range(1, _WINDOW)), default=0),
    }
    best = max(runs, key=runs.__getitem__)
    if runs[best]:
        return best
    came_later, went_earlier = before[0] in after, after[0] in before
    if came_later:
        return "reordered" if went_earlier else "inserted"
    return "removed" if went_earlier else "edited"


def _nearly(before: Prompt, prompt: Prompt, at: int) -> bool:
    """The same system prompt or tools, but for some part of them."""
    if prompt.roles[at] != before.roles[at] or prompt.roles[at] not in "ts":
        return False
    ours, theirs = before.tokens[at], prompt.tokens[at]
    return abs(ours - theirs) <= _SAME_LENGTH * max(ours, theirs)
