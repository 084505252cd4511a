"""Placements by name: each through the core, and those of papers against the papers' formulas."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import Reason
from services.common.laws import Point
from services.scheduler import placement
from services.scheduler.config import SchedulerSection
from services.scheduler.events import CallSubmitted
from services.scheduler.expected import Expected
from services.scheduler.outlook import Outlook
from services.scheduler.placement import hexgen, kairos, mooncake, mooncake_local
from services.scheduler.pools import PULL_LATENCY_SECONDS, BlockSeconds, Pools, Reach
from services.scheduler.prospects import Way
from services.scheduler.records import Call, Program
from services.scheduler.replica_index import Held
from services.scheduler.supply import Supply
from tests.scheduler.stage import Stage

PREFIX = list(range(1000, 1200))
"""3,200 tokens."""


def stage_of(name: str, workers: str = "abc", seqs: int = 4, params: Mapping[str, float] | None = None) -> Stage:
    stage = Stage(lookahead_calls=0, placement=name, placement_params=dict(params or {}))
    for worker_id in workers:
        stage.join(worker_id, seqs=seqs, prefill=1000.0, step=0.01)
    return stage


def where(stage: Stage, *call_ids: str) -> list[str]:
    """The workers of these calls."""
    return [place.worker_id for place in stage.placed if place.call_id in call_ids]


@pytest.mark.parametrize("name", placement.names())
@pytest.mark.parametrize("num_workers", [3, 40])
def test_every_call_is_placed_under_every_placement(name: str, num_workers: int) -> None:
    stage = Stage(runs_seconds=1.0, placement=name)
    for i in range(num_workers):
        stage.join(f"w{i}", seqs=2)
    for i in range(6 * num_workers):
        stage.submit(f"c{i}", f"p{i % (num_workers + 1)}", blocks=range(100 * (i % 7), 100 * (i % 7) + 150))
    stage.run(1000.0)
    assert sorted(stage.order) == sorted(f"c{i}" for i in range(6 * num_workers))
    assert not len(stage.core.queue)


@pytest.mark.parametrize("name", ["saga", "earliest", "hexgen", "kairos", "mooncake"])
def test_bad_settings_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        SchedulerSection(placement=name, placement_params={"colour": 1.0})


def test_sticky_programs_wait_for_their_worker() -> None:
    stage = stage_of("session_affinity", seqs=1)
    stage.submit("c1", "p")
    (home,) = where(stage, "c1")
    stage.submit("c2", "q")
    stage.submit("c3", "p")
    assert stage.order == ["c1", "c2"], "one worker is empty"
    stage.finish("c1", "p")
    assert where(stage, "c3") == [home]
    assert where(stage, "c2") != [home]


def test_a_sticky_program_whose_worker_is_gone_finds_another() -> None:
    stage = stage_of("session_affinity", "ab", seqs=1)
    stage.submit("c1", "p")
    (home,) = where(stage, "c1")
    stage.submit("c2", "p")
    stage.lose_worker(home)
    assert stage.core.queue.of_tenant("") == 1
    (other,) = {"a", "b"} - {home}
    stage.finish("c1", "p")
    assert where(stage, "c2") == [other]


def test_least_loaded_goes_by_batches_and_not_by_caches() -> None:
    stage = stage_of("least_loaded", "ab")
    stage.cache("a", PREFIX)
    for i in range(4):
        stage.submit(f"c{i}", blocks=PREFIX)
    assert Counter(place.worker_id for place in stage.placed) == {"a": 2, "b": 2}


def test_round_robin_takes_turns() -> None:
    stage = stage_of("round_robin")
    for i in range(7):
        stage.submit(f"c{i}", blocks=PREFIX)
    assert [place.worker_id for place in stage.placed] == list("abcabca")


def test_random_draws_are_those_of_the_seed_and_reach_everyone() -> None:
    def draws(seed: float) -> list[str]:
        stage = stage_of("random", seqs=100, params={"seed": seed})
        for i in range(60):
            stage.submit(f"c{i}")
        return [place.worker_id for place in stage.placed]

    assert draws(1) == draws(1)
    assert draws(1) != draws(2)
    assert min(Counter(draws(1)).values()) >= 10


def test_autellix_sends_short_prompts_to_the_least_used_and_pins_long_ones() -> None:
    stage = stage_of("autellix", "ab", seqs=8)
    stage.submit("long1", "p", prompt=2049)
    (home,) = where(stage, "long1")
    for i in range(3):
        stage.submit(f"q{i}", "q", prompt=16)
    stage.submit("long2", "p", prompt=2049)
    stage.submit("short", "p", prompt=2048)
    (other,) = {"a", "b"} - {home}
    assert where(stage, "long2") == [home], "though other calls make it as full"
    assert where(stage, "short") == [other] if where(stage, "q0", "q1", "q2").count(home) else [home]
    worker = stage.core.fleet.get(home)
    assert worker is not None
    assert len(worker.placed) >= 2


@pytest.mark.parametrize(("busy", "stays"), [(3, True), (4, False)])
def test_a_saga_session_leaves_its_worker_at_theta(busy: int, stays: bool) -> None:
    """5 seats: 3 calls are a load of 0.6, 4 of 0.8, which is theta."""
    stage = stage_of("saga", "ab", seqs=5)
    stage.submit("c1", "p")
    (home,) = where(stage, "c1")
    for i in range(busy - 1):
        stage.submit(f"busy{i}", "busy", attempt=1, worker_id=home)
    stage.submit("c2", "p")
    assert (where(stage, "c2") == [home]) is stays


def test_a_saga_worker_steals_after_a_while_from_a_victim_above_twice_the_mean() -> None:
    stage = stage_of("saga", seqs=1, params={"theta": 100.0})
    stage.submit("c1", "p")
    (home,) = where(stage, "c1")
    for i in range(4):
        stage.submit(f"held{i}", "p")
    assert stage.order == ["c1"], "its load is three times the mean, but nobody has been idle for long"
    stage.run(0.05)
    stage.submit("c2", "q")
    assert stage.order == ["c1", "c2"]
    stage.run(0.1)
    stage.finish("c2", "q")
    assert len(where(stage, "held0")) == 1
    assert where(stage, "held0") != [home]


def test_no_saga_worker_steals_from_one_with_less_than_twice_the_mean() -> None:
    stage = stage_of("saga", "ab", seqs=2, params={"theta": 100.0})
    for i in range(3):
        stage.submit(f"p{i}", "p")
    stage.run(1.0)
    stage.submit("q0", "q")
    stage.finish("q0", "q")
    (home,) = set(where(stage, "p0", "p1"))
    assert where(stage, "p2") == [], "the mean is 0.75, the victim has 1.5"
    stage.finish("p0", "p")
    assert where(stage, "p2") == [home]


def call_of(prompt_tokens: int, output: float = 64.0, program_id: str = "p") -> Call:
    event = CallSubmitted(
        1, program_id, f"c{prompt_tokens}", "m", prompt_tokens, 0, block_hashes=range(prompt_tokens // 16)
    )
    call = Call(event, Program(program_id, "", 0.0, 0.0), 0.0)
    call.expected_output = output
    return call


class Priced(Outlook):
    """An outlook with given prices for blocks."""

    __slots__ = ("prices",)

    @property
    def block_seconds(self) -> BlockSeconds | None:
        return self.prices


def outlook_of(seconds: BlockSeconds | None = None, **sizes: Any) -> Priced:
    stage = Stage()
    stage.join("w", pool="own", **sizes)
    worker = stage.core.fleet.get("w")
    assert worker is not None
    outlook = Priced(worker, 0, stage.core.limits, Pools(stage.core.limits), stage.core.residents.overflow_blocks)
    outlook.prices = seconds
    return outlook


SECONDS = BlockSeconds(compute=0.016, load=0.001, ssd=0.004, pull=0.002, pull_ssd=0.005)
HELD = (
    st.integers(0, 60).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))).map(lambda x: Held(*x))
)


@given(cached=st.integers(0, 60), own=HELD, other=HELD, threshold=st.floats(1.0, 4.0))
def test_mooncake_fetches_where_the_best_prefix_is_much_longer_than_its_own(
    cached: int, own: Held, other: Held, threshold: float
) -> None:
    """Algorithm 1, line by line, on blocks."""
    held = {name: blocks for name, blocks in (("own", own), ("other", other)) if blocks.total}
    names = sorted(held, key=lambda name: -held[name].total)
    reach = Reach(held, names[0], names[1] if len(names) > 1 else "") if names else None
    outlook = outlook_of(SECONDS)
    chosen = mooncake.Policy(threshold).supply(call_of(1600), outlook, cached, reach)
    own_len = max(cached, own.total)
    best_len = max(own_len, other.total)
    if best_len > threshold * own_len:
        assert chosen.blocks == best_len
        assert chosen.seconds >= PULL_LATENCY_SECONDS + (best_len - own_len) * SECONDS.pull - 1e-9
    else:
        assert chosen.blocks == own_len
        assert chosen.seconds <= (own_len - cached) * SECONDS.ssd + 1e-9
    local = mooncake_local.Policy().supply(call_of(1600), outlook, cached, reach)
    assert local.blocks == own_len


def way_of(
    outlook: Outlook, decode: float = 0.0, *, ahead: float = 0.0, prefill: float = 0.0, transfer: float = 0.0
) -> Way:
    return Way(0.0, outlook, Supply(0, 0, transfer), ahead, prefill, decode, 64.0, hand_off=False)


def test_mooncake_takes_the_least_time_to_the_first_token() -> None:
    way = way_of(outlook_of(), 50.0, ahead=1.0, prefill=2.0, transfer=0.5)
    assert mooncake.Policy().cost(call_of(160), way, 0.0) == 3.5


def test_mooncake_refuses_what_would_be_too_late() -> None:
    stage = stage_of("mooncake", "a", params={"ttft_slo_seconds": 2.0})
    stage.submit("long", blocks=PREFIX)
    stage.submit("short", prompt=160)
    assert [(reject.call_id, reject.reason) for reject in stage.rejected] == [("long", Reason.QUEUE_FULL)]
    assert stage.order == ["short"]


def test_mooncakes_order_of_schedulers_is_that_of_their_knowledge() -> None:
    """Two hosts, one with the prefix in its pool and a queue: local computes anew or waits, global fetches."""
    tokens: dict[str, int] = {}
    for name in ("mooncake", "mooncake_local"):
        stage = Stage(placement=name)
        for host in "ab":
            stage.join(host, seqs=8, blocks=10_000, pool=host, prefill=1000.0, step=0.01)
            stage.pool(host)
        stage.pool("b", dram=PREFIX)
        for i in range(3):
            stage.submit(f"busy{i}", prompt=3000, attempt=1, worker_id="b")
            stage.core.fleet.get("b")
        stage.submit("c", prompt=4000, blocks=PREFIX)
        stage.submit("d", prompt=4000, blocks=PREFIX)
        tokens[name] = sum(place.expected_cached_tokens for place in stage.placed)
    assert tokens["mooncake"] >= tokens["mooncake_local"]


def test_kairos_sums_ramps_at_each_slot() -> None:
    """One call that ends at 5 s and one that runs for 10 s: the peak is just before an end."""
    outlook = outlook_of(blocks=1000)
    running = call_of(1000, output=500.0)
    running.placed_at, running.expected_end, running.kv_blocks = 0.0, 5.0, 1
    outlook.worker.place(running)
    way = way_of(outlook, 10.0)
    new = call_of(2000, output=100.0)
    policy = kairos.Policy(slots=10)
    at_5 = (1000 + 500) + (2000 + 50)
    assert policy.peak_tokens(new, way, 0.0) == pytest.approx(at_5)  # pyright: ignore[reportUnknownMemberType] (pytest's stub)
    assert policy.cost(new, way, 0.0) == pytest.approx(at_5 / 16_000)  # pyright: ignore[reportUnknownMemberType] (pytest's stub)


def test_kairos_prefers_any_worker_below_capacity_to_one_above() -> None:
    small, large = outlook_of(blocks=100), outlook_of(blocks=1000)
    policy, call = kairos.Policy(), call_of(2000)
    costs = [policy.cost(call, way_of(outlook, 1.0), 0.0) for outlook in (small, large)]
    assert costs[1] < 1.0 < 1e6 < costs[0]


@given(alpha=st.floats(0, 1), base=st.floats(0.1, 20), taken=st.floats(0.1, 20), left=st.floats(0, 60))
def test_hexgen_is_its_formula(alpha: float, base: float, taken: float, left: float) -> None:
    outlook = outlook_of(seqs=4)
    running = call_of(160)
    running.placed_at, running.expected_end = 0.0, left
    outlook.worker.place(running)
    call = call_of(320)
    call.expected = Expected(base, Point(base), 0.0, Point(base), Point(0.0), Point(64.0))
    score = alpha * base / taken - (1 - alpha) * left / (4 * base)
    cost = hexgen.Policy(alpha).cost(call, way_of(outlook, taken), 0.0)
    assert -cost == pytest.approx(score, rel=1e-6, abs=1e-9)  # pyright: ignore[reportUnknownMemberType] (pytest's stub)
