"""Stores: what is written becomes readable when it is whole, and gives its room back when it is not."""

import pytest

from services.common.errors import Reason
from services.kvpool import events
from services.kvpool.actions import NO_ROOM, AnswerCommit, Refuse
from services.kvpool.events import User
from tests.kvpool.stage import Stage, chain


def used(stage: Stage) -> int:
    return stage.core.status().tiers[0].used_bytes // 64


def test_a_stored_chain_is_found_by_its_longest_prefix() -> None:
    stage = Stage()
    assert stage.store("abcd") == 4
    assert stage.held("abcd") == (4, 4)
    assert stage.held("abxd") == (2, 2)
    assert stage.held("xbcd") == (0, 0)
    assert len(stage.acquire("l", "abcdef").offsets) == 4


def test_a_block_is_readable_when_every_shard_is_committed() -> None:
    stage = Stage()
    first = stage.begin("ab", name="two", shard=0)
    second = stage.begin("ab", name="two", shard=1)
    assert first.offsets == second.offsets, "shards of a block share its place"
    assert stage.write("ab", first, name="two", shard=0).num_blocks == 0
    assert stage.held("ab", "two") == (0, 0)
    assert stage.write("ab", second, name="two", shard=1).num_blocks == 2
    assert stage.held("ab", "two") == (2, 2)


def test_a_block_whose_other_shards_never_come_is_given_up() -> None:
    stage = Stage()
    stage.write("ab", stage.begin("ab", name="two", shard=0), name="two", shard=0)
    assert used(stage) == 2
    stage.wait(6)
    assert used(stage) == 0


def test_a_second_writer_of_the_same_blocks_is_not_wanted() -> None:
    stage = Stage()
    first = stage.begin("ab", "p")
    assert stage.begin("ab", "q").reservation_id == ""
    assert stage.write("ab", first).num_blocks == 2
    later = stage.begin("abc", "q")
    assert list(later.offsets[:2]) == [NO_ROOM, NO_ROOM]
    assert later.offsets[2] != NO_ROOM


def test_a_reservation_lapses_and_cannot_be_committed_then() -> None:
    stage = Stage()
    answer = stage.begin("abc", seconds=2)
    assert used(stage) == 3
    stage.wait(2)
    assert used(stage) == 0
    refused = stage.write("abc", answer)
    assert isinstance(refused, Refuse)
    assert refused.reason is Reason.LEASE_LOST
    assert stage.held("abc") == (0, 0)


def test_commit_is_idempotent_and_abort_gives_room_back() -> None:
    stage = Stage()
    answer = stage.begin("ab")
    sums = tuple(int.from_bytes(key[:7], "big") * 8 for key in chain("ab"))
    stage.write("ab", answer)
    again = stage.ask(events.Commit(stage.request(), answer.reservation_id, sums), AnswerCommit)
    assert again.num_blocks == 2
    other = stage.begin("xyz")
    stage.feed(events.Abort(other.reservation_id))
    stage.feed(events.Abort(other.reservation_id))
    assert used(stage) == 2


def test_what_follows_a_block_that_is_still_being_stored_becomes_readable_behind_it() -> None:
    stage = Stage()
    head = stage.begin("ab")
    tail = stage.begin("abcd", start=2)
    assert stage.write("abcd", tail, start=2).num_blocks == 2
    assert stage.held("abcd") == (0, 0)
    stage.write("ab", head)
    assert stage.held("abcd") == (4, 4)


def test_what_follows_a_block_that_never_comes_is_given_up_with_it() -> None:
    stage = Stage()
    head = stage.begin("ab")
    stage.write("abcd", stage.begin("abcd", start=2), start=2)
    stage.feed(events.Abort(head.reservation_id))
    assert used(stage) == 0


def test_blocks_without_their_prefix_are_not_stored() -> None:
    stage = Stage()
    assert stage.begin("abcd", start=2).reservation_id == ""
    stage.store("ab")
    wrong = events.BeginStore(stage.request(), "one", chain("abcd")[2:], chain("ab")[1], 7, 0, User("p"), 5.0)
    stage.feed(wrong)
    assert stage.answers.pop(wrong.request).reservation_id == "", "a parent at another position"


def test_storing_is_refused_for_what_is_not_known() -> None:
    stage = Stage()
    request = stage.request()
    refused = stage.ask(events.BeginStore(request, "none", chain("a"), b"", 0, 0, User("p"), 5.0), Refuse)
    assert refused.reason is Reason.MODEL_NOT_FOUND
    answer = stage.begin("ab")
    wrong = stage.ask(events.Commit(stage.request(), answer.reservation_id, (1,)), Refuse)
    assert wrong.reason is Reason.INVALID_ARGUMENT
    shard = stage.ask(events.BeginStore(stage.request(), "one", chain("a"), b"", 0, 1, User("p"), 5.0), Refuse)
    assert shard.reason is Reason.INVALID_ARGUMENT


def test_a_namespace_whose_blocks_do_not_fit_is_refused() -> None:
    stage = Stage(dram_blocks=4)
    refused = stage.ask(events.Attach(stage.request(), "huge", 2, 200, 16), Refuse)
    assert refused.reason is Reason.INVALID_ARGUMENT


@pytest.mark.parametrize("name", ["one", "two", "big"])
def test_a_full_pool_takes_what_fits_and_evicts_for_it(name: str) -> None:
    stage = Stage(dram_blocks=12)
    stage.store("abcdefgh", "p")
    stage.feed(events.ReleaseProgram("p"))
    assert stage.store("qrst", "q", name=name) == 4
    assert stage.store("qrstuvwxyz0123456789", "q", name=name) == (0 if name == "big" else 8)
