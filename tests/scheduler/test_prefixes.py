"""Prefixes against sets of blocks: what is shared counts once, and falls to somebody when who pays for it leaves."""

from hypothesis import given
from hypothesis import strategies as st

from services.scheduler.prefixes import Prefixes, depth, marks_of

LENGTHS = st.integers(0, 90)
BRANCHES = st.integers(0, 2)
STEPS = st.lists(st.tuples(st.integers(0, 5), LENGTHS, BRANCHES, LENGTHS, BRANCHES), max_size=40)


def prompt(stem: int, branch: int, more: int, twig: int) -> list[int]:
    """Names of a chain's blocks: each tells all that went before it."""
    parts = [*["stem"] * stem, *[f"branch {branch}"] * (more // 2), *[f"twig {branch} {twig}"] * (more - more // 2)]
    return [hash((i, tuple(parts[: i + 1]))) for i in range(len(parts))]


@given(STEPS)
def test_every_block_counts_once_and_somebody_pays_for_it(steps: list[tuple[int, int, int, int, int]]) -> None:
    prefixes = Prefixes[int]()
    users: dict[int, tuple[int, ...]] = {}
    pays: dict[int, int] = {}
    for user, stem, branch, more, twig in steps:
        if user in users:
            for heir, blocks in prefixes.leave(user, users.pop(user)):
                pays[heir] += blocks
            del pays[user]
        else:
            marks = marks_of(prompt(stem, branch, more, twig))
            shared = prefixes.common(marks)
            assert prefixes.enter(user, marks) == shared
            users[user], pays[user] = marks, depth(len(marks)) - shared
        marked = {(i, mark) for marks in users.values() for i, mark in enumerate(marks)}
        assert prefixes.blocks == sum(depth(i + 1) - depth(i) for i, _ in marked) == sum(pays.values())
        assert all(0 <= blocks <= depth(len(users[payer])) for payer, blocks in pays.items())


@given(LENGTHS, LENGTHS)
def test_what_two_prompts_share_is_known_to_a_sixteenth(common: int, more: int) -> None:
    stem = range(16 * common)
    prefixes = Prefixes[str]()
    prefixes.enter("a", marks_of([*stem, *range(10_000, 10_000 + more)]))
    shared = prefixes.common(marks_of([*stem, *range(20_000, 20_000 + more)]))
    assert len(stem) * 15 / 16 <= shared <= len(stem)


def test_nothing_is_left_when_all_have_left() -> None:
    prefixes = Prefixes[int]()
    prompts = {user: marks_of(prompt(40, user % 3, 60, user % 2)) for user in range(20)}
    for user, marks in prompts.items():
        prefixes.enter(user, marks)
    for user, marks in prompts.items():
        prefixes.leave(user, marks)
    assert prefixes.blocks == prefixes.num_nodes == 0


def test_a_chain_that_others_left_is_one_node_again() -> None:
    prefixes = Prefixes[int]()
    long = marks_of(range(4000))
    prefixes.enter(0, long)
    for user in range(1, 200):
        marks = marks_of([*range(20 * user), *range(-100, 0)])
        prefixes.enter(user, marks)
        prefixes.leave(user, marks)
    assert prefixes.num_nodes == 1
