"""What leaves, in which order, and where it goes."""

from services.kvpool import events
from services.kvpool.actions import AnswerDemote, WriteDisk
from services.kvpool.changes import short
from services.kvpool.events import User
from tests.kvpool.stage import Stage, chain


def demote(stage: Stage, program: str = "p") -> int:
    return stage.ask(events.Demote(stage.request(), program), AnswerDemote).num_blocks


def test_the_last_blocks_of_what_was_used_least_recently_leave_first() -> None:
    stage = Stage(dram_blocks=6)
    stage.call("abc", "p")
    stage.wait(10)
    stage.call("xyz", "q")
    stage.wait(10)
    assert stage.store("vw", "r") == 2
    assert stage.held("abc") == (1, 1)
    assert stage.held("xyz") == (3, 3)


def test_what_a_newer_chain_does_not_extend_is_superseded_and_leaves_first() -> None:
    stage = Stage(dram_blocks=8)
    stage.call("ab", "old")
    stage.wait(10)
    stage.call("sxyz", "p")
    stage.call("svw"[:2], "p")  # the newest chain leaves "xyz" behind
    stage.wait(10)
    stage.store("mnop", "q")
    assert stage.held("sxyz")[0] < 4
    assert stage.held("sv") == (2, 2)
    assert stage.held("ab") == (2, 2)
    assert stage.core.status().evictions.keys() == {"superseded"}


def test_threads_of_a_program_keep_a_chain_each() -> None:
    stage = Stage(dram_blocks=6)
    stage.call("ab", "p", thread="one")
    stage.call("xy", "p", thread="two")
    stage.call("uv", "q")
    stage.call("uw", "q")
    assert stage.held("ab") == stage.held("xy") == (2, 2)
    assert stage.held("uv") == (1, 1)


def test_a_released_program_leaves_first_but_not_what_others_share() -> None:
    stage = Stage(dram_blocks=6)
    stage.call("sab", "p")
    stage.call("sx", "q")
    stage.call("m", "r")
    stage.feed(events.ReleaseProgram("p"))
    stage.wait(1)
    for text in ("n", "o", "u"):
        stage.store(text, "t")
    stage.wait(1)
    assert stage.held("sab") == (1, 1)
    assert stage.held("sx") == (2, 2)
    assert stage.core.status().evictions == {"released": 2}


def test_a_shared_prefix_outlives_its_users() -> None:
    stage = Stage(dram_blocks=6)
    stage.call("sa", "p")
    stage.call("sb", "q")
    for program in ("p", "q"):
        stage.feed(events.ReleaseProgram(program))
    stage.store("wxyz", "r")
    assert stage.held("s") == (1, 1)
    assert stage.held("sa") == (1, 1)


def test_what_is_stored_for_a_program_after_its_release_is_nobodys() -> None:
    stage = Stage(dram_blocks=4)
    stage.call("ab", "q")
    stage.acquire("l", "xy", "p")
    late = stage.begin("xy", "p")
    stage.feed(events.ReleaseProgram("p"))
    stage.write("xy", late)
    stage.release("l")
    assert stage.held("xy") == (2, 2)
    stage.store("vw", "r")
    assert stage.held("ab") == (2, 2)
    assert stage.held("xy") == (0, 0)


def test_running_programs_leave_last() -> None:
    stage = Stage(dram_blocks=4)
    stage.call("ab", "p")
    stage.wait(1)
    stage.call("xy", "q")
    lease = stage.acquire("l", "ab", "p")
    assert len(lease.offsets) == 2
    stage.wait(1)
    stage.release("l")
    stage.acquire("m", "xy", "q")
    stage.release("m")
    stage.feed(events.FinishCall("one", User("q")))
    stage.store("vw", "r")
    assert stage.held("ab") == (2, 2), "its call still runs"
    assert stage.held("xy") == (0, 0)


def test_leased_blocks_never_leave() -> None:
    stage = Stage(dram_blocks=4)
    stage.call("abc", "p")
    stage.acquire("l", "abc", "q")
    assert stage.store("wxyz", "r") == 1
    assert stage.held("abc") == (3, 3)
    stage.wait(10)
    assert stage.store("wxyz", "r") == 3


def test_a_nearly_full_memory_is_written_to_disk_ahead_of_need() -> None:
    stage = Stage(dram_blocks=10, ssd_blocks=20, prompt=False, high_fraction=0.8, low_fraction=0.5)
    stage.call("abcdefgh", "p")
    assert not stage.jobs, "not above the mark yet"
    stage.wait(1)
    stage.call("x", "q")
    (job,) = stage.jobs.values()
    assert isinstance(job, WriteDisk)
    assert [block.position for block in job.blocks] == [4, 5, 6, 7]
    assert stage.held("abcdefgh") == (8, 8), "readable until it is written"
    stage.finish_all()
    assert stage.held("abcdefgh") == (8, 4)


def test_what_is_used_while_it_is_written_stays_in_memory_too() -> None:
    stage = Stage(dram_blocks=10, ssd_blocks=20, prompt=False)
    stage.call("abcd", "p")
    assert demote(stage) == 4
    stage.wait(1)
    stage.acquire("l", "abcd", "p")
    stage.finish_all()
    assert stage.held("abcd") == (4, 4)
    assert stage.core.status().tiers[1].num_blocks == 4


