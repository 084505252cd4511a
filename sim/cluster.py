"""A cluster: a scheduler or a router, gateways, and hosts with a worker and, if asked for, a KV pool each."""

from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, assert_never

from services.scheduler.events import Action, CallForeseen, FleetKnown, Place, Reject, WorkerLost
from services.scheduler.pool_events import Prefetch, ReleaseProgram
from services.worker.simulated.cost import Profile, load_profile
from services.worker.simulated.events import Shape
from sim.faults import Fault, LeaderChanges, WorkerDies, WorkerSlows
from sim.gateway import Gateway
from sim.host import Host
from sim.leader import Leader
from sim.outcome import EngineResult
from sim.pool import Pool
from sim.router import Router
from sim.wire import Wire
from sim.worker import Worker
from sim.workflow import Forecaster

if TYPE_CHECKING:
    from sim.experiment import Setup


class Cluster:
    """As a setup says, from now on."""

    def __init__(self, setup: "Setup", wire: Wire) -> None:
        self.setup = setup
        self.profile: Profile = load_profile(setup.profile)
        self.workers: dict[str, Worker] = {}
        """Those that live."""
        self.pools: dict[str, Pool] = {}
        self._wire = wire
        self.leader: Leader | Router = self._router() if setup.direct else self._scheduler()
        self.forecaster = self._forecaster(self.leader) if isinstance(self.leader, Leader) and setup.workflow else None
        log = None if self.forecaster is None else self.forecaster.log
        self.gateway = Gateway(wire, self.workers, self.leader.tell, log)
        if setup.dram_bytes:
            for number in range(setup.num_workers):
                self.pools[f"h{number}"] = Pool(f"h{number}", self._host(), wire, self.pools)
        self._lives = [[self._worker(number, f"w{number}")] for number in range(setup.num_workers)]
        """Each host's workers, one after the other."""
        if isinstance(self.leader, Leader):
            self._lead(self.leader)
        else:
            self._introduce_all()

    def inflict(self, fault: Fault) -> None:
        """Something goes wrong now."""
        match fault:
            case LeaderChanges():
                if isinstance(leader := self.leader, Leader):
                    leader.resign()
                    self._after(fault.outage_seconds, lambda: self._lead(leader))
            case WorkerSlows():
                slow = self._lives[fault.worker][-1]
                slow.slow_down(fault.factor)
                if fault.seconds != inf:
                    self._after(fault.seconds, lambda: slow.slow_down(1.0))
            case WorkerDies():
                worker = self.workers.pop(self._lives[fault.worker][-1].worker_id, None)
                if worker is None:  # dead already
                    return
                worker.die()
                self.leader.tell(WorkerLost(worker.worker_id))
                if fault.back_after != inf:
                    self._after(fault.back_after, lambda: self._replace(fault.worker))
            case _:
                assert_never(fault)

    def check(self) -> None:
        """Assert the invariants of every core."""
        if isinstance(self.leader, Leader):
            self.leader.core.check()
        for part in (*self.workers.values(), *(pool.core for pool in self.pools.values())):
            part.check()
        if self.forecaster is not None:
            self.forecaster.core.check()

    def engines(self) -> list[EngineResult]:
        """Every worker that ever was."""
        return [worker.result() for lives in self._lives for worker in lives]

    def _after(self, seconds: float, callback: Callable[[], None]) -> None:
        self._wire.clock.call_at(self._wire.clock.now() + seconds, callback)

    def _router(self) -> Router:
        return Router(self.setup.router, self._wire, self._perform)

    def _scheduler(self) -> Leader:
        return Leader(self.setup.section(), self._wire, self._perform)

    def _forecaster(self, leader: Leader) -> Forecaster:
        history = self.setup.history if self.setup.workflow == "warm" else ()

        def tell(event: CallForeseen) -> None:
            leader.tell(event)
            for pool in self.pools.values() if self.setup.pool_forecasts else ():
                self._wire.send(pool.foresee, event)

        return Forecaster(self._wire, tell, self.profile, history)

    def _host(self) -> Host:
        setup, profile = self.setup, self.profile
        batch = setup.max_num_batched_tokens
        return Host(
            dram_bytes=setup.dram_bytes,
            ssd_bytes=setup.ssd_bytes,
            block_bytes=profile.kv_bytes_per_token * setup.block_size,
            block_tokens=setup.block_size,
            retention=setup.retention,
            prefetch_chance=setup.prefetch_chance,
            pcie_speed=profile.pcie_bytes_per_second,
            network_speed=setup.network_bytes_per_second,
            ssd_read_speed=setup.ssd_read_bytes_per_second,
            ssd_write_speed=setup.ssd_write_bytes_per_second,
            token_seconds=profile.step_seconds(1, batch, 0, 0.0) / batch,
            pair_seconds=profile.attn_flops_per_pair / profile.attn_flops_per_second,
            report_seconds=setup.report_seconds,
        )

    def _worker(self, number: int, worker_id: str) -> Worker:
        setup, profile = self.setup, self.profile
        num_blocks = (setup.kv_tokens or profile.kv_tokens) // setup.block_size
        shape = Shape(
            num_blocks,
            setup.block_size,
            setup.max_num_seqs,
            setup.max_num_batched_tokens,
            leap_seconds=setup.leap_seconds,
            load_tokens_per_second=profile.load_tokens_per_second,
            preemption=setup.preemption,
            swap=setup.swap,
        )
        pool = self.pools.get(f"h{number}")
        worker = Worker(worker_id, shape, profile.step_seconds, self._wire, setup.report_seconds, pool)
        self.workers[worker_id] = worker
        return worker

    def _lead(self, leader: Leader) -> None:
        """A scheduler leads from now on: pools and workers answer it, and gateways tell it what is alive."""
        leader.begin()
        self._introduce_all()
        self.gateway.announce()

    def _introduce_all(self) -> None:
        for pool in self.pools.values():
            pool.watch = self.leader.tell
            pool.introduce()
        for worker in self.workers.values():
            self._introduce(worker)
        self.leader.tell(FleetKnown())

    def _introduce(self, worker: Worker) -> None:
        worker.news.watch = self.leader.tell
        self.leader.tell(worker.description())

    def _replace(self, number: int) -> None:
        lives = self._lives[number]
        lives.append(self._worker(number, f"w{number}.{len(lives)}"))
        self._introduce(lives[-1])

    def _perform(self, action: Action) -> None:
        match action:
            case Place():
                self.gateway.on_place(action)
            case Reject():
                self.gateway.on_reject(action)
            case Prefetch():
                self.pools[action.pool_id].prefetch(action)
            case ReleaseProgram():
                for pool_id in action.pool_ids:
                    self.pools[pool_id].release_program(action.program_id)
            case _:
                pass
