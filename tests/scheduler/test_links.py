"""Whose call it is: one gateway stream's words and decisions do not touch another's calls."""

import pytest

from services.common.errors import Failure, Reason
from services.common.registry import Leadership
from services.scheduler.config import SchedulerSection
from services.scheduler.events import CallSubmitted, GatewayLost
from services.scheduler.term import Term
from tests.scheduler.stage import MODEL, Stage


def test_a_live_call_of_another_gateway_is_refused_to_the_newcomer_alone() -> None:
    stage = Stage(lookahead_calls=0)
    stage.join()
    for call_id in ("running", "queued"):
        stage.submit(call_id, link=1)
        stage.submit(call_id, link=2)
    assert [(reject.link, reject.reason) for reject in stage.rejected] == [(2, Reason.CALL_EXISTS)] * 2
    assert {call.link for call in stage.core.calls.values()} == {1}
    stage.finish("running", link=1)
    assert [(place.call_id, place.link) for place in stage.placed] == [("running", 1), ("queued", 1)]


def test_what_another_gateway_says_of_a_call_is_ignored() -> None:
    stage = Stage()
    stage.join()
    stage.submit("c1", link=2, prompt=500)
    stage.lose("c1", attempt=1, link=1)
    stage.finish("c1", link=1, completed=False)
    assert ("p", "c1") in stage.core.calls
    assert len(stage.placed) == 1


def test_a_call_can_be_announced_by_another_gateway_once_its_own_is_lost() -> None:
    stage = Stage()
    stage.join()
    stage.submit("c1", link=1)
    stage.feed(GatewayLost(1))
    stage.submit("c1", link=2, attempt=1, worker_id="w")
    assert stage.rejected == []
    assert stage.core.calls["p", "c1"].link == 2


def submitted(link: int) -> CallSubmitted:
    return CallSubmitted(link, "p", "c", MODEL, prompt_tokens=16, max_tokens=16)


async def test_what_a_stream_said_before_it_was_replaced_is_void() -> None:
    term = Term(SchedulerSection(), Leadership(1))
    old = term.open("gateway")
    new = term.open("gateway")
    term.hear(old, submitted(old.link))
    assert not term.core.calls
    term.hear(new, submitted(new.link))
    assert len(term.core.calls) == 1
    term.end()


async def test_a_term_that_is_over_opens_no_stream() -> None:
    term = Term(SchedulerSection(), Leadership(1))
    term.end()
    with pytest.raises(Failure) as raised:
        term.open("gateway")
    assert raised.value.reason is Reason.NOT_LEADER
