"""Programs a page at a time, the newest first. What begins or ends between two pages moves no other program.

A page ends at a time on the clock of whoever leads: what a token says holds in its term alone.
"""

import heapq
from collections.abc import Iterable, Sequence
from math import inf

from services.common.errors import Failure, Reason
from services.scheduler.records import Program


def page_of(programs: Iterable[Program], term: int, token: str, limit: int) -> tuple[Sequence[Program], str]:
    """So many programs behind where a page ended, and the token of where this one does; empty: at the last program.
    Raises Failure for a token that is none of this term."""
    end = _read(token, term)
    page = heapq.nlargest(limit + 1, (program for program in programs if _place(program) < end), key=_place)
    if len(page) <= limit:
        return page, ""
    page.pop()
    return page, f"{term} {page[-1].started!r} {page[-1].program_id}"


def _place(program: Program) -> tuple[float, str]:
    return program.started, program.program_id


def _read(token: str, term: int) -> tuple[float, str]:
    if not token:
        return inf, ""
    said, _, place = token.partition(" ")
    started, _, program_id = place.partition(" ")
    try:
        if int(said) == term:
            return float(started), program_id
    except ValueError:
        raise Failure(Reason.INVALID_ARGUMENT, f"page_token: not {token[:100]!r}", "page_token") from None
    message = f"page_token: of term {said}, and this is term {term}; ask from the first page on"
    raise Failure(Reason.INVALID_ARGUMENT, message[:200], "page_token")
