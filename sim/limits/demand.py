"""What programs ask for at least, however well prefixes are kept: tokens to prefill, steps to decode, room for KV.

A prefix that any call ever sent is never prefilled again, so content counts once. Content that programs share is left
out of each one's own demand (another may have brought it) and kept apart; what several calls of one program may be the
first to bring, side by side, is a piece that belongs to none of them. What came out of a decode and comes back in a
later prompt is in the cache. A context that calls can share in one step takes room once: each counts its part.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from sim.trace import Call, Program


@dataclass(slots=True)
class CallDemand:
    """Of one call."""

    prefill_tokens: float = 0.0
    """That nobody else can bring; at least the one that gives the first output token."""
    prefill_pairs: float = 0.0
    """Of such a token and one that it attends to."""
    decode_steps: int = 0
    decode_context: float = 0.0
    """Tokens of context, summed over the steps."""
    decode_room: float = 0.0
    """The same, with the parts that other calls can share at the time divided among them."""


@dataclass(slots=True)
class Piece:
    """A prefill that any one of several calls of a program does."""

    calls: tuple[int, ...]
    tokens: float = 0.0
    pairs: float = 0.0


@dataclass(frozen=True, slots=True)
class Reuse:
    """A stretch of a prompt that is the program's own and was there before."""

    call: int
    last: int
    """The call that had it last."""
    start: int
    tokens: int

    @property
    def pairs(self) -> float:
        return self.tokens * (self.start + self.tokens / 2)


@dataclass(slots=True)
class Demand:
    """Of one program."""

    calls: list[CallDemand]
    pieces: list[Piece] = field(default_factory=list[Piece])
    reuses: list[Reuse] = field(default_factory=list[Reuse])
    shared_tokens: float = 0.0
    """Its part of the prefill that several programs ask for: that over the number of these."""
    shared_pairs: float = 0.0


@dataclass(slots=True, eq=False)
class _Node:
    """A segment behind a certain prefix."""

    start: int
    tokens: int
    num_programs: int = 0
    sharers: int = 0
    """Calls that may hold it in one step."""


@dataclass(slots=True)
class _Paths:
    """A program's calls in the tree, each as its nodes, and those that end before it begins, as bits."""

    prompts: list[list[int]]
    outputs: list[list[int]]
    earlier: list[int]


class _Tree:
    """The prefixes of all programs."""

    def __init__(self, programs: Sequence[Program]) -> None:
        self._numbers: dict[tuple[int, str], int] = {}
        self.nodes: list[_Node] = [_Node(0, 0)]
        self.paths = [self._add(program) for program in programs]

    def _add(self, program: Program) -> _Paths:
        added = _Paths([], [], [])
        users: dict[int, int] = {}
        for call in program.calls:
            prompt = self._walk(program, call.prompt, 0)
            output = self._walk(program, call.output, prompt[-1] if prompt else 0)
            added.prompts.append(prompt)
            added.outputs.append(output)
            added.earlier.append(_earlier(call, added.earlier))
            for at in (*prompt, *output):
                users[at] = users.get(at, 0) + 1
        chain = all(call.id == 0 or call.id - 1 in call.parents for call in program.calls)
        for at, count in users.items():
            self.nodes[at].num_programs += 1
            self.nodes[at].sharers += 1 if chain else count
        return added

    def _walk(self, program: Program, indices: Sequence[int], at: int) -> list[int]:
        """The nodes of these segments, behind the node `at`."""
        path: list[int] = []
        for index in indices:
            segment = program.segments[index]
            before = self.nodes[at]
            at = self._numbers.setdefault((at, segment.hash), len(self.nodes))
            if at == len(self.nodes):
                self.nodes.append(_Node(before.start + before.tokens, segment.tokens))
            path.append(at)
        return path


def demands(programs: Sequence[Program]) -> list[Demand]:
    """Of each program, beside all the others."""
    tree = _Tree(programs)
    return [_demand(program, paths, tree.nodes) for program, paths in zip(programs, tree.paths, strict=True)]


def _demand(program: Program, paths: _Paths, nodes: Sequence[_Node]) -> Demand:
    demand = Demand([CallDemand() for _ in program.calls])
    for at, calls in _bringers(paths).items():
        _charge(demand, nodes[at], calls)
    demand.reuses = _reuses(paths, nodes)
    for call, mine in zip(program.calls, demand.calls, strict=True):
        path = [nodes[at] for at in paths.prompts[call.id]]
        steps = max(0, call.output_tokens - 1)
        grown = steps * (steps + 1) / 2
        mine.prefill_tokens = max(1.0, mine.prefill_tokens)
        mine.decode_steps = steps
        mine.decode_context = steps * sum(node.tokens for node in path) + grown
        mine.decode_room = steps * sum(node.tokens / node.sharers for node in path) + grown
    return demand


def _bringers(paths: _Paths) -> dict[int, tuple[int, ...]]:
    """For each node that is prefilled: the calls that may be the first to have it in their prompt."""
    users: dict[int, int] = {}
    firsts: dict[int, tuple[int, ...]] = {}
    for call, (prompt, earlier) in enumerate(zip(paths.prompts, paths.earlier, strict=True)):
        for at in prompt:
            if not users.get(at, 0) & earlier:
                firsts[at] = (*firsts.get(at, ()), call)
            users[at] = users.get(at, 0) | 1 << call
    for at in {at for output in paths.outputs for at in output}:
        firsts.pop(at, None)  # brought by a decode
    return firsts


def _reuses(paths: _Paths, nodes: Sequence[_Node]) -> list[Reuse]:
    """Each call's, from the start of its prompt to the first node that is new."""
    last: dict[int, int] = {}
    found: list[Reuse] = []
    for call, (prompt, output, earlier) in enumerate(zip(paths.prompts, paths.outputs, paths.earlier, strict=True)):
        for at in prompt:
            if at not in last or not earlier >> last[at] & 1:
                break
            if nodes[at].num_programs == 1:
                _extend(found, Reuse(call, last[at], nodes[at].start, nodes[at].tokens))
        last.update(dict.fromkeys((*prompt, *output), call))
    return found


def _extend(found: list[Reuse], reuse: Reuse) -> None:
    if found and (found[-1].call, found[-1].last) == (reuse.call, reuse.last):
        reuse = Reuse(reuse.call, reuse.last, found[-1].start, found.pop().tokens + reuse.tokens)
    found.append(reuse)


def _charge(demand: Demand, node: _Node, calls: tuple[int, ...]) -> None:
    pairs = node.tokens * (node.start + node.tokens / 2)
    if node.num_programs > 1:
        demand.shared_tokens += node.tokens / node.num_programs
        demand.shared_pairs += pairs / node.num_programs
    elif len(calls) == 1:
        demand.calls[calls[0]].prefill_tokens += node.tokens
        demand.calls[calls[0]].prefill_pairs += pairs
    else:
        piece = next((piece for piece in demand.pieces if piece.calls == calls), None)
        if piece is None:
            piece = Piece(calls)
            demand.pieces.append(piece)
        piece.tokens += node.tokens
        piece.pairs += pairs


def _earlier(call: Call, earlier: Sequence[int]) -> int:
    """The calls that end before this one begins."""
    bits = 0
    for parent in call.parents:
        bits |= earlier[parent] | 1 << parent
    return bits
