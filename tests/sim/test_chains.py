"""Names of blocks: equal exactly where the text up to a block's end is."""

from hypothesis import given
from hypothesis import strategies as st

from sim.chains import Chains
from sim.trace import Segment

SEGMENTS = [Segment(name, tokens) for name, tokens in (("a", 15), ("b", 15), ("c", 9), ("d", 1), ("e", 40))]
TEXTS = st.lists(st.integers(0, len(SEGMENTS) - 1), max_size=8).map(tuple)


def _spelled(pieces: tuple[int, ...]) -> list[str]:
    """Token by token."""
    return [f"{SEGMENTS[index].hash}{at}" for index in pieces for at in range(SEGMENTS[index].tokens)]


@given(TEXTS, TEXTS, st.integers(1, 20))
def test_names_are_equal_exactly_when_all_before_them_is(
    one: tuple[int, ...], other: tuple[int, ...], size: int
) -> None:
    chains = Chains(SEGMENTS, size)
    first, second = chains.chain(one), chains.chain(other)
    assert len(first.blocks) == len(_spelled(one)) // size
    for number, (mine, theirs) in enumerate(zip(first.blocks, second.blocks, strict=False), 1):
        assert (mine == theirs) == (_spelled(one)[: number * size] == _spelled(other)[: number * size])


@given(TEXTS, TEXTS, st.integers(1, 20))
def test_going_on_from_another_text_changes_nothing(one: tuple[int, ...], other: tuple[int, ...], size: int) -> None:
    chains = Chains(SEGMENTS, size)
    assert chains.chain(other, chains.chain(one)) == chains.chain(other)


def test_names_are_the_same_in_every_program_and_process() -> None:
    text = Chains([Segment("system", 64), Segment("task", 64)], 32).chain((0, 1))
    moved = Chains([Segment("task", 64), Segment("other", 7), Segment("system", 64)], 32).chain((2, 0))
    assert text.blocks == moved.blocks
    assert text.blocks[0] == 4051326608408853872
