"""The rule by which members outlive the registry's absences, in virtual time."""

from hypothesis import given
from hypothesis import strategies as st

from services.common.registry import Member
from services.common.registry.membership import Membership

GRACE_SECONDS = 5.0
IDS = ("a", "b", "c")
STEPS = st.lists(st.tuples(st.sampled_from(("put", "drop", "absence")), st.sampled_from(IDS), st.floats(0, 10)))


def worker(id: str) -> Member:
    return Member("worker", id, "", {})


def listed(*ids: str) -> dict[str, Member]:
    return {id: worker(id) for id in ids}


def view_of(*ids: str) -> Membership:
    membership = Membership(GRACE_SECONDS)
    membership.reset(listed(*ids), now=0.0)
    return membership


def test_a_deletion_counts_at_once_while_the_registry_is_there():
    membership = view_of("a", "b")
    membership.drop("a", now=1.0)
    assert membership.members.keys() == {"b"}
    assert membership.next_tick() is None


def test_after_an_absence_the_missing_are_kept_for_the_grace_time():
    membership = view_of("a", "b")
    membership.reset(listed("c"), now=10.0)
    membership.drop("c", now=11.0)
    assert membership.members.keys() == {"a", "b", "c"}
    membership.put(worker("b"))
    assert membership.next_tick() == 15.0
    membership.tick(14.9)
    assert membership.members.keys() == {"a", "b", "c"}
    membership.tick(15.0)
    assert membership.members.keys() == {"b"}


def test_a_member_that_came_back_can_leave_at_once_after_the_grace_time():
    membership = view_of("a")
    membership.reset({}, now=10.0)
    membership.put(worker("a"))
    membership.drop("a", now=20.0)
    assert membership.members == {}


def test_another_absence_starts_the_grace_time_again():
    membership = view_of("a")
    membership.reset({}, now=10.0)
    membership.reset({}, now=14.0)
    membership.tick(18.0)
    assert membership.members.keys() == {"a"}
    membership.tick(19.0)
    assert membership.members == {}


@given(STEPS)
def test_nobody_present_is_ever_dropped_and_nobody_gone_is_kept_for_good(steps: list[tuple[str, str, float]]):
    membership, present, now = view_of(), set[str](), 0.0
    for kind, id, seconds in steps:
        now += seconds
        if kind == "put":
            present.add(id)
            membership.put(worker(id))
        elif kind == "drop":
            present.discard(id)
            membership.drop(id, now)
        else:
            present ^= {id}
            membership.reset(listed(*present), now)
        assert membership.members.keys() >= present
        assert membership.next_tick() is not None or membership.members.keys() == present
    membership.tick(now + GRACE_SECONDS)
    assert membership.members.keys() == present
