"""Reads: what an Acquire, a Prefetch or a peer gets, from where, and when."""

from math import inf

import pytest

from services.common.errors import Reason
from services.kvpool import events
from services.kvpool.actions import AnswerAcquire, AnswerPeerRead, AnswerPrefetch, Pull, ReadDisk, Refuse
from services.kvpool.changes import short
from services.kvpool.events import ReleasedLease, Replica, User
from tests.kvpool.stage import Stage, chain, content


def demote(stage: Stage, program: str = "p") -> None:
    event = events.Demote(stage.request(), program)
    stage.feed(event)
    del stage.answers[event.request]


def on_disk(text: str) -> Stage:
    """A chain that lies on disk alone; transfers are not prompt from then on."""
    stage = Stage(dram_blocks=10, ssd_blocks=20, disk_job_bytes=2 * 64)
    stage.call(text)
    demote(stage)
    assert stage.held(text) == (len(text), 0)
    stage.prompt = False
    return stage


def answer(stage: Stage, request: int) -> AnswerAcquire:
    found = stage.answers.pop(request)
    assert isinstance(found, AnswerAcquire)
    return found


def prefetch(stage: Stage, text: str, lease: str = "f", replica: Replica | None = None, seconds: float = 10.0) -> int:
    hashes = chain(text)
    handle = ("one", short(hashes[-1]), len(hashes), replica, lease, seconds)
    return stage.ask(events.Prefetch(stage.request(), *handle), AnswerPrefetch).num_blocks


def test_what_is_in_memory_is_given_at_once_without_the_held_blocks() -> None:
    stage = Stage()
    stage.store("abcd")
    found = stage.acquire("l", "abcdx", held=1)
    assert len(found.offsets) == 3
    assert tuple(found.checksums) == tuple(content(key, 1)[0] for key in chain("abcd")[1:])
    assert not stage.acquire("m", "ab", held=2).offsets
    assert not stage.acquire("n", "").offsets


def test_the_same_lease_gets_the_same_answer_and_counts_one_call() -> None:
    stage = Stage()
    stage.store("abcd")
    first = stage.acquire("l", "abcd")
    assert list(stage.acquire("l", "abcd").offsets) == list(first.offsets)
    program = stage.core.programs.get("p")
    assert program is not None
    assert (program.num_calls, program.num_running) == (1, 1)


def test_an_unknown_namespace_is_refused() -> None:
    stage = Stage()
    assert stage.ask(stage.acquiring("l", "ab", name="none"), Refuse).reason is Reason.MODEL_NOT_FOUND


def test_blocks_on_disk_are_brought_and_waited_for() -> None:
    stage = on_disk("abcdef")
    event = stage.acquiring("l", "abcdef")
    stage.feed(event)
    assert all(isinstance(job, ReadDisk) for job in stage.jobs.values())
    assert len(stage.jobs) == 3, "in parts"
    assert event.request not in stage.answers
    stage.finish_all()
    found = answer(stage, event.request)
    assert (len(found.offsets), found.num_from_ssd) == (6, 6)


def test_at_the_deadline_the_leading_blocks_are_given_and_the_rest_still_lands() -> None:
    stage = on_disk("abcdef")
    event = stage.acquiring("l", "abcdef", wait=1.0)
    stage.feed(event)
    jobs = sorted(stage.jobs)
    stage.finish(jobs[0])
    stage.finish(jobs[2])
    stage.wait(0.9)
    assert event.request not in stage.answers
    stage.wait(0.1)
    assert len(answer(stage, event.request).offsets) == 2
    stage.finish_all()
    assert stage.held("abcdef") == (6, 6)


def test_readers_of_the_same_blocks_share_a_transfer() -> None:
    stage = on_disk("abcd")
    first, second = stage.acquiring("l", "abcd", "p"), stage.acquiring("m", "abcdef", "q")
    stage.feed(first)
    num_jobs = len(stage.jobs)
    stage.feed(second)
    assert len(stage.jobs) == num_jobs
    stage.finish_all()
    assert len(answer(stage, first.request).offsets) == len(answer(stage, second.request).offsets) == 4


def test_a_reader_that_will_not_wait_starts_nothing() -> None:
    stage = on_disk("abcd")
    assert not stage.acquire("l", "abcd", wait=0.0).offsets
    assert not stage.jobs


