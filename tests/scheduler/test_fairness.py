"""Tags of fairness.py against the bounds that they promise."""

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.forecast import Forecast
from services.common.laws import Point
from services.scheduler.events import CallSubmitted
from services.scheduler.fairness import Flow, StartTags, Tag, Turns, VirtualFinish
from services.scheduler.tenants import Tenants
from tests.scheduler.stage import MODEL, Stage


@dataclass
class Client:
    """A tenant with calls of these costs, all waiting from the start."""

    weight: float
    costs: list[float]
    flow: Flow = field(default_factory=Flow)
    waiting: list[tuple[Tag, float]] = field(default_factory=list[tuple[Tag, float]])
    served: float = 0.0


clients = st.lists(
    st.tuples(st.floats(0.5, 4.0), st.lists(st.floats(0.1, 10.0), min_size=3, max_size=40)), min_size=2, max_size=5
)


def drain(drawn: list[tuple[float, list[float]]], error: float, seed: int) -> tuple[float, float]:
    """Serve all by their tags; the greatest difference of normalised service of two clients over any interval in which
    both had calls waiting, less the promised bound; and the most calls that a client had waiting. Calls turn out to
    cost up to `error` times more or less than they were taken to."""
    rng = random.Random(seed)
    tags = StartTags()
    flows = [Client(weight, costs) for weight, costs in drawn]
    for client in flows:
        for cost in client.costs:
            told = cost * rng.uniform(1.0 - error, 1.0 + error)
            client.waiting.append((tags.tag(client.flow, told, client.weight), cost))
    history: list[list[float]] = []
    while all(client.waiting for client in flows):
        history.append([client.served / client.weight for client in flows])
        chosen = min(flows, key=lambda client: client.waiting[0][0].start)
        tag, cost = chosen.waiting.pop(0)
        tags.placed(tag)
        tags.settle(chosen.flow, tag, cost)
        chosen.served += cost
    worst = 0.0
    for one in range(len(flows)):
        for other in range(one):
            bound = max(flows[one].costs) / flows[one].weight + max(flows[other].costs) / flows[other].weight
            lags = [state[one] - state[other] for state in history]
            worst = max(worst, max(lags) - min(lags) - bound)
    return worst, max(len(client.costs) for client in flows)


@settings(max_examples=80)
@given(clients, st.integers(0, 1000))
def test_two_that_wait_differ_by_one_call_of_each_at_most(drawn: list[tuple[float, list[float]]], seed: int) -> None:
    worst, _ = drain(drawn, 0.0, seed)
    assert worst <= 1e-6


@settings(max_examples=40)
@given(clients, st.integers(0, 1000))
def test_wrong_costs_widen_the_bound_by_what_is_wrong_with_the_calls_that_wait(
    drawn: list[tuple[float, list[float]]], seed: int
) -> None:
    error = 0.5
    worst, num_waiting = drain(drawn, error, seed)
    lightest = min(weight for weight, _ in drawn)
    costliest = max(cost for _, costs in drawn for cost in costs)
    assert worst <= 2 * (num_waiting + 1) * error * costliest / lightest + 1e-6


def test_who_comes_back_has_saved_nothing() -> None:
    tags, busy, idle = StartTags(), Flow(), Flow()
    for _ in range(100):
        tags.placed(tags.tag(busy, 1.0, 1.0))
    assert tags.tag(idle, 1.0, 1.0).start == pytest.approx(99.0)


def test_a_call_that_never_ran_costs_nothing() -> None:
    tags, flow = StartTags(), Flow()
    tags.settle(flow, tags.tag(flow, 50.0, 1.0), 0.0)
    assert tags.tag(flow, 1.0, 1.0).start == 0.0


@settings(max_examples=80)
@given(
    st.lists(
        st.tuples(st.floats(0.0, 40.0), st.lists(st.floats(0.1, 4.0), min_size=1, max_size=8)),
        min_size=1,
        max_size=8,
    )
)
def test_a_program_ends_little_after_it_would_have_ended_in_the_fluid_system(
    drawn: list[tuple[float, list[float]]],
) -> None:
    """(arrival, costs of calls) on a server of rate 1 that runs calls whole, in the order of virtual finish: lag at
    most 2 c_max + C_max / M."""
    drawn = sorted(drawn)
    virtual = VirtualFinish()
    now, arrived = 0.0, 0
    finish: dict[int, float] = {}
    left: dict[int, list[float]] = {}
    ended: dict[int, float] = {}
    while len(ended) < len(drawn):
        while arrived < len(drawn) and (drawn[arrived][0] <= now or not left):
            now = max(now, drawn[arrived][0])
            finish[arrived] = virtual.enter(sum(drawn[arrived][1]), 1.0)
            left[arrived] = list(drawn[arrived][1])
            arrived += 1
        chosen = min(left, key=lambda number: (finish[number], number))
        cost = left[chosen].pop(0)
        now += cost
        virtual.serve(cost)
        if not left[chosen]:
            del left[chosen]
            ended[chosen] = now
    fluid = shared(drawn)
    bound = 2 * max(cost for _, costs in drawn for cost in costs) + max(sum(costs) for _, costs in drawn)
    for number, end in ended.items():
        assert end <= fluid[number] + bound + 1e-6


