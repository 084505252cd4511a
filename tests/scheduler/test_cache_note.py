"""Why a call finds in its worker's cache what it finds there."""

from collections.abc import Sequence

from services.common.cache_note import NO_NOTE, CacheNote
from services.scheduler.events import CacheReported, ProgramEnded
from services.scheduler.translation import decision_of
from tests.scheduler.stage import Stage

BLOCKS = range(100, 164)
TOKENS = 16 * len(BLOCKS)
OTHERS = range(500, 564)


def ran(
    stage: Stage, call_id: str, program_id: str = "p", blocks: Sequence[int] = BLOCKS, *, reported: bool = True
) -> str:
    """A call that ran alone, its worker having told what it has then; the worker."""
    stage.submit(call_id, program_id, blocks=blocks)
    place = stage.running[program_id, call_id]
    if reported:
        stage.cache(place.worker_id, blocks)
    stage.finish(call_id, program_id)
    return place.worker_id


def note(stage: Stage, call_id: str, program_id: str = "p") -> CacheNote:
    """Of the call's last placement."""
    return stage.running[program_id, call_id].cache


def test_a_first_call_has_lost_nothing() -> None:
    stage = Stage()
    stage.join()
    stage.submit("a", blocks=BLOCKS)
    assert note(stage, "a") == NO_NOTE


def test_what_is_still_there_is_expected() -> None:
    stage = Stage()
    stage.join()
    ran(stage, "a")
    stage.submit("b", blocks=[*BLOCKS, 900])
    assert note(stage, "b") == CacheNote(expected_tokens=TOKENS)


def test_a_prompt_on_a_worker_that_was_not_chosen_is_moved() -> None:
    stage = Stage()
    stage.join("v")
    stage.join("w")
    had = ran(stage, "a")
    stage.submit("busy", "q", blocks=BLOCKS)
    assert stage.running["q", "busy"].worker_id == had
    stage.submit("b", blocks=BLOCKS)
    assert stage.running["p", "b"].worker_id != had
    assert note(stage, "b") == CacheNote(0, TOKENS, "moved", had)


def test_what_was_evicted_is_laid_at_the_door_of_whose_call_came_last() -> None:
    stage = Stage()
    stage.join()
    ran(stage, "a")
    ran(stage, "x", "earlier", range(300, 310))
    stage.submit("y", "q", blocks=OTHERS)
    stage.feed(CacheReported("w", stored=OTHERS, removed=BLOCKS[16:]))
    stage.finish("y", "q")
    ran(stage, "z", "later", range(400, 410))
    stage.submit("b", blocks=[*BLOCKS, 900])
    assert note(stage, "b") == CacheNote(16 * 16, TOKENS - 16 * 16, "evicted", "w", "q")


def test_what_a_worker_has_not_told_yet_was_not_evicted() -> None:
    stage = Stage()
    stage.join()
    ran(stage, "a", reported=False)
    stage.submit("b", blocks=BLOCKS)
    assert note(stage, "b") == NO_NOTE


def test_a_lost_worker_took_the_prompt_with_it() -> None:
    for back in ("w", "v"):
        stage = Stage()
        stage.join()
        ran(stage, "a")
        stage.lose_worker("w")
        stage.join(back)
        stage.submit("b", blocks=BLOCKS)
        assert note(stage, "b") == CacheNote(0, TOKENS, "worker_lost", "w")


def test_a_cache_that_was_reset_has_evicted_all() -> None:
    stage = Stage()
    stage.join()
    ran(stage, "a")
    stage.feed(CacheReported("w", reset=True))
    stage.submit("b", blocks=BLOCKS)
    assert note(stage, "b") == CacheNote(0, TOKENS, "evicted", "w", "p")


def test_only_what_the_prompt_shares_with_earlier_ones_can_be_lost() -> None:
    stage = Stage()
    stage.join()
    ran(stage, "a")
    stage.submit("x", "q", blocks=OTHERS)
    stage.feed(CacheReported("w", removed=BLOCKS))
    stage.finish("x", "q")
    stage.submit("b", blocks=[*BLOCKS[:32], *range(700, 732)])
    assert note(stage, "b") == CacheNote(0, 16 * 32, "evicted", "w", "q")


def test_branches_of_a_program_are_remembered_beside_each_other() -> None:
    stage = Stage()
    stage.join()
    ran(stage, "a", blocks=BLOCKS)
    ran(stage, "b", blocks=OTHERS)
    stage.feed(CacheReported("w", removed=[*BLOCKS, *OTHERS]))
    for call_id, blocks in (("c", BLOCKS), ("d", OTHERS)):
        stage.submit(call_id, blocks=blocks)
        assert note(stage, call_id).lost_tokens == TOKENS
        stage.finish(call_id)


def test_other_programs_prompts_are_nobodys_loss() -> None:
    stage = Stage()
    stage.join()
    ran(stage, "a", "q")
    stage.feed(CacheReported("w", removed=BLOCKS))
    stage.submit("b", "p", blocks=BLOCKS)
    assert note(stage, "b") == NO_NOTE


def test_the_time_in_the_lobby_is_told() -> None:
    stage = Stage(admission="program_cap", admission_params={"programs": 1}, lookahead_calls=0)
    stage.join("w", seqs=8)
    stage.submit("a", "p")
    stage.run(1.0)
    stage.submit("b", "q")
    stage.run(3.0)
    stage.finish("a", "p")
    stage.feed(ProgramEnded("p"))
    assert note(stage, "b", "q") == CacheNote(paused_seconds=3.0)


def test_a_placement_tells_its_gateway() -> None:
    stage = Stage()
    stage.join()
    ran(stage, "a")
    stage.submit("x", "q", blocks=OTHERS)
    stage.feed(CacheReported("w", removed=BLOCKS))
    stage.finish("x", "q")
    stage.submit("b", blocks=BLOCKS)
    told = decision_of(stage.running["p", "b"]).placement.cache
    assert (told.lost_tokens, told.cause, told.worker_id, told.by_program) == (TOKENS, "evicted", "w", "q")