def test_what_the_disk_cannot_read_is_gone_with_what_follows() -> None:
    stage = on_disk("abcd")
    event = stage.acquiring("l", "abcd")
    stage.feed(event)
    jobs = sorted(stage.jobs)
    stage.finish(jobs[0], num_ok=1)
    assert len(answer(stage, event.request).offsets) == 1
    stage.finish_all()
    assert stage.held("abcd") == (1, 1)
    assert stage.core.status().num_corrupt_blocks == 1


def test_a_corrupt_block_in_memory_is_served_from_its_copy_on_disk() -> None:
    stage = on_disk("abcd")
    stage.prompt = True
    stage.acquire("l", "abcd")
    stage.release("l", corrupt=(1,))
    assert stage.held("abcd") == (4, 1)
    found = stage.acquire("m", "abcd")
    assert (len(found.offsets), found.num_from_ssd) == (4, 1)


def test_a_corrupt_block_without_a_copy_is_dropped_and_others_read_on_undisturbed() -> None:
    stage = Stage(dram_blocks=4)
    stage.store("abcd")
    stage.acquire("l", "abcd", "p")
    stage.acquire("m", "abcd", "q")
    stage.release("l", corrupt=(2, 7))
    assert stage.held("abcd") == (2, 2)
    assert stage.store("xyz", "r") == 0, "the places are still being read"
    stage.release("m")
    assert stage.store("xyz", "r") == 3
    assert stage.core.status().num_corrupt_blocks == 1


def test_a_corrupt_report_about_an_older_copy_is_not_believed() -> None:
    stage = Stage()
    stage.store("ab")
    stage.acquire("l", "ab", "p")
    stage.acquire("m", "ab", "q")
    stage.release("l", corrupt=(1,))
    stage.store("ab")
    stage.release("m", corrupt=(1,))
    assert stage.held("ab") == (2, 2)


def test_blocks_that_are_being_stored_are_waited_for_as_far_as_they_are_expected() -> None:
    stage = Stage()
    unexpected = stage.acquire("k", "abc", "q")
    assert not unexpected.offsets
    event = stage.acquiring("l", "abcd", "q", expected=3)
    stage.feed(event)
    stage.store("ab", "p")
    assert event.request not in stage.answers
    stage.store("abc", "p")
    assert len(answer(stage, event.request).offsets) == 3


def test_expected_blocks_that_do_not_come_cost_the_wait_and_no_more() -> None:
    stage = Stage()
    event = stage.acquiring("l", "abcd", "q", expected=4, wait=1.5)
    stage.feed(event)
    stage.store("ab", "p")
    stage.wait(1.5)
    assert len(answer(stage, event.request).offsets) == 2


def test_the_wait_and_the_lease_are_bounded_by_the_pool() -> None:
    stage = Stage(dram_blocks=4, acquire_seconds=1.0, lease_seconds=3.0)
    stage.store("ab", "p")
    event = stage.acquiring("l", "abcd", expected=4, wait=1000.0, seconds=1000.0)
    stage.feed(event)
    stage.wait(1.0)
    assert len(answer(stage, event.request).offsets) == 2
    assert stage.store("wxyz", "q") == 2
    stage.wait(3.0)
    assert stage.core.status().num_leases == 0


def test_missing_blocks_are_pulled_from_the_replica_behind_what_is_here() -> None:
    stage = Stage(prompt=False)
    stage.store("ab")
    stage.peer["x"] = chain("abcdef")
    event = stage.acquiring("l", "abcdefgh", replica=("x", 6))
    stage.feed(event)
    (job,) = stage.jobs.values()
    assert isinstance(job, Pull)
    assert (job.first_block, tuple(job.prefix)) == (2, chain("abcdef"))
    stage.finish_all()
    found = answer(stage, event.request)
    assert (len(found.offsets), found.num_from_peer) == (6, 4)
    assert stage.core.status().num_pulled_blocks == 4


