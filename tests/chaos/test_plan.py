"""A plan follows from its seed, and does not ask for more than can be done."""

from hypothesis import given, settings
from hypothesis import strategies as st

from bench.chaos import faults, plan

SECONDS = 300.0


def planned(seed: int, targets: str = "") -> list[plan.Planned]:
    return plan.draw(seed, SECONDS, faults.names(), targets=targets)


@settings(deadline=None)
@given(st.integers(0, 10_000))
def test_a_seed_gives_the_same_plan_again(seed: int) -> None:
    assert [str(one) for one in planned(seed)] == [str(one) for one in planned(seed)]


def test_another_seed_gives_another_plan() -> None:
    assert [str(one) for one in planned(1)] != [str(one) for one in planned(2)]


@settings(deadline=None)
@given(st.integers(0, 10_000))
def test_nothing_is_befallen_by_two_faults_at_once_and_all_are_healed_in_the_end(seed: int) -> None:
    until: dict[str, float] = {}
    for one in planned(seed):
        for target in one.targets:
            assert one.at >= until.get(target, 0.0)
            until[target] = one.until
        assert one.until <= SECONDS


def test_every_kind_befalls_all_that_it_can() -> None:
    seen = {(one.kind, one.fault.target) for seed in range(200) for one in planned(seed)}
    assert seen == {(name, target) for name in faults.names() for target in faults.load(name).targets()}


def test_a_plan_can_be_for_some_alone() -> None:
    assert {one.fault.target for one in planned(1, "gateway")} == {"gateway-1", "gateway-2"}
