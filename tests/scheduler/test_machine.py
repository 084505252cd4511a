"""Whatever happens in whatever order: no call is lost or placed twice, capacity holds, every call gets its answer."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from services.scheduler import ordering, placement
from services.scheduler.events import GatewayLost, Place, PoolAway, PoolLost, Prefetch, ProgramEnded, Reject, Role
from tests.scheduler.stage import MODEL, Stage

WORKERS = st.sampled_from(["a", "b", "c"])
PROGRAMS = st.sampled_from(["p", "q", "r"])
POOLS = st.sampled_from(["h1", "h2"])
ROLES = st.sampled_from(list(Role))
MOVING = {"earliest", "least_loaded", "kairos", "hexgen"}
"""Placements under which an empty worker takes any call."""


class Traffic(RuleBasedStateMachine):
    """A gateway, workers and pools that come and go, and time. The stage checks the core's invariants after every
    event."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0
        self.open: dict[tuple[str, str], int] = {}
        """Calls without a final answer, with the attempt that runs (0: none)."""
        self.links: dict[tuple[str, str], int] = {}
        self.handed_off: set[tuple[str, str]] = set()
        self.next_call = 0
        self.moving = True

    @initialize(
        name=st.sampled_from(ordering.names()),
        where=st.sampled_from(placement.names()),
        lookahead=st.integers(0, 2),
    )
    def begin(self, name: str, where: str, lookahead: int) -> None:
        self.moving = where in MOVING
        settings = {"lookahead_calls": lookahead, "scan_limit": 4, "max_queued_calls": 12}
        self.stage = Stage(ordering=name, placement=where, **settings)
        self.stage.join("a", seqs=2, blocks=40)

    @rule(
        program=PROGRAMS,
        prompt=st.integers(1, 900),
        shared=st.integers(0, 30),
        branch=st.integers(0, 2),
        priority=st.integers(-1, 1),
        timeout=st.sampled_from([0.0, 0.0, 7.0]),
        link=st.integers(1, 2),
    )
    def submit(
        self, program: str, prompt: int, shared: int, branch: int, priority: int, timeout: float, link: int
    ) -> None:
        self.next_call += 1
        key = (program, f"c{self.next_call}")
        self.open[key], self.links[key] = 0, link
        blocks = [*range(shared), *(10_000 * branch + 100 * shared + i for i in range(branch * shared // 2))]
        self.stage.submit(key[1], program, prompt=prompt, blocks=blocks, priority=priority, timeout=timeout, link=link)

    @precondition(lambda self: self.stage.running)
    @rule(data=st.data(), seconds=st.floats(0, 20))
    def finish(self, data: st.DataObject, seconds: float) -> None:
        key = data.draw(st.sampled_from(sorted(self.stage.running)))
        self.stage.finish(key[1], key[0], seconds)
        self.open.pop(key, None)

    @precondition(lambda self: self.stage.running)
    @rule(data=st.data())
    def lose_or_start(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.stage.running)))
        self.stage.start(key[1], key[0])
        attempt = self.stage.running.pop(key).attempt
        self.open[key] = 0
        self.stage.lose(key[1], attempt, generated=3, program_id=key[0])

    @precondition(lambda self: self.stage.running)
    @rule(data=st.data(), generated=st.integers(0, 1), twice=st.booleans())
    def hand_off(self, data: st.DataObject, generated: int, twice: bool) -> None:
        key = data.draw(st.sampled_from(sorted(self.stage.running)))
        attempt = self.stage.running.pop(key).attempt
        self.open[key] = 0
        self.handed_off.add(key)
        self.stage.hand_off(key[1], attempt, key[0], generated=generated)
        if twice:
            self.stage.hand_off(key[1], attempt, key[0], generated=generated)

    @rule(pool=POOLS, dram=st.integers(0, 30), ssd=st.integers(0, 30), gone=st.integers(0, 30))
    def pool(self, pool: str, dram: int, ssd: int, gone: int) -> None:
        self.stage.pool(pool, range(dram), range(dram, max(dram, ssd)), range(gone, 30))

    @rule(pool=POOLS, for_good=st.booleans())
    def lose_pool(self, pool: str, for_good: bool) -> None:
        self.stage.feed(PoolLost(pool) if for_good else PoolAway(pool))

    @rule(worker=WORKERS, role=ROLES)
    def change_role(self, worker: str, role: Role) -> None:
        self.stage.role(worker, role)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.open)))
        self.stage.finish(key[1], key[0], 0.0)
        del self.open[key]

    @rule(
        worker=WORKERS,
        seqs=st.integers(1, 3),
        blocks=st.sampled_from([10, 40, 200]),
        context=st.sampled_from([500, 1000]),
        running=st.integers(0, 2),
        role=ROLES,
        pool=st.sampled_from(["", "h1", "h2"]),
        block_size=st.sampled_from([16, 16, 32]),
    )
    def join(
        self, worker: str, seqs: int, blocks: int, context: int, running: int, role: Role, pool: str, block_size: int
    ) -> None:
        self._lost(worker)
        sizes = {"seqs": seqs, "blocks": blocks, "context": context, "running": running, "block_size": block_size}
        self.stage.join(worker, role=role, pool=pool, **sizes)  # pyright: ignore[reportArgumentType] (all are ints)
        self.stage.run()

    @rule(worker=WORKERS)
    def lose_worker(self, worker: str) -> None:
        self._lost(worker)
        self.stage.lose_worker(worker)

    @rule(worker=WORKERS, running=st.integers(0, 2), waiting=st.integers(0, 3), draining=st.booleans())
    def load(self, worker: str, running: int, waiting: int, draining: bool) -> None:
        self.stage.load(worker, running=running, waiting=waiting, draining=draining)
        self.stage.run()

    @rule(worker=WORKERS, depth=st.integers(0, 30))
    def cache(self, worker: str, depth: int) -> None:
        self.stage.cache(worker, range(depth))

    @rule(link=st.integers(1, 2))
    def lose_gateway(self, link: int) -> None:
        self.stage.feed(GatewayLost(link))
        self.stage.run()
        self._read_answers()
        for key in [key for key, owner in self.links.items() if owner == link]:
            self.open.pop(key, None)
            self.stage.running.pop(key, None)

    @rule(program=PROGRAMS)
    def end_program(self, program: str) -> None:
        self.stage.feed(ProgramEnded(program))

    @rule(seconds=st.sampled_from([0.1, 3.0, 30.0]))
    def wait(self, seconds: float) -> None:
        self.stage.run(seconds)

    @invariant()
    def answers_are_consistent(self) -> None:
        if hasattr(self, "stage"):
            self._read_answers()
            assert set(self.stage.core.calls) == set(self.open), "a call was lost, or remembered for no reason"

    @invariant()
    def nothing_is_empty_while_calls_wait(self) -> None:
        if not hasattr(self, "stage") or not self.stage.core.queue.of_model(MODEL) or not self.moving:
            return
        for worker in self.stage.core.fleet.workers():
            if worker.description.role is Role.PREFILL:
                continue
            if not worker.occupied and not worker.shunned and worker.open(self.stage.core.limits.lookahead_calls):
                servable = [call for call in self.stage.core.queue.front(MODEL, 4) if call.prompt_tokens < 500]
                assert not servable, f"{worker} idles"

    def teardown(self) -> None:
        """From here on every engine works: every call must be placed or rejected."""
        if not hasattr(self, "stage"):
            return
        for worker in ("a", "b", "c"):
            self.lose_worker(worker)
            self.stage.join(worker, seqs=2, blocks=100)
        self._read_answers()
        for _ in range(200):
            if not self.stage.running:
                break
            key = min(self.stage.running)
            self.stage.finish(key[1], key[0])
            self.open.pop(key, None)
            self._read_answers()
        assert not self.open, "calls were never answered"
        assert not self.stage.core.calls

    def _lost(self, worker: str) -> None:
        self._read_answers()
        for key, place in list(self.stage.running.items()):
            if place.worker_id == worker:
                self.open[key] = 0
                del self.stage.running[key]

    def _check_plan(self, place: Place) -> None:
        plan = place.kv
        if plan.replica is not None:
            assert plan.handle is not None
            assert plan.replica.num_blocks <= plan.handle.num_blocks
            worker = self.stage.core.fleet.get(place.worker_id)
            assert worker is None or worker.description.pool_id != plan.replica.pool_id, "its own pool is no replica"
        if plan.lease_id:
            (prefetch,) = [prefetch for prefetch in self.stage.prefetches if prefetch.lease_id == plan.lease_id]
            assert (prefetch.handle, prefetch.replica) == (plan.handle, plan.replica)

    def _read_answers(self) -> None:
        for action in self.stage.actions[self.seen :]:
            if isinstance(action, Prefetch):
                assert action.handle.num_blocks > 0
            elif isinstance(action, Place):
                key = (action.program_id, action.call_id)
                assert not (action.kv.hand_off and key in self.handed_off), f"{key} is shared twice"
                self._check_plan(action)
                assert self.open.get(key) == 0, f"{key} is placed twice or was not asked for"
                self.open[key] = action.attempt
            elif isinstance(action, Reject):
                key = (action.program_id, action.call_id)
                assert key in self.open, f"{key} is rejected but was not asked for"
                del self.open[key]
                self.stage.running.pop(key, None)
        self.seen = len(self.stage.actions)


TestTraffic = Traffic.TestCase
TestTraffic.settings = settings(max_examples=60, stateful_step_count=40)
