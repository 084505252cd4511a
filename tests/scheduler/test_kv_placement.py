"""What pools hold counts in placement: who gets a call, what its plan says, what is fetched and given up."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from services.scheduler.events import PoolAway, PoolJoined, PoolLost, PoolReported, ProgramEnded, ProgramRestored
from services.scheduler.pool_events import Handle, PoolSpeeds, Replica, ReplicaUpdate
from services.scheduler.pools import BlockSeconds, Reach
from services.scheduler.replica_index import Held, ReplicaIndex
from services.scheduler.supply import supply
from tests.scheduler.stage import NAMESPACE, Stage

PREFIX = list(range(1000, 1200))
"""200 blocks, 3,200 tokens: 3.2 s to compute at 1,000 tokens a second, 0.08 s to load, 0.4 s to pull."""


def two_hosts(**settings: int) -> Stage:
    """A worker and a pool on each of the hosts a and b. Computing a block takes 16 ms."""
    stage = Stage(**settings)
    for host in ("a", "b"):
        stage.join(host, seqs=8, blocks=10_000, pool=host, prefill=1000.0, step=0.01)
        stage.pool(host)
    return stage


def test_a_call_goes_to_the_host_whose_pool_has_its_blocks() -> None:
    stage = two_hosts()
    stage.pool("b", dram=PREFIX)
    stage.submit("c1", blocks=[*PREFIX, 1])
    (place,) = stage.placed
    assert (place.worker_id, place.expected_cached_tokens) == ("b", 3200)
    assert place.kv.handle == Handle(NAMESPACE, PREFIX[-1], 200)
    assert place.kv.replica is None
    assert (place.kv.lease_id, stage.prefetches) == ("", []), "they are in memory already"


def test_what_the_engine_has_itself_is_not_brought() -> None:
    stage = two_hosts()
    stage.pool("b", dram=PREFIX)
    stage.cache("b", PREFIX)
    stage.submit("c1", blocks=PREFIX)
    assert stage.placed[0].worker_id == "b"
    assert stage.placed[0].kv.handle is None


def test_blocks_on_disk_are_prefetched_under_a_lease() -> None:
    stage = two_hosts()
    stage.pool("b", dram=PREFIX[:50], ssd=PREFIX[50:])
    stage.submit("c1", blocks=PREFIX)
    (prefetch,) = stage.prefetches
    handle = Handle(NAMESPACE, PREFIX[-1], 200)
    assert (prefetch.pool_id, prefetch.handle, prefetch.replica) == ("b", handle, None)
    assert stage.placed[0].kv.lease_id == prefetch.lease_id != ""


def test_blocks_on_disk_that_the_engine_has_are_not_prefetched() -> None:
    stage = two_hosts()
    stage.pool("b", dram=PREFIX[50:], ssd=PREFIX[:50])
    stage.cache("b", PREFIX[:50])
    stage.submit("c1", blocks=PREFIX)
    assert stage.placed[0].kv.handle == Handle(NAMESPACE, PREFIX[-1], 200)
    assert stage.prefetches == []


def test_a_busy_host_gives_its_blocks_to_another() -> None:
    stage = two_hosts()
    stage.pool("b", dram=PREFIX)
    stage.submit("other", prompt=32)  # goes to a
    stage.submit("busy", prompt=4000)
    stage.submit("c1", blocks=PREFIX)
    place = stage.placed[-1]
    replica = Replica("b", "data:b", 200, on_ssd=False)
    assert (place.worker_id, place.kv.replica) == ("a", replica)
    (prefetch,) = stage.prefetches
    assert (prefetch.pool_id, prefetch.replica) == ("a", replica)


def test_blocks_that_are_slower_to_bring_than_to_compute_are_computed() -> None:
    stage = two_hosts()
    stage.pool("b", dram=PREFIX)
    for host in ("a", "b"):
        stage.feed(PoolReported(host, speeds=PoolSpeeds(load=1e6, ssd_read=1e6, pull=1e6)))
    stage.submit("c1", blocks=PREFIX)
    assert stage.placed[0].expected_cached_tokens == 0
    assert stage.placed[0].kv.handle is None


def test_a_pool_that_is_away_brings_nothing_until_it_answers_again() -> None:
    stage = two_hosts()
    stage.pool("b", dram=PREFIX)
    stage.feed(PoolAway("b"))
    stage.submit("c1", blocks=PREFIX)
    assert (stage.placed[-1].kv.handle, stage.placed[-1].expected_cached_tokens) == (None, 0)
    stage.feed(PoolJoined("b", "data:b", 10**12))
    stage.submit("c2", blocks=PREFIX)
    assert (stage.placed[-1].worker_id, stage.placed[-1].expected_cached_tokens) == ("b", 3200)
    stage.feed(PoolReported("b", reset=True))
    for call_id in ("c1", "c2"):  # else their engines have it
        stage.finish(call_id)
    stage.submit("c3", blocks=PREFIX)
    assert stage.placed[-1].expected_cached_tokens == 0


def test_a_lost_pool_is_forgotten() -> None:
    stage = two_hosts()
    stage.pool("b", dram=PREFIX)
    stage.feed(PoolLost("b"))
    stage.feed(PoolReported("b", [ReplicaUpdate(NAMESPACE, PREFIX)]))
    stage.feed(PoolJoined("b", "data:b", 10**12))
    stage.submit("c1", blocks=PREFIX)
    assert stage.placed[0].expected_cached_tokens == 0


def test_a_program_stays_at_its_pool_when_the_engine_lost_its_cache() -> None:
    stage = two_hosts()
    for host in ("a", "b"):
        stage.cache(host, PREFIX[:100])  # a prefix that everyone has
    stage.pool("b", dram=PREFIX)
    for i in range(5):
        stage.submit(f"c{i}", blocks=PREFIX)
        stage.finish(f"c{i}")
    assert {place.worker_id for place in stage.placed} == {"b"}


def test_pools_are_told_when_a_program_ends() -> None:
    stage = two_hosts()
    stage.pool("b", dram=PREFIX)
    stage.submit("c1", blocks=PREFIX)
    stage.feed(ProgramEnded("p"))
    assert stage.released == []
    stage.finish("c1")
    assert stage.released == [("p", ["b"])]


def test_all_pools_are_told_when_a_program_of_an_earlier_scheduler_ends() -> None:
    stage = two_hosts()
    stage.feed(ProgramRestored("p", "", 0.0))
    stage.feed(ProgramEnded("p"))
    assert stage.released == [("p", ["a", "b"])]


def test_a_program_that_moved_is_given_up_where_it_came_from() -> None:
    stage = two_hosts()
    stage.pool("a", dram=PREFIX)
    stage.submit("c0", blocks=PREFIX)
    stage.finish("c0")
    stage.pool("a", removed=PREFIX)
    stage.pool("b", dram=PREFIX)
    for i in range(1, 9):
        assert stage.released == []
        stage.submit(f"c{i}", blocks=PREFIX)
        stage.finish(f"c{i}")
    assert [place.worker_id for place in stage.placed] == ["a", *["b"] * 8]
    assert stage.released == [("p", ["a"])]
    stage.feed(ProgramEnded("p"))
    assert stage.released[1:] == [("p", ["b"])]


def test_nothing_is_kept_for_what_an_ending_program_had() -> None:
    stage = two_hosts()
    stage.submit("c1")
    stage.feed(ProgramEnded("p"))
    stage.submit("c2")
    assert [place.kv.retain_seconds for place in stage.placed] == [None, 0.0]


class Whole:
    """The cheapest supply, by looking at every length."""

    def __init__(self, cached: int, own: Held, other: Held, seconds: BlockSeconds) -> None:
        latency = supply(0, "own", BlockSeconds(1e9, 0, 0, 0, 0), Reach({"x": Held(1, 1)}, "x", "")).seconds

        def bringing(length: int) -> float:
            total = 0.0
            for i in range(cached, length):
                if i < own.total:
                    total += seconds.load if i < own.dram else seconds.ssd
                else:
                    first = i == max(cached, own.total) or i == max(cached, own.total, other.dram)
                    total += (seconds.pull if i < other.dram else seconds.pull_ssd) + latency * first
            return total

        longest = max(cached, own.total, other.total)
        self.cost = min(bringing(n) + (longest - n) * seconds.compute for n in range(cached, longest + 1))
        self.longest = longest


HELD = st.tuples(st.integers(0, 6), st.integers(0, 6)).map(lambda pair: Held(min(pair), max(pair)))
SECONDS = st.floats(0.001, 1.0)


@given(
    cached=st.integers(0, 6),
    own=HELD,
    other=HELD,
    seconds=st.builds(BlockSeconds, SECONDS, SECONDS, SECONDS, SECONDS, SECONDS),
)
def test_supply_is_the_cheapest_of_all_lengths(cached: int, own: Held, other: Held, seconds: BlockSeconds) -> None:
    held = {name: blocks for name, blocks in (("own", own), ("other", other)) if blocks.total}
    names = sorted(held, key=lambda name: -held[name].total)
    reach = Reach(held, names[0], names[1] if len(names) > 1 else "") if names else None
    chosen = supply(cached, "own", seconds, reach)
    best = Whole(cached, own, other, seconds)
    assert cached <= chosen.blocks <= best.longest
    cost = chosen.seconds + (best.longest - chosen.blocks) * seconds.compute
    assert cost <= best.cost + 1e-9


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=5), st.integers(1, 30))
def test_held_prefixes_are_those_of_a_plain_walk(pools: Sequence[tuple[int, int]], length: int) -> None:
    index = ReplicaIndex()
    for i, (dram, total) in enumerate(pools):
        index.join(f"h{i}", 10**9)
        index.update(f"h{i}", ReplicaUpdate(NAMESPACE, range(min(dram, total)), range(min(dram, total), total)))
    expected = {
        f"h{i}": Held(min(dram, total, length), min(total, length)) for i, (dram, total) in enumerate(pools) if total
    }
    assert index.match(NAMESPACE, range(length), [f"h{i}" for i in range(len(pools))]) == expected


def test_blocks_move_between_tiers_and_go() -> None:
    index = ReplicaIndex()
    index.join("h", 10**9)
    index.update("h", ReplicaUpdate(NAMESPACE, dram=range(10)))
    index.update("h", ReplicaUpdate(NAMESPACE, ssd=range(5, 10)))
    assert index.match(NAMESPACE, range(10), ["h"]) == {"h": Held(5, 10)}
    assert index.num_in_dram("h", NAMESPACE, range(3, 8)) == 2
    index.update("h", ReplicaUpdate(NAMESPACE, dram=[5], removed=range(6, 10)))
    assert index.match(NAMESPACE, range(10), ["h"]) == {"h": Held(6, 6)}
    assert index.match("another", range(10), ["h"]) == {}


def test_a_pool_that_claims_more_than_it_can_hold_is_not_believed() -> None:
    index = ReplicaIndex()
    index.join("h", 10 * 1024)
    index.update("h", ReplicaUpdate(NAMESPACE, dram=range(10)))
    index.update("h", ReplicaUpdate(NAMESPACE, dram=range(10, 20)))
    assert index.num_blocks("h") == 10


def test_calls_that_come_together_each_get_a_plan_for_what_the_pool_has() -> None:
    """The second one's blocks are about to be in the engine; they are not there yet, and the first may never run."""
    stage = two_hosts()
    stage.pool("b", dram=PREFIX)
    for call_id in ("c1", "c2"):
        stage.submit(call_id, call_id, blocks=PREFIX)
    assert [place.kv.handle for place in stage.placed] == [Handle(NAMESPACE, PREFIX[-1], len(PREFIX))] * 2
