"""Programs: for whom blocks are kept.

Each thread of a program has one newest chain; the nodes on it count the program among their users. A node that its
last user leaves is nobody's: superseded by a newer chain, or released with its program. If several programs had used
it, more may come, and it is judged like any other. A thread without a name is told apart by its agent.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from services.common.laws import Law
from services.kvpool.events import User
from services.kvpool.limits import Limits
from services.kvpool.places import DRAM, SSD
from services.kvpool.segment import Program, Thread
from services.kvpool.tree import Chain, Node, Tree


class Returns(Protocol):
    """Learns how long programs and their threads stay away between calls (returns.py)."""

    def observe(self, program: Program, gap_seconds: float) -> None:
        """The program came back."""
        ...

    def law(self, program: Program) -> Law | None:
        """Of the time until it comes back, when it leaves now; None: nothing is known."""
        ...

    def gone(self, program: Program, now: float) -> None:
        """The program will not come back."""
        ...

    def began(self, thread: Thread, agent: str, now: float) -> None:
        """A call of the thread, by `agent`, begins; the thread is still as it was before. Sets `turns`."""
        ...

    def finished(self, thread: Thread, now: float) -> None:
        """The thread's last running call ended. Sets `returns`."""
        ...

    def ended(self, thread: Thread, now: float) -> None:
        """The thread will not come back."""
        ...


@dataclass(slots=True)
class _Record:
    program: Program
    chains: OrderedDict[tuple[str, str], Chain] = field(default_factory=OrderedDict[tuple[str, str], Chain])
    """By namespace and thread, the newest last."""


class Programs:
    """Those heard of last are kept, at most `limits.max_programs`."""

    def __init__(self, limits: Limits, returns: Returns) -> None:
        self._limits = limits
        self._returns = returns
        self._records: OrderedDict[str, _Record] = OrderedDict()

    def __iter__(self) -> Iterator[Program]:
        return (record.program for record in self._records.values())

    def get(self, program_id: str) -> Program | None:
        """Its record, if it is known."""
        record = self._records.get(program_id)
        return None if record is None else record.program

    def chains(self, program_id: str) -> list[Chain]:
        """Newest chains of the program's threads."""
        record = self._records.get(program_id)
        return [] if record is None else list(record.chains.values())

    def named(self, program_id: str, name: str) -> list[Chain]:
        """Of the program's threads of that name: one in each namespace that it uses."""
        record = self._records.get(program_id)
        return [] if record is None else [chain for key, chain in record.chains.items() if key[1] == name]

    def begin(self, user: User, tree: Tree, tip: Node, now: float, floors: tuple[float, float]) -> Chain | None:
        """A call of the user begins, on a chain that is here up to the end of `tip`."""
        chain = self.chain(user, tree, now, begins=True)
        if chain is not None:
            program = chain.program
            if program.num_calls and not program.num_running:
                self._returns.observe(program, now - program.idle_since)
            program.returns = None
            program.agent = user.agent or program.agent
            program.num_calls += 1
            program.num_running += 1
            thread = chain.thread
            self._returns.began(thread, program.agent, now)
            thread.agent, thread.began = program.agent, now
            thread.num_calls += 1
            thread.num_running += 1
        node: Node | None = tip
        while node is not None:
            segment = node.segment
            segment.num_newcomers += chain is not None and chain.thread.thread_id not in segment.threads
            segment.last_used = now
            segment.num_uses += 1
            node.floors[DRAM], node.floors[SSD] = floors
            node = node.parent
        if chain is not None:
            self.follow(chain, tip)
        return chain

    def finish(self, namespace_id: str, user: User, now: float) -> None:
        """A call of the user ended."""
        record = self._records.get(user.program_id)
        if record is None:
            return
        program = record.program
        program.num_running = max(0, program.num_running - 1)
        if not program.num_running:
            program.idle_since = now
            program.returns = self._returns.law(program)
        chain = record.chains.get((namespace_id, user.name))
        if chain is not None and chain.thread.num_running:
            thread = chain.thread
            thread.num_running -= 1
            if not thread.num_running:
                thread.idle_since = now
                self._returns.finished(thread, now)

    def chain(self, user: User, tree: Tree, now: float, *, begins: bool = False) -> Chain | None:
        """The newest chain of the user's thread, empty if it is new. None: KV without a user, or of a program that is
        not known, unless it `begins`."""
        record = self._records.get(user.program_id)
        if not user.program_id or (record is None and not begins):
            return None
        if record is None:
            program = Program(user.program_id, user.tenant, user.agent, arrived=now, idle_since=now)
            record = self._records[user.program_id] = _Record(program)
            while len(self._records) > self._limits.max_programs:
                self.release(next(iter(self._records)), now)
        self._records.move_to_end(user.program_id)
        key = (tree.space.namespace_id, user.name)
        chain = record.chains.get(key)
        if chain is None:
            thread_id = "/".join((user.program_id, *key))
            thread = Thread(thread_id, record.program, user.agent, idle_since=now, name=key[1])
            chain = record.chains[key] = Chain(record.program, tree, tree.root, thread)
            tree.root.tips.add(chain)
            if len(record.chains) > self._limits.max_threads:
                self._drop(record.chains.popitem(last=False)[1], "superseded", now)
        record.chains.move_to_end(key)
        return chain

    def follow(self, chain: Chain, tip: Node) -> None:
        """The thread's newest chain ends with `tip` now."""
        program, old = chain.program, chain.node
        new = {tip}
        node = tip
        while node.parent is not None:
            node = node.parent
            new.add(node)
        fork = old
        while fork not in new:
            _leave(fork, chain, "superseded")
            assert fork.parent is not None
            fork = fork.parent
        node = tip
        while node is not fork:
            _join(node, chain)
            assert node.parent is not None
            node = node.parent
        old.tips.discard(chain)
        tip.tips.add(chain)
        chain.node = tip
        record = self._records.get(program.program_id)
        program.context_blocks = max((c.node.end for c in record.chains.values()), default=0) if record else 0

    def release(self, program_id: str, now: float) -> None:
        """Forget the program and what is kept for it alone."""
        record = self._records.pop(program_id, None)
        if record is not None:
            self._returns.gone(record.program, now)
            for chain in record.chains.values():
                self._drop(chain, "released", now)

    def _drop(self, chain: Chain, reason: str, now: float) -> None:
        self._returns.ended(chain.thread, now)
        node = chain.node
        chain.forgotten = reason
        node.tips.discard(chain)
        while node.parent is not None:
            _leave(node, chain, reason)
            node = node.parent


def extends(chain: Chain, parent: Node) -> bool:
    """What follows `parent` extends the chain."""
    node: Node | None = parent
    while node is not None and node.first >= chain.node.first:
        if node is chain.node:
            return True
        node = node.parent
    return False


def _join(node: Node, chain: Chain) -> None:
    program = chain.program
    node.segment.threads[chain.thread.thread_id] = chain.thread
    node.users[program.program_id] = node.users.get(program.program_id, 0) + 1
    node.segment.programs[program.program_id] = program
    node.shared |= node.owner not in ("", program.program_id)
    node.owner = node.owner or program.program_id
    node.reason = ""


def _leave(node: Node, chain: Chain, reason: str) -> None:
    program = chain.program
    node.segment.threads.pop(chain.thread.thread_id, None)
    node.users[program.program_id] -= 1
    if node.users[program.program_id]:
        return
    del node.users[program.program_id]
    del node.segment.programs[program.program_id]
    if not node.users and not node.shared:
        node.reason = reason