def shared(drawn: list[tuple[float, list[float]]]) -> list[float]:
    """When programs end if a server of rate 1 is shared equally by all that are there."""
    left = {number: sum(costs) for number, (_, costs) in enumerate(drawn)}
    ends = [0.0] * len(drawn)
    now = 0.0
    while left:
        here = [number for number in left if drawn[number][0] <= now + 1e-12]
        coming = min((drawn[number][0] for number in left if number not in here), default=float("inf"))
        if not here:
            now = coming
            continue
        step = min(min(left[number] for number in here) * len(here), coming - now)
        now += step
        for number in here:
            left[number] -= step / len(here)
            if left[number] <= 1e-12:
                del left[number]
                ends[number] = now
    return ends


def test_what_is_served_moves_the_fluid_system_and_not_the_clock() -> None:
    virtual = VirtualFinish()
    assert virtual.enter(10.0, 1.0) == 10.0
    assert virtual.enter(4.0, 2.0) == 2.0
    virtual.serve(6.0)  # three shares: the second has its 4 at 2, the first 2
    assert virtual.enter(1.0, 1.0) == pytest.approx(3.0)
    virtual.serve(100.0)
    assert virtual.enter(1.0, 1.0) == pytest.approx(11.0)


def test_tenants_get_engines_by_their_weights() -> None:
    """One that submits much more does not get more; one of weight 3 gets three times as much."""
    stage = Stage(runs_seconds=1.0, ordering="vtc", admission="open", lookahead_calls=0, tenant_weights={"big": 3.0})
    stage.join(seqs=1)
    for number in range(90):
        stage.submit(f"flood{number}", f"f{number}", tenant="flood")
    for number in range(30):
        stage.submit(f"small{number}", f"s{number}", tenant="small")
        stage.submit(f"big{number}", f"b{number}", tenant="big")
    stage.run(40.0)
    first = stage.order[1:41]  # the flood was alone when the first was placed
    counts = {name: sum(call_id.startswith(name) for call_id in first) for name in ("flood", "small", "big")}
    assert counts["big"] == pytest.approx(24, abs=2)
    assert counts["small"] == pytest.approx(8, abs=2)
    assert counts["flood"] == pytest.approx(8, abs=2)


def test_accounts_of_tenants_without_calls_are_dropped_when_there_are_too_many() -> None:
    tenants = Tenants({}, most=3)
    busy = tenants.get("busy")
    busy.num_live = 1
    for number in range(10):
        tenants.get(f"t{number}")
    assert len(tenants) == 3
    assert tenants.get("busy") is busy


@given(st.lists(st.floats(0.1, 10.0), min_size=1, max_size=30))
def test_the_turns_of_one_tenant_are_first_come_first_served(costs: list[float]) -> None:
    turns, flow = Turns(), Flow()
    expected = [sum(costs[:place]) for place in range(len(costs))]
    assert [turns.enter(flow, cost, 1.0) for cost in costs] == pytest.approx(expected)
    now = 0.0
    for cost, turn in zip(costs, expected, strict=True):  # a server of rate 1
        assert turns.comes_at(turn) <= now + 1e-6
        now += cost
        turns.leave(flow, cost, cost, 1.0, now)


def test_turns_are_shared_by_weight_and_come_at_the_pace_of_service() -> None:
    turns, light, heavy = Turns(), Flow(), Flow()
    first = [turns.enter(light, 10.0, 1.0) for _ in range(20)]
    second = [turns.enter(heavy, 10.0, 3.0) for _ in range(20)]
    assert first[3] == pytest.approx(second[9])  # three times as many
    now = 0.0
    for _ in range(10):
        now += 10.0
        turns.leave(heavy, 10.0, 10.0, 3.0, now)
    # 100 s of service over a weight of 4: the turn at 30 is 5 ahead, 20 s at this pace (counted over a minute).
    assert turns.comes_at(30.0) - now == pytest.approx(20.0, rel=0.25)


@pytest.mark.parametrize("lag", [0.0, 1.0])
def test_a_tenant_whose_programs_are_long_is_not_put_off_beyond_the_lag(lag: float) -> None:
    """One tenant floods with programs that are nearly done; another waits with one call of a long one."""
    params = {"patience": 1e6, "lag": lag}
    stage = Stage(runs_seconds=1.0, ordering="gittins", admission="open", ordering_params=params, lookahead_calls=0)
    stage.join(seqs=1)
    for number in range(200):
        name, tenant, left = ("long", "quiet", 1e4) if number == 20 else (f"short{number}", "flood", 0.5)
        forecast = Forecast(service=Point(1.0), remaining=Point(left))
        stage.feed(CallSubmitted(1, name, name, MODEL, 16, 16, tenant, forecast=forecast))
    stage.run(250.0)
    position = stage.order.index("long")
    if lag:
        # It shares equally with the flood from then on: its turn is at once, and a typical wait is at least 10 s.
        assert 5 <= position <= 80
    else:
        assert position == 199
