"""A timeline run through the pool's own core, tree, eviction and laws, in virtual time, open loop.

A call asks for its prompt and stores what was missing as soon as it begins, and its output when it ends; a program is
released when its last call ends, unless `declared` is False. Nothing waits, nothing is copied: the core only decides.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bench.retention.moments import moments
from bench.retention.timeline import Request
from services.common.laws import Point
from services.kvpool import retention
from services.kvpool.actions import NO_ROOM, AnswerAcquire, AnswerBeginStore
from services.kvpool.core import Core
from services.kvpool.cost import Costs
from services.kvpool.events import (
    Acquire,
    Attach,
    BeginStore,
    Commit,
    FinishCall,
    Release,
    ReleasedLease,
    ReleaseProgram,
    User,
)
from services.kvpool.returns import Returns

TOKEN_BYTES = 131_072
"""Of Llama-3-8B."""
_SPACE = "replay"

Foresight = Literal["none", "next", "law"]
"""What a policy is told of the future: nothing, when threads come back, or the same as their laws."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a policy cost."""

    recompute_seconds: float
    hit_share: float
    """Of prompt blocks."""
    evicted_blocks: int


class Pool:
    """One run."""

    def __init__(self, block_tokens: int, capacity_blocks: int, policy: retention.Policy, foresight: Foresight) -> None:
        self._block_tokens = block_tokens
        block_bytes = block_tokens * TOKEN_BYTES
        self._costs = Costs()
        self._core = Core(capacity_blocks * block_bytes, 0, policy, self._costs, Returns())
        self._core.handle(Attach(0, _SPACE, 1, block_bytes, block_tokens), 0.0)
        self._foresight: Foresight = foresight
        self._request = 0
        self._seconds = 0.0
        self._num_hits = self._num_asked = 0

    def run(self, requests: Sequence[Request], *, declared: bool) -> Outcome:
        """All of a timeline."""
        left = Counter(request.program_id for request in requests)
        for now, ends, number in moments(requests):
            request = requests[number]
            user = User(request.program_id, request.tenant, request.agent, request.thread)
            if not ends:
                self._begin(request, user, now)
                continue
            self._store(request.blocks, request.num_prompt, user, now)
            self._core.handle(FinishCall(_SPACE, user), now)
            self._foresee(request, now)
            left[request.program_id] -= 1
            if declared and not left[request.program_id]:
                self._core.handle(ReleaseProgram(request.program_id), now)
        evicted = sum(self._core.status().evictions.values())
        return Outcome(self._seconds, self._num_hits / max(1, self._num_asked), evicted)

    def _begin(self, request: Request, user: User, now: float) -> None:
        prompt = request.blocks[: request.num_prompt]
        self._request += 1
        lease_id = str(self._request)
        acquire = Acquire(self._request, lease_id, _SPACE, _hashes(prompt), 0, user, None, 0.0, 1.0)
        answers = [action for action in self._core.handle(acquire, now) if isinstance(action, AnswerAcquire)]
        hits = len(answers[0].offsets)
        self._core.handle(Release((ReleasedLease(lease_id),)), now)
        self._foresee(request, now)
        missed = len(prompt) - hits
        self._seconds += self._costs.recompute_seconds(hits * self._block_tokens, missed * self._block_tokens)
        self._num_hits += hits
        self._num_asked += len(prompt)
        self._store(prompt, hits, user, now)

    def _store(self, blocks: Sequence[int], start: int, user: User, now: float) -> None:
        if start == len(blocks):
            return
        self._request += 1
        hashes = _hashes(blocks[start:])
        parent = _hashes(blocks[start - 1 : start])[0] if start else b""
        begin = BeginStore(self._request, _SPACE, hashes, parent, start, 0, user, 1.0)
        answer = next(action for action in self._core.handle(begin, now) if isinstance(action, AnswerBeginStore))
        if answer.reservation_id:
            sums = [0] * (len(answer.offsets) - answer.offsets.count(NO_ROOM))
            self._core.handle(Commit(self._request, answer.reservation_id, sums), now)

    def _foresee(self, request: Request, now: float) -> None:
        """Tell the request's thread when it comes back."""
        if self._foresight == "none":
            return
        for chain in self._core.programs.chains(request.program_id):
            thread = chain.thread
            if thread.thread_id.endswith("/" + request.thread):
                thread.next_use = request.next_use
                if self._foresight == "law":
                    thread.returns = thread.turns = Point(request.next_use - now)


def _hashes(blocks: Sequence[int]) -> list[bytes]:
    return [block.to_bytes(8, "big") * 4 for block in blocks]


def run(
    requests: Sequence[Request],
    block_tokens: int,
    capacity_blocks: int,
    policy: str,
    *,
    foresight: Foresight = "none",
    declared: bool = True,
) -> Outcome:
    """What the policy of that name costs."""
    return Pool(block_tokens, capacity_blocks, retention.load(policy), foresight).run(requests, declared=declared)
