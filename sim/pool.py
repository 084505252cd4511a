"""A host's KV pool: the pool's core on the virtual clock, with copies, pulls and a disk that take their time.

What services/kvpool and its connector do around the core, without the bytes: a call leases what the pool has of its
prompt when it comes to its worker; blocks are saved when they are computed, the prompt's after the first token and the
output's at the end, a batch at a time over PCIe; pulls read from the other pool's core under a lease.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from services.common.driver import Driver
from services.common.errors import Reason
from services.kvpool import actions, events, retention
from services.kvpool.actions import NO_ROOM, Action
from services.kvpool.core import Core
from services.kvpool.cost import Costs
from services.kvpool.events import ReleasedLease, Tier, User
from services.kvpool.limits import Limits
from services.kvpool.returns import Returns
from services.scheduler import pool_events
from services.scheduler.events import CallForeseen
from services.scheduler.pool_events import KVPlan, PoolJoined, PoolReported, PoolSpeeds
from sim.host import Host
from sim.lane import Lane
from sim.outcome import PoolResult
from sim.transfers import BATCH_BYTES, Transfers
from sim.wire import Wire

NAMESPACE = "kv"


class Pool:
    """One host's. `peers`: all pools by id. `watch`: the way to the scheduler."""

    def __init__(self, pool_id: str, host: Host, wire: Wire, peers: Mapping[str, "Pool"]) -> None:
        self.pool_id = pool_id
        self.block_bytes = host.block_bytes
        self.watch: Callable[[PoolJoined | PoolReported], None] | None = None
        costs = Costs(
            token_seconds=host.token_seconds,
            pair_seconds=host.pair_seconds,
            dram_bytes_per_second=host.pcie_speed,
            ssd_bytes_per_second=host.ssd_read_speed,
            peer_bytes_per_second=host.network_speed,
        )
        policy = retention.load(host.retention)
        self._limits = Limits(prefetch_chance=host.prefetch_chance)
        self.core = Core(host.dram_bytes, host.ssd_bytes, policy, costs, Returns(), self._limits)
        self._host = host
        self._wire = wire
        self._clock = clock = wire.clock
        self._saves = Lane(clock, host.pcie_speed)
        self._requests = itertools.count(1)
        self._asked: dict[int, Callable[[Any], None]] = {}
        self._revision = 0
        self._reporting = False
        self._next_report = clock.now()
        self._driver: Driver[events.Event, Action] = Driver(self, clock, self._perform)
        self._transfers = Transfers(pool_id, host, wire, peers, self._driver.feed)
        self._ask(lambda request: events.Attach(request, NAMESPACE, 1, host.block_bytes, host.block_tokens))

    # The core, as the driver sees it.

    def handle(self, event: events.Event, now: float) -> list[Action]:
        found = self.core.handle(event, now)
        self._look()
        return found

    def tick(self, now: float) -> list[Action]:
        found = self.core.tick(now)
        self._look()
        return found

    def next_tick(self) -> float | None:
        return self.core.next_tick()

    # What the worker and the scheduler ask.

    def find(
        self,
        lease_id: str,
        hashes: Sequence[bytes],
        num_held: int,
        user: User,
        plan: KVPlan,
        found: Callable[[int], None],
    ) -> None:
        """A call begins whose engine has so many leading blocks. `found` hears how many the pool adds."""
        there = _replica(plan.replica)
        times = (self._limits.acquire_seconds, self._limits.lease_seconds)
        self._ask(
            lambda request: events.Acquire(
                *(request, lease_id, NAMESPACE, hashes, num_held, user, there, *times), prefetch_lease_id=plan.lease_id
            ),
            lambda answer: found(len(answer.offsets)),
        )

    def loaded(self, lease_id: str, num_blocks: int) -> None:
        """What was found has been copied to the engine."""
        num_bytes = num_blocks * self.block_bytes
        self._driver.feed(events.Release((ReleasedLease(lease_id, num_bytes, num_bytes / self._host.pcie_speed),)))

    def save(self, hashes: Sequence[bytes], first: int, user: User) -> None:
        """Blocks from `first` on have been computed."""
        step = max(1, BATCH_BYTES // self.block_bytes)
        batch = hashes[first : first + step]
        if not batch:
            return
        parent = hashes[first - 1] if first else b""
        place = (NAMESPACE, batch, parent, first, 0, user, self._limits.reservation_seconds)

        def go_on(_: object) -> None:
            self.save(hashes, first + step, user)

        def copy(answer: actions.AnswerBeginStore) -> None:
            count = len(answer.offsets) - list(answer.offsets).count(NO_ROOM)
            if not answer.reservation_id:
                go_on(None)
                return
            commit = (answer.reservation_id, [0] * count, self._size(count) / self._host.pcie_speed)
            self._saves.carry(
                self._size(count), lambda: self._ask(lambda request: events.Commit(request, *commit), go_on)
            )

        self._ask(lambda request: events.BeginStore(request, *place), copy)

    def finish(self, user: User) -> None:
        """A call of the user ended."""
        self._driver.feed(events.FinishCall(NAMESPACE, user))

    def prefetch(self, prefetch: pool_events.Prefetch) -> None:
        """The scheduler will place a call here."""
        handle, there = prefetch.handle, _replica(prefetch.replica)
        lease = (prefetch.lease_id, pool_events.PREFETCH_LEASE_SECONDS)
        self._ask(lambda request: events.Prefetch(request, NAMESPACE, handle.tip, handle.num_blocks, there, *lease))

    def foresee(self, event: CallForeseen) -> None:
        """The workflow service says something."""
        if event.forecast.returns is not None:
            thread = (event.program_id, event.thread or event.agent)
            self._driver.feed(
                events.ThreadForeseen(*thread, event.forecast.returns, event.valid_seconds, bool(event.call_id))
            )

    def release_program(self, program_id: str) -> None:
        """The program has ended, or left."""
        self._driver.feed(events.ReleaseProgram(program_id))

    def introduce(self) -> None:
        """Tell a new scheduler all."""
        if self.watch is not None:
            self.watch(PoolJoined(self.pool_id, self.pool_id, self._host.dram_bytes + self._host.ssd_bytes))
            self._revision = 0
            self._report(reset=True)

    def result(self) -> PoolResult:
        """Its life until now."""
        counts = self.core.counts
        evicted = sum(self.core.eviction.reasons.values())
        return PoolResult(
            self.pool_id, counts.num_requested, counts.num_requested - counts.num_missed, counts.num_pulled, evicted
        )

    # What the core decides.

    def _ask(self, event: Callable[[int], events.Event], then: Callable[[Any], None] | None = None) -> None:
        request = next(self._requests)
        if then is not None:
            self._asked[request] = then
        self._driver.feed(event(request))

    def _perform(self, action: Action) -> None:
        match action:
            case actions.Pull() | actions.ResolvePeer() | actions.WriteDisk() | actions.ReadDisk():
                self._transfers.begin(action)
            case actions.ForgetDisk():
                pass
            case actions.Refuse():
                assert action.reason is Reason.LEASE_LOST, action  # a save that waited too long for its turn
                self._asked.pop(action.request, None)
            case _:
                if (then := self._asked.pop(action.request, None)) is not None:
                    then(action)

    def _size(self, num_blocks: int) -> int:
        return num_blocks * self.block_bytes

    def lend(self, job: actions.Pull, borrower: Transfers) -> None:
        """Another pool wants to read."""
        lease_id = f"{borrower.pool_id}/{job.job}"
        times = (min(self._limits.acquire_seconds, job.deadline_seconds), job.deadline_seconds)
        read = (job.namespace_id, job.prefix, 0, len(job.prefix), job.first_block)

        def answered(answer: actions.AnswerPeerRead) -> None:
            count = len(answer.hashes) if answer.first_block == job.first_block else 0
            borrower.receive(job, count, lambda: self._driver.feed(events.Release((ReleasedLease(lease_id),))))

        self._ask(lambda request: events.PeerRead(request, lease_id, *read, *times), answered)

    # What the scheduler hears.

    def _look(self) -> None:
        if self.watch is not None and not self._reporting and self.core.changes.revision != self._revision:
            self._reporting = True
            self._clock.call_at(max(self._clock.now(), self._next_report), self._tell)

    def _tell(self) -> None:
        self._reporting = False
        self._next_report = self._clock.now() + self._host.report_seconds
        self._report(reset=False)

    def _report(self, *, reset: bool) -> None:
        if self.watch is None:
            return
        changes = self.core.changes_since(self._revision)
        self._revision = changes.revision
        updates = [
            pool_events.ReplicaUpdate(update.namespace_id, update.dram, update.ssd, update.removed)
            for update in changes.updates
        ]
        host = self._host
        speeds = (host.pcie_speed, host.ssd_read_speed, host.network_speed)
        self.watch(PoolReported(self.pool_id, updates, reset or changes.reset, PoolSpeeds(*speeds)))


def named(blocks: Sequence[int]) -> list[bytes]:
    """As pools name them: 32 bytes, of which the low 64 bits are the engines' name."""
    return [block.to_bytes(8, "big") * 4 for block in blocks]


def _replica(replica: pool_events.Replica | None) -> events.Replica | None:
    """As the wire makes one of the other."""
    if replica is None:
        return None
    tier = Tier.SSD if replica.on_ssd else Tier.DRAM
    return events.Replica(replica.pool_id, replica.data_address, replica.num_blocks, tier)