@pytest.mark.parametrize("num_ok", [0, 2])
def test_a_peer_that_fails_costs_what_did_not_come(num_ok: int) -> None:
    stage = Stage(prompt=False)
    stage.store("ab")
    stage.peer["x"] = chain("abcdef")
    event = stage.acquiring("l", "abcdef", replica=("x", 6))
    stage.feed(event)
    stage.finish_all(num_ok)
    assert len(answer(stage, event.request).offsets) == 2 + num_ok
    assert stage.store("abcdef") == 4 - num_ok


def test_a_replica_with_no_more_than_we_have_is_not_asked() -> None:
    stage = Stage(prompt=False)
    stage.store("abcd")
    stage.acquire("l", "abcdef", replica=("x", 4))
    assert not stage.jobs


def test_a_prefetch_brings_blocks_from_disk_and_its_lease_is_taken_over() -> None:
    stage = on_disk("abcd")
    assert prefetch(stage, "abcd") == 0
    stage.finish_all()
    assert stage.held("abcd") == (4, 4)
    assert "f" in stage.core.leases.held
    assert len(stage.acquire("l", "abcdx", prefetch="f").offsets) == 4
    assert set(stage.core.leases.held) == {"l"}


def test_a_call_that_comes_while_its_prefetch_runs_waits_for_it() -> None:
    stage = on_disk("abcd")
    prefetch(stage, "abcd")
    num_jobs = len(stage.jobs)
    event = stage.acquiring("l", "abcd", prefetch="f")
    stage.feed(event)
    assert len(stage.jobs) == num_jobs
    stage.finish_all()
    assert len(answer(stage, event.request).offsets) == 4


def test_a_prefetch_of_an_unknown_chain_asks_the_replica_which_it_is() -> None:
    stage = Stage()
    stage.peer["x"] = chain("abcd")
    assert prefetch(stage, "abcd", replica=Replica("other", "x", 4)) == 0
    assert stage.held("abcd") == (4, 4)
    assert prefetch(stage, "zz", "e") == 0
    assert prefetch(stage, "abcd", "g") == 4


def test_a_peer_gets_chain_places_and_checksums_under_a_lease() -> None:
    stage = on_disk("abcd")
    stage.prompt = True
    hashes = chain("abcd")
    event = events.PeerRead(stage.request(), "l", "one", hashes, 0, 4, 1, 1.0, 5.0)
    found = stage.ask(event, AnswerPeerRead)
    assert (found.first_block, found.parent_hash, tuple(found.hashes)) == (1, hashes[0], hashes[1:])
    assert tuple(found.checksums) == tuple(content(key, 1)[0] for key in hashes[1:])
    assert stage.core.resolve("one", short(hashes[-1]), 4) == list(hashes)
    assert stage.core.resolve("one", short(hashes[-1]), 3) == []
    by_tip = events.PeerRead(stage.request(), "m", "one", (), short(hashes[-1]), 4, 0, 1.0, 5.0)
    assert tuple(stage.ask(by_tip, AnswerPeerRead).hashes) == hashes
    stage.feed(events.Release((ReleasedLease("l"), ReleasedLease("m"))))
    assert stage.core.status().num_leases == 0


def test_a_caller_that_goes_away_leaves_no_lease() -> None:
    stage = on_disk("abcd")
    event = stage.acquiring("l", "abcd")
    stage.feed(event)
    stage.feed(events.CallerGone(event.request))
    stage.finish_all()
    assert event.request not in stage.answers
    assert stage.core.status().num_leases == 0


def test_hits_and_misses_are_counted() -> None:
    stage = on_disk("abcd")
    stage.prompt = True
    stage.acquire("l", "abcdefg", held=1)
    stage.acquire("m", "abcd", "q")
    status = stage.core.status()
    assert (status.num_requested_blocks, status.num_missed_blocks) == (4 + 6 + 4, 4 + 3)
    assert [tier.num_hit_blocks for tier in status.tiers] == [3, 4]


def test_returns_are_learned_from_finished_calls() -> None:
    stage = Stage()
    stage.call("ab", "p")
    stage.wait(7)
    stage.call("abc", "p")
    assert stage.gaps.observed == [("p", 7.0)]
    stage.feed(events.FinishCall("one", User("nobody")))
    stage.feed(events.ReleaseProgram("p"))
    assert stage.gaps.threads == [("p/one/", gap) for gap in (0.0, 7.0, 0.0, inf)]
