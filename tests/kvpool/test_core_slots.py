"""Slots: whatever is taken and given back, places never overlap, and all room comes back."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.kvpool.allocator import Slots

STEPS = st.lists(st.tuples(st.sampled_from([1, 3, 10, 64]), st.integers(-5, 5)), max_size=60)


@given(st.integers(1, 400), st.sampled_from([1, 4]), STEPS)
def test_places_never_overlap_and_all_room_comes_back(capacity: int, align: int, steps: list[tuple[int, int]]) -> None:
    slots = Slots(capacity, align)
    taken: dict[int, int] = {}
    for num_bytes, count in steps:
        if count > 0:
            could = slots.num_free(num_bytes)
            offsets = slots.take(num_bytes, count)
            assert len(offsets) == min(count, could)
            taken.update(dict.fromkeys(offsets, slots.slot_bytes(num_bytes)))
        for offset in sorted(taken)[: max(0, -count)]:
            slots.free(offset)
            del taken[offset]
        assert slots.taken() == taken
        assert slots.used_bytes == sum(taken.values())
        ends = [(offset, offset + taken[offset]) for offset in sorted(taken)]
        assert all(first[1] <= second[0] for first, second in pairwise(ends))
        assert not ends or ends[-1][1] <= capacity
        assert all(offset % align == 0 for offset in taken)
    for offset in taken:
        slots.free(offset)
    assert slots.num_free(capacity // align * align or capacity) == (1 if capacity >= align else 0)


@given(st.lists(st.tuples(st.integers(0, 420), st.sampled_from([0, 1, 7, 64])), max_size=20))
def test_restored_places_are_taken_once_and_the_room_between_them_is_free(blocks: list[tuple[int, int]]) -> None:
    slots = Slots(400)
    accepted = slots.restore(blocks)
    taken = [block for block, ok in zip(blocks, accepted, strict=True) if ok]
    assert slots.taken() == dict(taken)
    assert slots.used_bytes == sum(size for _, size in taken)
    more = slots.take(1, 400)
    covered = {at for offset, size in taken for at in range(offset, offset + size)}
    assert not covered & set(more)
    for offset in [*more, *(offset for offset, _ in taken)]:
        slots.free(offset)
    assert slots.num_free(400) == 1


def test_a_slot_is_given_back_once() -> None:
    slots = Slots(64)
    (offset,) = slots.take(64, 2)
    slots.free(offset)
    with pytest.raises(KeyError):
        slots.free(offset)
