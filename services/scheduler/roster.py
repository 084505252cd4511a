"""Roster: the workers of one model that take calls, in the order in which they would take one.

Kept as things change: a worker whose ledger or line changed is put in its place when somebody asks next, which costs a
binary search. Workers that differ in what they can be used for are in orders of their own (`Kind`), of which there are
few. Freed workers are remembered until the dispatch pass has looked at them.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping
from itertools import islice

from services.scheduler.outlook import Kind, Outlook
from services.scheduler.records import Call, Worker

_FEW = 16
"""Workers that are all looked at for each call."""
_LEAST = 3
"""Of each kind, where there are more."""
_WALK = 48
"""Steps along an order to find one of a set."""


Order = list[tuple[tuple[int, float, int], Outlook]]


class Roster:
    """`changes` gets every worker whose ledger changed; see `Worker.touch`."""

    def __init__(self) -> None:
        self.outlooks: dict[str, Outlook] = {}
        """In the order in which the workers joined."""
        self.changes: list[Worker] = []
        self.freed: dict[Outlook, None] = {}
        """They may have room for a call that waits."""
        self.resting: dict[Outlook, None] = {}
        """Those that were empty when dispatch last looked for work for them."""
        self.orphans: list[Call] = []
        """They waited for a worker that is gone."""
        self._orders: dict[Kind, Order] = {}
        self._beside: dict[str, dict[str, Outlook]] = {}
        """By pool."""
        self.has_prefillers = False
        """There are workers for prefill alone."""
        self._num_claimed = 0

    def __len__(self) -> int:
        return len(self.outlooks)

    @property
    def few(self) -> bool:
        """So few that all are looked at."""
        return len(self.outlooks) <= _FEW

    @property
    def mean_load(self) -> float:
        """Calls at a worker, running and waiting, over its seats; as if all had as many seats as the first."""
        self._settle()
        first = next(iter(self.outlooks.values()))
        return self._num_claimed / (len(self.outlooks) * first.max_num_seqs)

    def nth(self, number: int) -> Outlook:
        """One of them; they are counted round and round."""
        return next(islice(self.outlooks.values(), number % len(self.outlooks), None))

    def join(self, outlook: Outlook) -> None:
        """A worker takes calls."""
        self.outlooks[outlook.worker_id] = outlook
        outlook.worker.touch()
        insort(self._orders.setdefault(outlook.kind, []), (outlook.standing, outlook))
        self.has_prefillers |= outlook.kind.prefills
        self._beside.setdefault(outlook.pool_id, {})[outlook.worker_id] = outlook
        outlook.freed = self.freed
        self.freed[outlook] = None

    def leave(self, worker_id: str) -> None:
        """A worker takes none any more; those that wait for it are orphans."""
        outlook = self.outlooks.pop(worker_id, None)
        if outlook is None:
            return
        for _, call in list(outlook.line):
            outlook.drop(call)
            self.orphans.append(call)
        self._settle()
        self._num_claimed -= outlook.counted
        kind = outlook.kind
        self._take_out(self._orders[kind], outlook)
        if not self._orders[kind]:
            del self._orders[kind]
            self.has_prefillers = any(kind.prefills for kind in self._orders)
        beside = self._beside[outlook.pool_id]
        del beside[worker_id]
        if not beside:
            del self._beside[outlook.pool_id]
        self.freed.pop(outlook, None)
        self.resting.pop(outlook, None)

    def takes_prompt(self, prompt_tokens: int, prefills: bool) -> bool:
        """Does some worker of that sort take a prompt that long?"""
        return any(kind.prefills == prefills and prompt_tokens < kind.max_model_len for kind in self._orders)

    def least(self, prompt_tokens: int, more: int = 0) -> Iterator[Outlook]:
        """Of each kind that takes such a prompt, those where a call of usual size would be done first."""
        self._settle()
        for kind, order in self._orders.items():
            if prompt_tokens < kind.max_model_len:
                for _, outlook in islice(order, _LEAST + more):
                    yield outlook

    def most(self, kind_of: Outlook) -> Iterator[Outlook]:
        """Of the same kind, those where it would be done last, the last one first."""
        self._settle()
        for _, outlook in reversed(self._orders[kind_of.kind]):
            yield outlook

    def namespaces(self) -> list[str]:
        """Those in which workers share KV."""
        return list(dict.fromkeys(kind.namespace_id for kind in self._orders if kind.namespace_id))

    def beside(self, pool_id: str) -> Mapping[str, Outlook]:
        """The workers at a pool."""
        return self._beside.get(pool_id, {})

    def least_of(self, worker_ids: Mapping[str, object], count: int) -> list[Outlook]:
        """Some of the workers named, of many those where a call of usual size would be done first."""
        self._settle()
        if len(worker_ids) <= _WALK:
            known = [outlook for worker_id in worker_ids if (outlook := self.outlooks.get(worker_id)) is not None]
            return known if len(known) <= count else sorted(known, key=_standing)[:count]
        found: list[Outlook] = []
        for order in self._orders.values():
            for _, outlook in islice(order, _WALK):
                if outlook.worker_id in worker_ids:
                    found.append(outlook)
                    if len(found) == count:
                        return found
        return found

    def check(self) -> None:
        """Raise AssertionError where an order or a line is not what it should be."""
        self._settle()
        for outlook in self.outlooks.values():
            outlook.check()
            assert (outlook.standing, outlook) in self._orders[outlook.kind], f"{outlook.worker_id} is in no order"
            assert outlook.standing[:2] == outlook.usual_seconds(), f"{outlook.worker_id} is not where it belongs"
        for order in self._orders.values():
            assert [entry[0] for entry in order] == sorted(entry[0] for entry in order), "workers are out of order"
        assert sum(map(len, self._orders.values())) == len(self.outlooks), "a worker is in two orders"
        assert self._num_claimed == sum(outlook.claimed for outlook in self.outlooks.values()), "load does not add up"

    def _settle(self) -> None:
        """Put those whose ledger or line changed in their place."""
        while self.changes:
            worker = self.changes.pop()
            worker.changed = False
            outlook = self.outlooks.get(worker.worker_id)
            if outlook is None or outlook.worker is not worker:
                continue
            self._num_claimed += outlook.claimed - outlook.counted
            outlook.counted = outlook.claimed
            standing = (*outlook.usual_seconds(), outlook.number)
            if standing != outlook.standing:
                order = self._orders[outlook.kind]
                self._take_out(order, outlook)
                outlook.standing = standing
                insort(order, (standing, outlook))

    @staticmethod
    def _take_out(order: Order, outlook: Outlook) -> None:
        del order[bisect_left(order, (outlook.standing,))]


def _standing(outlook: Outlook) -> tuple[int, float, int]:
    return outlook.standing
