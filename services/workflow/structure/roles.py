"""Roles: names for what prompts begin with, for calls that do not name their agent.

A role is the longest beginning that programs have in common: counted per program along the first few messages. A
beginning that no other programs share (a system prompt with a time or an id in it) has no name; its size stands for it.
Bounded: the beginnings that were seen last are known.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from math import log2
from typing import Any

MIN_PROGRAMS = 4
"""That share a beginning before it has a name."""
_MIN_SHARE = 1 / 8
"""Of the programs that share a beginning, those that go on alike: fewer are instances, not roles."""
_MAX_DEPTH = 4
_HALVED_AT = 256
_MAX_MET = 256
"""Beginnings that a program counts for."""


@dataclass(slots=True)
class _Beginning:
    programs: float = 0.0
    halvings: int = 0
    halved_with_parent: int = 0


class Roles:
    """Of all programs."""

    def __init__(self, max_beginnings: int) -> None:
        self._max = max_beginnings
        self._known: OrderedDict[int, _Beginning] = OrderedDict()

    def role(self, messages: Sequence[int], message_tokens: Sequence[int], num_head: int, met: set[int]) -> str:
        """`met`: the beginnings that the program has shown before; grows."""
        name, chain = "", 0
        parent: _Beginning | None = None
        for depth in range(min(len(messages), _MAX_DEPTH)):
            chain = hash((chain, messages[depth]))
            beginning = self._count(chain, parent, met)
            least = MIN_PROGRAMS if parent is None else max(MIN_PROGRAMS, _MIN_SHARE * parent.programs)
            if beginning.programs < least:
                break
            name, parent = f"~{chain & 0xFFFFFFFF:08x}", beginning
        return name or size(message_tokens, num_head)

    def snapshot(self) -> list[Any]:
        """As plain data: the beginnings that several programs share."""
        return [
            [chain, known.programs, known.halvings, known.halved_with_parent]
            for chain, known in self._known.items()
            if known.programs > 1
        ]

    def restore(self, data: list[Any]) -> None:
        """What a snapshot tells. For one that has seen nothing."""
        for chain, *known in data[-self._max :]:
            self._known[chain] = _Beginning(*known)

    def _count(self, chain: int, parent: _Beginning | None, met: set[int]) -> _Beginning:
        beginning = self._known.get(chain)
        if beginning is None:
            beginning = self._known[chain] = _Beginning()
            if len(self._known) > self._max:
                self._known.popitem(last=False)
        if parent is not None and beginning.halved_with_parent != parent.halvings:
            beginning.programs *= 0.5 ** (parent.halvings - beginning.halved_with_parent)
            beginning.halved_with_parent = parent.halvings
        if chain not in met and len(met) < _MAX_MET:
            met.add(chain)
            self._known.move_to_end(chain)
            beginning.programs += 1
            if beginning.programs >= _HALVED_AT:
                beginning.programs /= 2
                beginning.halvings += 1
        return beginning


def size(message_tokens: Sequence[int], num_head: int) -> str:
    """A beginning as long as others': all that is known of one that is not shared."""
    return f"~size{round(log2(max(sum(message_tokens[:num_head]), 1)))}"
