"""Programs are listed a page at a time, and each that is there all the time is in one of them."""

import pytest

from services.common.errors import Failure, Reason
from services.scheduler.listing import page_of
from services.scheduler.records import Program

TERM = 3


def program(number: int) -> Program:
    """Some begin at the same time."""
    started = number // 3 / 7
    return Program(f"p{number:02}", "tenant", started, started)


def test_pages_hold_every_program_once_the_newest_first() -> None:
    programs = [program(number) for number in range(25)]
    page, token = page_of(programs, TERM, "", 10)
    listed = list(page)
    while token:
        page, token = page_of(programs, TERM, token, 10)
        listed += page
    assert listed == programs[::-1]


def test_what_begins_or_ends_between_two_pages_moves_no_other() -> None:
    programs = [program(number) for number in range(25)]
    first, token = page_of(programs, TERM, "", 10)
    ended = {"p24", "p15", "p08"}  # in the page, its last one, behind it
    left = [each for each in programs if each.program_id not in ended]
    rest, token = page_of([*left, program(99)], TERM, token, 100)
    assert [each.program_id for each in first] == [f"p{number:02}" for number in range(24, 14, -1)]
    assert [each.program_id for each in rest] == [f"p{number:02}" for number in range(14, -1, -1) if number != 8]
    assert token == ""


def test_a_full_page_that_holds_the_last_program_is_the_last_page() -> None:
    programs = [program(number) for number in range(10)]
    assert page_of(programs, TERM, "", 10) == (programs[::-1], "")


def test_ids_may_hold_anything() -> None:
    programs = [Program(program_id, "", 1.5, 1.5) for program_id in ("a b", " ", "1.5 c", "d")]
    first, token = page_of(programs, TERM, "", 2)
    rest, _ = page_of(programs, TERM, token, 2)
    assert {each.program_id for each in (*first, *rest)} == {each.program_id for each in programs}


@pytest.mark.parametrize("token", ["next please", f"{TERM}", f"{TERM} soon p1", "1.5 p1", "nan"])
def test_a_token_that_is_none_is_refused(token: str) -> None:
    with pytest.raises(Failure) as caught:
        page_of([], TERM, token, 10)
    assert (caught.value.reason, caught.value.field) == (Reason.INVALID_ARGUMENT, "page_token")


def test_a_token_of_another_term_is_refused() -> None:
    """Its time is one of another clock."""
    programs = [program(number) for number in range(25)]
    _, token = page_of(programs, TERM, "", 10)
    with pytest.raises(Failure, match=f"term {TERM}.*term {TERM + 1}") as caught:
        page_of(programs, TERM + 1, token, 10)
    assert (caught.value.reason, caught.value.field) == (Reason.INVALID_ARGUMENT, "page_token")