def test_a_failed_write_keeps_blocks_in_memory() -> None:
    stage = Stage(dram_blocks=10, ssd_blocks=20, prompt=False)
    stage.call("abcd", "p")
    demote(stage)
    stage.finish_all(num_ok=1)
    assert stage.held("abcd") == (4, 0)
    assert stage.core.status().tiers[0].num_blocks == 3


def test_demotion_leaves_what_others_use_in_memory() -> None:
    stage = Stage(dram_blocks=10, ssd_blocks=20)
    stage.call("sab", "p")
    stage.call("sx", "q")
    assert demote(stage, "p") == 3
    assert stage.held("sab") == (3, 1)
    assert stage.held("sx") == (2, 2)


def test_the_disk_drops_what_is_worth_less_and_not_what_is_worth_more() -> None:
    stage = Stage(dram_blocks=10, ssd_blocks=4)
    stage.call("abcd", "p")
    demote(stage, "p")
    stage.wait(5)
    stage.call("xyz", "q")
    assert demote(stage, "q") == 3
    assert stage.held("abcd") == (1, 0)
    assert stage.held("xyz") == (3, 0)


def test_what_lies_above_blocks_that_are_on_disk_alone_can_leave_too() -> None:
    stage = Stage(dram_blocks=3, ssd_blocks=4, high_fraction=1.0)
    stage.call("aaa", "p")
    stage.call("aa", "p")
    demote(stage)
    stage.call("a", "p")
    stage.feed(events.ReleaseProgram("p"))
    assert stage.store("zzz", "q") == 3


def test_a_full_disk_is_left_alone_for_a_while() -> None:
    stage = Stage(dram_blocks=10, ssd_blocks=20, disk_retry_seconds=10)
    stage.call("abcd", "p")
    stage.feed(events.DiskUnusable(full=True))
    assert demote(stage) == 0
    stage.wait(10)
    assert demote(stage) == 4


def test_a_failing_disk_is_given_up_with_what_it_holds() -> None:
    stage = Stage(dram_blocks=10, ssd_blocks=20)
    stage.call("abcd", "p")
    demote(stage)
    stage.call("xy", "q")
    stage.feed(events.DiskUnusable(full=False))
    assert stage.held("abcd") == (0, 0)
    assert stage.held("xy") == (2, 2)
    assert demote(stage, "q") == 0


def test_the_disk_is_there_after_a_restart_and_its_shape_with_it() -> None:
    first = Stage(dram_blocks=10, ssd_blocks=20)
    first.call("abcd", "p")
    demote(first)
    entries = list(first.disk.values())
    stage = Stage(dram_blocks=10, ssd_blocks=20, disk=entries)
    assert stage.held("abcd") == (4, 0)
    found = stage.acquire("l", "abcd")
    assert (len(found.offsets), found.num_from_ssd) == (4, 4)


def test_blocks_on_disk_whose_prefix_was_in_memory_are_found_again_behind_it() -> None:
    first = Stage(dram_blocks=10, ssd_blocks=20)
    first.call("abcd", "p")
    demote(first)
    tails = [entry for entry in first.disk.values() if entry.position >= 2]
    stage = Stage(dram_blocks=10, ssd_blocks=20, disk=tails)
    assert stage.held("abcd") == (0, 0)
    stage.store("ab", "p")
    assert stage.held("abcd") == (4, 2)


def test_followers_hear_of_blocks_by_tier_and_can_begin_anew() -> None:
    stage = Stage(dram_blocks=10, ssd_blocks=20, max_changes=6)
    start = stage.core.changes_since(0)
    assert start.reset
    stage.call("ab", "p")
    a, b = (short(key) for key in chain("ab"))
    everything = stage.core.changes_since(0)
    seen = everything.revision
    assert (list(everything.updates[0].dram), list(everything.updates[0].ssd)) == ([a, b], [])
    demote(stage)
    changes = stage.core.changes_since(seen)
    assert not changes.reset
    assert sorted(changes.updates[0].ssd) == sorted([a, b])
    stage.feed(events.DiskUnusable(full=False))
    gone = stage.core.changes_since(changes.revision)
    assert sorted(gone.updates[0].removed) == sorted([a, b])
    assert stage.core.changes_since(seen).reset is False
    stage.call("uvwxyz", "q")
    assert stage.core.changes_since(seen).reset, "forgotten"
    assert stage.core.changes_since(gone.revision + 10**6).reset, "of another life"


def test_the_programs_with_the_most_bytes_are_told() -> None:
    stage = Stage(dram_blocks=10)
    stage.call("abc", "p")
    stage.call("xy", "q")
    assert stage.core.status().top_programs == [("p", 3 * 64), ("q", 2 * 64)]


def test_programs_are_remembered_within_a_bound() -> None:
    stage = Stage(dram_blocks=10, max_programs=2, max_threads=2)
    for program in ("p", "q", "r"):
        stage.call(program, program)
    assert [program.program_id for program in stage.core.programs] == ["q", "r"]
    for thread in ("1", "2", "3"):
        stage.call(f"z{thread}", "r", thread=thread)
    assert len(stage.core.programs.chains("r")) == 2
