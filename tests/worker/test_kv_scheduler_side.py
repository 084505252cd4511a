"""The connector where requests are scheduled, asked as vLLM's scheduler asks it; the pool answers at once."""

from concurrent.futures import Future
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from legato.v1 import kv_pb2, kvpool_pb2
from services.common import kv

if TYPE_CHECKING:
    from services.worker.kv.scheduler_side import SchedulerSide

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("ignore")]  # importing torch and vLLM warns

BLOCK_SIZE = 32
NAMESPACE = kv_pb2.KVNamespace(model="m", block_size=BLOCK_SIZE, num_shards=1, shard_bytes=4096)


@dataclass
class Answers:
    """Stands for the client: it has all blocks, or it is `away`."""

    namespace_id: str = "n"
    away: bool = False
    num_asked: int = 0
    released: list[str] = field(default_factory=list[str])

    def attach(self) -> None:
        pass

    def acquire(self, request: kvpool_pb2.AcquireRequest, wait_seconds: float) -> Any:
        self.num_asked += 1
        answer: Future[kvpool_pb2.AcquireResponse | None] = Future()
        num_blocks = len(kv.split(request.block_hashes)) - request.num_held
        found = kvpool_pb2.AcquireResponse(arena_id="a", offsets=range(num_blocks), checksums=range(num_blocks))
        answer.set_result(None if self.away else found)
        return answer

    def release(self, lease: kvpool_pb2.ReleasedLease) -> None:
        self.released.append(lease.lease_id)

    def finish_call(self, user: kv_pb2.KVUser) -> None:
        pass


@dataclass
class Bench:
    """One side, at a time of its own."""

    pool: Answers
    now: float = 0.0

    def side(self) -> "SchedulerSide":
        from services.worker.kv.config import ConnectorConfig
        from services.worker.kv.scheduler_side import SchedulerSide

        scheduler = SimpleNamespace(max_num_batched_tokens=512, max_num_seqs=4)
        config: Any = SimpleNamespace(cache_config=SimpleNamespace(block_size=BLOCK_SIZE), scheduler_config=scheduler)
        settings = ConnectorConfig("", "m", "r", 2.0, 10.0, 5.0, 0.0)
        side = SchedulerSide(config, settings, clock=lambda: self.now)
        side.introduce(NAMESPACE.SerializeToString())
        return side


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    pytest.importorskip("vllm")
    bench = Bench(Answers())

    def shared(address: str, namespace: kv_pb2.KVNamespace) -> Answers:
        return bench.pool

    monkeypatch.setattr("services.worker.kv.client.shared", shared)
    return bench


def request(num_blocks: int) -> Any:
    return SimpleNamespace(
        request_id="a",
        kv_transfer_params={"program_id": "p"},
        num_tokens=num_blocks * BLOCK_SIZE + 1,
        block_hashes=[bytes([i]) * kv.HASH_BYTES for i in range(num_blocks)],
    )


def test_a_call_that_waits_long_for_memory_still_gets_its_kv(bench: Bench) -> None:
    side, call = bench.side(), request(10)
    side.begin(call)
    for second in range(120):
        bench.now = float(second)
        assert side.num_matched_tokens(call, 0) == (10 * BLOCK_SIZE, True)
    assert len(bench.pool.released) == bench.pool.num_asked - 1, "one lease at a time"


def test_a_pool_that_is_away_is_asked_so_often_and_no_more(bench: Bench) -> None:
    side, call = bench.side(), request(10)
    side.begin(call)
    bench.pool.away = True
    for second in range(120):
        bench.now = float(second)
        assert side.num_matched_tokens(call, 0) == (0, False)
    assert bench.pool.num_asked == 3
